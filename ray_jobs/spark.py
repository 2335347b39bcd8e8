"""The Spark session that the batch stages of one process share."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from cluster import spark
from ray_jobs.errors import UserError
from ray_jobs.run import Job

_sessions: dict[str, object] = {}


@contextmanager
def on_spark(job: Job) -> Iterator[object]:
    """A session, started at its first use and kept for the stages that follow. Raises UserError when Java is missing."""
    if "local" not in _sessions:
        folder = tempfile.TemporaryDirectory(prefix="pinisi-spark-")
        settings = job.recipe.cluster
        try:
            session = spark.session(
                mode="local", cores=settings.cpus, memory=settings.spark_memory, temp_dir=folder.name
            )
        except ValueError as error:
            raise UserError(str(error)) from None
        _sessions["local"] = session
        atexit.register(folder.cleanup)
        atexit.register(stop)
    yield _sessions["local"]


def stop() -> None:
    """End the session, so that its memory is free for training."""
    if session := _sessions.pop("local", None):
        spark.stop(session)
