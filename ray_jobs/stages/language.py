"""language: which language each document is in; documents in other languages, or too uncertain ones, leave."""

from __future__ import annotations

from curation.lid.identify import identify
from ray_jobs.config.recipe import Recipe
from ray_jobs.run.files import location
from ray_jobs.run.graph import EXTRACT
from ray_jobs.run.job import Job
from ray_jobs.work.shards import run_kernel


def run(job: Job) -> dict:
    check(job.recipe)
    return run_kernel(job, EXTRACT, identify, *_settings(job.recipe))


def check(recipe: Recipe) -> None:
    """Raises ValueError for a language that the model does not know, and for a model that is not there."""
    identify(*_settings(recipe))


def _settings(recipe: Recipe) -> tuple:
    trusted = sorted(source.name for source in recipe.sources if source.trust_language)
    return (
        location(recipe.language.model),
        list(recipe.languages),
        dict(recipe.language.min_score),
        trusted,
        None,
        dict(recipe.language.min_share),
    )
