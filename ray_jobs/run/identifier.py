"""The language identifier that a recipe names, in the form in which `curation.lid` loads it."""

from __future__ import annotations

from curation.lid.fasttext_file import is_named
from curation.lid.identify import ModelName
from ray_jobs.config.recipe import Recipe
from ray_jobs.run.files import location


def of(recipe: Recipe) -> str | ModelName:
    """`language.model`; of a fastText file with the map of its labels. Raises ValueError for labels of another model."""
    model, labels = recipe.language.model, recipe.language.labels
    if model != "lid.176" and is_named(model):
        return ModelName(location(model), tuple(sorted(labels.items())), tuple(recipe.languages))
    if labels:
        raise ValueError(
            f"language.labels is for a fastText file, and language.model {model} is none: its labels are the recipe's "
            "codes; take it out"
        )
    return location(model)
