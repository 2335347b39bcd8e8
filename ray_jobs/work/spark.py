"""The Spark session that the batch stages of one process share."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cluster.engines import embedded
from cluster.spark import session as spark
from ray_jobs.errors import UserError
from ray_jobs.run.job import Job

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_sessions: list[SparkSession] = []


@contextmanager
def on_spark(job: Job) -> Iterator[SparkSession]:
    """A session, started at its first use and kept for the stages that follow.

    Raises UserError when Java is missing, or the cluster has no room for Spark."""
    if not _sessions:
        folder = tempfile.TemporaryDirectory(prefix="pinisi-spark-")
        settings = job.recipe.cluster
        mode = settings.spark
        if mode == "auto":
            mode = "ray" if job.address else "local"
        if mode == "ray":
            embedded.start(job.address, settings.cpus)
        try:
            session = spark.session(
                mode,
                cores=settings.spark_cores if mode == "ray" else settings.cpus,
                memory=settings.spark_memory,
                temp_dir=folder.name,
                workers=settings.spark_workers,
                master=settings.spark_master,
            )
        except ValueError as error:
            raise UserError(str(error)) from None
        _sessions.append(session)
        atexit.register(folder.cleanup)
        atexit.register(stop)
    yield _sessions[0]


def stop() -> None:
    """End the session, so that its memory and its nodes are free for training."""
    if _sessions:
        spark.stop(_sessions.pop())
