"""What a recipe names that only this machine has: it goes to a cluster without it, so it is said before anything is sent."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from cluster import storage, user_code
from ray_jobs.config import reader as recipes
from ray_jobs.config.recipe import Recipe
from ray_jobs.errors import UserError
from ray_jobs.run import contact, files, graph, hub, row_files

PLACES = ("train.base.model", "tokenize.tokenizer", "train.reward.model", "train.sft.select.embedding_model",
          "quality.model", "parallel.encoder", files.MODELS_OF_TASKS)  # fmt: skip
"""Keys that name a folder or a model of the Hugging Face hub; what is read as files each stage says."""


def as_image(recipe: str, mounted: Sequence[str] = (), overrides: Sequence[str] = ()) -> tuple[str, str | None]:
    """The name of a recipe, and its text where it is none that ships with Pinisi or has `overrides`. Raises UserError for one
    that cannot be read, or names files that the pods of a cluster do not have: not below the folders `mounted` there."""
    path = recipes.find(recipe)
    if path.resolve().parent == recipes.RECIPES.resolve() and not overrides:
        return path.stem, None
    name, text = recipes.portable(recipe, overrides)
    asked = Recipe.model_validate(yaml.safe_load(text)["base"])
    for sentence in left_behind(asked, shared_disk=False, mounted=mounted):
        raise UserError(f"{recipe}: {sentence}")
    return name, text


def needs(recipe: Recipe) -> list[str]:
    """The variables without which a job that nobody answers does not run `recipe`."""
    return [contact.VARIABLE] if contact.needed(recipe) and not recipe.fetch.contact else []


def left_behind(
    recipe: Recipe, *, shared_disk: bool, package: Path | None = None, mounted: Sequence[str] = ()
) -> Iterator[str]:
    """A sentence for each key whose files or functions lie on this machine alone. With a `shared_disk` absolute paths are taken
    to lie on one; without it those below the folders `mounted`. What lies in the folder `package` is sent."""
    stages = graph.enabled(recipe)
    where = "a disk that all nodes share, or a bucket" if shared_disk else "a bucket"
    for key in sorted({key for stage in stages for key in stage.files} | set(PLACES)):
        for place in _places(recipe, key):
            if not _local(place, model=key in PLACES) or (shared_disk and os.path.isabs(storage.local(place))):
                continue
            if any(Path(storage.local(place)).is_relative_to(folder) for folder in mounted):
                continue
            if not (package and (package / place.split("*")[0]).exists() and not os.path.isabs(place)):
                yield f"{key}: {place} is a path of this machine, which the nodes do not have; put it on {where}"
    for key in sorted({key for stage in stages for key in stage.functions}):
        value = recipes.lookup(recipe, key)
        for name in value if isinstance(value, list) else [value] if value else []:
            for file in user_code.files(name, os.getcwd())[:1]:
                installed = "site-packages" in file.parts or (package and file.is_relative_to(package))
                if not installed:
                    yield f"{key}: {name} lies in {file}, which the nodes do not have; install it there as a package"


def _places(recipe: Recipe, key: str) -> list[str]:
    if key == "sources":
        return [source.path for source in recipe.sources if source.type not in ("hf", "commoncrawl")]
    if key == "parallel.sources":
        return [source.path for source in recipe.parallel.sources if source.kind != "hf"]
    if key == "annotations":
        return [one.path for one in recipe.annotations if not row_files.is_hf(one.path)]
    if key == files.MODELS_OF_TASKS:
        return [task.model for task in (recipe.synthesize.tasks if recipe.synthesize else []) if task.model]
    value = recipes.lookup(recipe, key)
    return [one for one in (value if isinstance(value, list) else [value]) if one and not row_files.is_hf(one)]


def _local(place: str, model: bool) -> bool:
    """Whether it is a path here: no other storage, variable of the other machine, part of Pinisi, name of a shipped model or, of
    a `model`, one on the hub."""
    if not storage.is_local(place) or "${" in place or place in ("train", "lid.176"):
        return False
    return os.path.exists(place) or not (model and hub.is_name(place))
