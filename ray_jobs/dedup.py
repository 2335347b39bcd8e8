"""dedup: one document per URL, one per set of near-duplicates, and no line that a whole bucket of documents repeats."""

from __future__ import annotations

import dataclasses

from cluster import storage
from ray_jobs.run import Job
from ray_jobs.shard_stage import totals
from ray_jobs.spark import on_spark, stop


def run(job: Job) -> dict:
    from curation.spark_job import DedupConfig, dedup

    parts = storage.glob(job.input("filter/policy", "part-*.parquet"))
    config = DedupConfig(**job.recipe.dedup.model_dump(), seed=job.recipe.seed)
    # what `spark-submit curation/spark_job.py --run-dir RUN --steps dedup` reads
    where = {"parts": parts, "out": job.path(), "ledger": job.ledger, "fingerprint": job.fingerprint}
    storage.write_json(job.path("_job.json"), {"config": dataclasses.asdict(config), **where})
    job.progress.start(len(parts), "shards")
    with on_spark(job) as spark:
        counts = dedup(spark, parts, job.path(), job.ledger, config, job.fingerprint, job.progress.set)
    stop()  # the last stage that needs it
    markers = [storage.read_json(uri) for uri in storage.glob(job.path("_shards", "*.json"))]
    return {**totals(markers, docs_in=job.manifest("filter/policy")["docs_out"]), "counts": counts}
