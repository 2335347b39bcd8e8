"""extract: the readable text of every page, with title and declared language; documents that came as text pass through."""

from __future__ import annotations

from collections import Counter

from cluster import storage
from cluster.shards import Marker
from curation.extract.extractor import Extractor
from curation.text.form import NORMALISED, ZAWGYI
from ray_jobs.run.graph import CRAWL
from ray_jobs.run.job import Job
from ray_jobs.work.shards import Task, run_one, run_parts, totals


class Extracted(Marker):
    forms: dict[str, int]  # documents that were put in the one form: `normalised`, or converted from `zawgyi`


def run(job: Job) -> dict:
    settings, crawl = job.recipe.extract, job.recipe.crawl
    limits = (settings.timeout_seconds, crawl.max_record_bytes, settings.max_nodes)
    markers = run_parts(job, CRAWL, _run_one, Extractor, settings.engine, *limits, settings.markup)
    forms = {name: sum(marker["forms"][name] for marker in markers) for name in (NORMALISED, ZAWGYI)}
    return {**totals(markers, docs_in=job.manifest(CRAWL)["docs_out"]), "forms": forms}


def _run_one(task: Task) -> Extracted:
    marker, (_, _, shard) = run_one(task), task
    found = Counter(storage.read_table(shard.part, ["form"])["form"].to_pylist())
    return {**marker, "forms": {name: found[name] for name in (NORMALISED, ZAWGYI)}}
