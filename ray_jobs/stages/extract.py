"""extract: the readable text of every page, with title and declared language; documents that came as text pass through."""

from __future__ import annotations

from collections import Counter

from cluster import storage
from curation.extract.extractor import Extractor
from curation.text.form import NORMALISED, ZAWGYI
from ray_jobs.run.graph import CRAWL
from ray_jobs.run.job import Job
from ray_jobs.work.shards import run_kernel


def run(job: Job) -> dict:
    settings, crawl = job.recipe.extract, job.recipe.crawl
    limits = (settings.timeout_seconds, crawl.max_record_bytes, settings.max_nodes)
    result = run_kernel(job, CRAWL, Extractor, settings.engine, *limits, settings.markup)
    return {**result, "forms": _forms(job)}


def _forms(job: Job) -> dict[str, int]:
    """How many documents were put in the one form: `normalised`, or converted from `zawgyi`."""
    found: Counter[str] = Counter()
    for part in storage.glob(job.path("part-*.parquet")):
        found.update(storage.read_table(part, ["form"])["form"].to_pylist())
    return {name: found[name] for name in (NORMALISED, ZAWGYI)}
