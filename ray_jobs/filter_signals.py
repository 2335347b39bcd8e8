"""filter/signals: normalise the text and measure every signal of every document; nothing is dropped here.

So a policy can be changed, tried and explained without reading the texts again.
"""

from __future__ import annotations

from ray_jobs.run import Job
from ray_jobs.shard_stage import shards_of, totals
from ray_jobs.spark import on_spark


def run(job: Job) -> dict:
    from curation.signals import signals_kernel
    from curation.spark_job import run_shards

    with on_spark(job) as spark:
        shards = shards_of(job, "language")
        job.progress.start(len(shards), "shards")
        markers = run_shards(spark, signals_kernel(list(job.recipe.languages)), shards, job.progress.set)
    return totals(markers, docs_in=job.manifest("language")["docs_out"])
