"""language: which language each document is in; documents in other languages, or too uncertain ones, leave."""

from __future__ import annotations

from curation.language import identify
from ray_jobs.run import Job
from ray_jobs.shard_stage import run_kernel


def run(job: Job) -> dict:
    recipe = job.recipe
    trusted = sorted(source.name for source in recipe.sources if source.trust_language)
    return run_kernel(
        job,
        "extract",
        identify,
        recipe.language.model,
        list(recipe.languages),
        dict(recipe.language.min_score),
        trusted,
    )


if __name__ == "__main__":
    from ray_jobs.job import main

    main(__file__)
