"""language: which language each document is in; documents in other languages, or too uncertain ones, leave."""

from __future__ import annotations

import time

from cluster import storage
from curation.lid.identify import Identifier, identify
from ray_jobs.config.recipe import Recipe
from ray_jobs.run import identifier
from ray_jobs.run.graph import EXTRACT
from ray_jobs.run.job import Job
from ray_jobs.work.shards import run_kernel, shards_of

TIMED_DOCUMENTS = 1024


def run(job: Job) -> dict:
    kernel = check(job.recipe)
    counts = run_kernel(job, EXTRACT, identify, *_settings(job.recipe))
    return {**counts, "model": job.recipe.language.model, "documents_per_core_second": _speed(job, kernel)}


def check(recipe: Recipe) -> Identifier:
    """Raises ValueError for a language that the model does not know, and for a model that is not there."""
    return identify(*_settings(recipe))


def _settings(recipe: Recipe) -> tuple:
    trusted = sorted(source.name for source in recipe.sources if source.trust_language)
    return (
        identifier.of(recipe),
        list(recipe.languages),
        dict(recipe.language.min_score),
        trusted,
        None,
        dict(recipe.language.min_share),
    )


def _speed(job: Job, kernel: Identifier) -> int | None:
    """Documents that one core labels in a second, measured on the first part that has any; None without documents."""
    for shard in shards_of(job, EXTRACT):
        with storage.open_parquet(shard.input) as parquet:
            batch = next((one for one in parquet.iter_batches(TIMED_DOCUMENTS) if one.num_rows), None)
        if batch is not None:
            kernel(batch.slice(0, 1))  # what is loaded or compiled once does not count
            start = time.process_time()
            kernel(batch)
            return round(batch.num_rows / max(time.process_time() - start, 1e-6))
    return None
