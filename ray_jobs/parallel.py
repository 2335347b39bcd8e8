"""Run a function over many items as Ray tasks: bounded in flight, retried when a worker dies, results in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cluster import embedded
from ray_jobs.run import Job


def map_on_ray(job: Job, function: Callable[[Any], dict], items: Sequence, unit: str = "shards") -> list[dict]:
    """`[function(item) for item in items]` on the cluster, one CPU each. The first error of a task is raised."""
    import ray

    embedded.start(job.address, job.recipe.cluster.cpus)
    remote = ray.remote(function).options(num_cpus=1, max_retries=3)
    job.progress.start(len(items), unit)
    limit = 2 * embedded.cpus()
    results: list = [None] * len(items)
    waiting: dict = {}
    for index, item in enumerate(items):
        if len(waiting) >= limit:
            _collect(ray, waiting, results, job)
        waiting[remote.remote(item)] = index
    while waiting:
        _collect(ray, waiting, results, job)
    return results


def _collect(ray, waiting: dict, results: list, job: Job) -> None:
    ready, _ = ray.wait(list(waiting), num_returns=1)
    for reference in ready:
        try:
            results[waiting.pop(reference)] = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ValueError):  # raised for the user; Ray would wrap its sentence in a trace
                raise ValueError(str(error.cause)) from error
            raise
        job.progress.advance()
