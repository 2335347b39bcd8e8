"""The languages in which a recipe asks long-context tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ray_jobs.config.given import given
from ray_jobs.config.recipe import Long, Recipe
from ray_jobs.errors import UserError
from ray_jobs.run import bases
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


def too_long(recipe: Recipe) -> Iterator[str]:
    """What is wrong with lengths that no model of the run will have read, as far as that is known before it trains."""
    long, train = given(recipe.evaluate.long), given(recipe.train)
    contexts = [train.context, *([train.long_context.context] if train.long_context else [])]
    if train.base.model:
        config = bases.config_of(str(train.base.model))
        contexts.append(int(getattr(config and config.get_text_config(), "max_position_embeddings", 1 << 30)))
    if not long.beyond and max(long.lengths) > max(contexts):
        yield (
            f"evaluate.long.lengths: {max(long.lengths):,} tokens are more than any model of this run reads "
            f"({max(contexts):,}); take it away, or set evaluate.long.beyond: true"
        )
