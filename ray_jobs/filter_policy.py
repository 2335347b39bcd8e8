"""filter/policy: each language's rules turn signals into keep or drop; every broken rule goes to the ledger."""

from __future__ import annotations

from ray_jobs.run import Job
from ray_jobs.shard_stage import shards_of, totals
from ray_jobs.spark import on_spark


def run(job: Job) -> dict:
    from curation.policy import policy_kernel
    from curation.spark_job import run_shards

    kernel = policy_kernel(list(job.recipe.languages), job.recipe.filter.policy)
    with on_spark(job) as spark:
        shards = shards_of(job, "filter/signals")
        job.progress.start(len(shards), "shards")
        markers = run_shards(spark, kernel, shards, job.progress.set)
    return totals(markers, docs_in=job.manifest("filter/signals")["docs_out"])
