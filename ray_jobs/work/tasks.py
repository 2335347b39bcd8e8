"""Run a function over many items as Ray tasks: bounded in flight, retried when a worker dies, results in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from cluster import storage
from cluster.engines import embedded
from cluster.engines.on_ray import run_tasks
from ray_jobs.run.job import Job
from ray_jobs.work import alone, device

T = TypeVar("T")
R = TypeVar("R")


def map_on_ray(
    job: Job,
    function: Callable[[T], R],
    items: Sequence[T],
    unit: str = "shards",
    *,
    gpus: bool = False,
    finished: int = 0,
    most: int | None = None,
) -> list[R]:
    """`[function(item) for item in items]` on the cluster, one CPU each, or one GPU. The first error of a task is raised.

    `finished`: items whose work an earlier process has done, so that the time that is left is told without them. `most`: items
    at a time, where more would wait for something outside the cluster."""
    if not (job.ray or embedded.running()):
        job.progress.start(len(alone.of_share(items, job.share)), unit, 0 if job.share else finished)
        return alone.run(job, function, items, gpus=gpus)
    embedded.start(job.address, job.recipe.cluster.cpus)
    job.progress.start(len(items), unit, finished)
    return run_tasks(function, items, job.progress.set, gpus=gpus, most=most)


def written(outputs: Iterable[Sequence[str]]) -> int:
    """Of how many items all the files that they write are there."""
    outputs = list(outputs)
    there = storage.present(uri for files in outputs for uri in files)
    return sum(there.issuperset(files) for files in outputs)


def off_the_head(job: Job, function: Callable[[T], R], item: T) -> R:
    """`function(item)`, for work that holds a model: on a cluster as a task where models run, as a head has little memory."""
    if job.address is None and job.ray:
        return function(item)
    return map_on_ray(job, function, [item], "models", gpus=device.wants_gpus(job))[0]
