"""dedup: one document per URL, one per set of near-duplicates, no line that a whole bucket of documents repeats, and one
copy of each long repeat (`dedup.substring_min_chars`)."""

from __future__ import annotations

import dataclasses
import os
from typing import cast

from cluster import storage
from cluster.shards import Marker
from ray_jobs.run.graph import POLICY
from ray_jobs.run.job import Job
from ray_jobs.work.engine import close, on_engine
from ray_jobs.work.shards import totals


def run(job: Job) -> dict:
    from curation.dedup.schema import DedupConfig
    from curation.dedup.steps import dedup

    parts = storage.glob(job.input(POLICY, "part-*.parquet"))
    keys = job.recipe.dedup.model_dump()
    # absolute, because workers have other working directories
    keys["indexes"] = [os.path.abspath(uri) if storage.is_local(uri) else uri for uri in keys["indexes"]]
    config = DedupConfig(**keys, seed=job.recipe.seed)
    # what `spark-submit curation/spark_job.py --run-dir RUN --steps dedup` reads
    where = {"parts": parts, "out": job.path(), "ledger": job.ledger, "fingerprint": job.fingerprint}
    settings = {"config": dataclasses.asdict(config), "name": job.recipe.name, **where}
    storage.write_json(job.path("_job.json"), settings)
    made = (job.path("_work", "keys", "*.parquet"), job.path("_shards", "*.json"))  # of each shard one, then the other
    before = sum(len(storage.glob(pattern)) for pattern in made)
    job.progress.start(2 * len(parts), "shards read and written", before)
    with on_engine(job) as engine:
        arguments = (parts, job.path(), job.ledger, config, job.fingerprint, job.progress.set)
        counts = dedup(engine, *arguments, name=job.recipe.name)
    close()  # the last stage that needs it
    markers = [cast("Marker", storage.read_json(uri)) for uri in storage.glob(job.path("_shards", "*.json"))]
    return {**totals(markers, docs_in=job.manifest(POLICY)["docs_out"]), "counts": counts}
