"""The engine of a run's batch stages, `cluster.engine`: Spark, Ray, or this process alone. All give the same files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cluster.engines import embedded
from cluster.engines.exchange import Engine
from cluster.shards import Kernel, Marker, Shard, finished, run_shard
from ray_jobs.run.job import Job
from ray_jobs.work.spark import on_spark, stop


@contextmanager
def on_engine(job: Job) -> Iterator[Engine]:
    """The engine that the recipe names. Raises UserError when Spark is to be used and Java is missing."""
    engine_name = job.recipe.cluster.engine
    if job.share or not (job.ray or engine_name == "spark"):
        from ray_jobs.work.alone import Alone

        with Alone(job) as engine:
            yield engine
    elif engine_name == "ray":
        from cluster.engines.on_ray import Ray

        embedded.start(job.address, job.recipe.cluster.cpus)
        yield Ray()
    elif engine_name == "local":
        from cluster.engines.in_process import Local

        with Local() as engine:
            yield engine
    else:
        from cluster.engines.on_spark import Spark

        with on_spark(job) as session:
            yield Spark(session)


def close() -> None:
    """After the last stage that needs it: what the engine holds in memory goes, so that training has it."""
    stop()


def run_shards(job: Job, kernel: Kernel, shards: list[Shard]) -> list[Marker]:
    """`cluster.shards.run_shard` of each shard on the run's engine; finished ones are skipped. Returns the markers."""
    job.progress.start(len(shards), "shards", finished(shards))
    with on_engine(job) as engine:
        return engine.run(_shard(kernel), shards, job.progress.set)


def _shard(kernel: Kernel) -> Callable[[Shard], Marker]:
    return lambda shard: run_shard(kernel, shard)
