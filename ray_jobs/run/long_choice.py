"""The languages in which a recipe asks long-context tasks."""

from __future__ import annotations

from collections.abc import Sequence

from ray_jobs.config.recipe import Long
from ray_jobs.errors import UserError
from train.long import templates


def languages(settings: Long, recipe: Sequence[str]) -> list[str]:
    """Those that are named, else those of the recipe that have templates.

    Raises UserError for a language that is not the recipe's or has no templates."""
    known = templates.languages()
    for lang in settings.languages:
        if lang not in known or lang not in recipe:
            why = "has no templates" if lang in recipe else "is not in `languages`"
            there = ", ".join(one for one in recipe if one in known)
            raise UserError(f"evaluate.long.languages: {lang} {why}; there are {there}")
    return settings.languages or [lang for lang in recipe if lang in known]
