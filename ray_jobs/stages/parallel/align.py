"""parallel/align: pairs whose sides are far from each other for a model of sentence embeddings leave."""

from __future__ import annotations

from curation.parallel import embeddings
from ray_jobs.config.given import given
from ray_jobs.run.graph import PARALLEL_DECONTAMINATE, PARALLEL_DEDUP
from ray_jobs.run.job import Job
from ray_jobs.work import device
from ray_jobs.work.shards import run_kernel


def run(job: Job) -> dict:
    settings = job.recipe.parallel
    before = PARALLEL_DECONTAMINATE if job.has(PARALLEL_DECONTAMINATE) else PARALLEL_DEDUP
    encoder, least = given(settings.encoder), settings.min_alignment
    return run_kernel(job, before, embeddings.kernel, encoder, least, gpus=device.wants_gpus(job))
