"""extract: the readable text of every page, with title and declared language; documents that came as text pass through."""

from __future__ import annotations

from curation.extract.extractor import Extractor
from ray_jobs.run.graph import CRAWL
from ray_jobs.run.job import Job
from ray_jobs.work.shards import run_kernel


def run(job: Job) -> dict:
    settings, crawl = job.recipe.extract, job.recipe.crawl
    return run_kernel(
        job, CRAWL, Extractor, settings.engine, settings.timeout_seconds, crawl.max_record_bytes, settings.max_nodes
    )
