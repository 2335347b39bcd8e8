"""report: one HTML page of the run (ray_jobs/report)."""

from __future__ import annotations

from cluster import storage
from ray_jobs.report import page
from ray_jobs.run.job import Job


def run(job: Job) -> dict:
    uri = page.written(job.run_uri, job.recipe, list(job.stage.inputs))
    return {"bytes": storage.size(uri)}
