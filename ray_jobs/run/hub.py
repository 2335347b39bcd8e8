"""What a recipe names on the Hugging Face hub: whether it is there and can be reached, asked once and in seconds.

The libraries that read it try again for half a minute, with a page of warnings, to say no.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Literal, NamedTuple

from cluster import storage
from ray_jobs.config import reader as recipes
from ray_jobs.config.recipe import Recipe
from ray_jobs.run import row_files
from ray_jobs.run.graph import BASE, CRAWL, PARALLEL_ALIGN, PARALLEL_PAIRS, QUALITY, SYNTHESIZE, TOKENIZE, Stage

SECONDS = 10.0  # that an answer may take
NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
READ = {
    "model": "config.json",
    "tokenizer": "tokenizer_config.json",
}  # which file of a model's folder says that it is here
Kind = Literal["data set", "model", "tokenizer"]


class Fault(NamedTuple):
    """`gone`: the hub says that there is no such thing; else nobody could be asked."""

    gone: bool
    why: str


def is_name(place: str) -> bool:
    """Whether `place` may be a name of the hub: OWNER/NAME, or one of the old models that have no owner, such as gpt2."""
    refused = ".." in place or "--" in place or place.endswith((".git", "."))
    return NAME.fullmatch(place) is not None and not refused


@cache
def fault(kind: Kind, name: str) -> Fault | None:
    """Why `name` cannot be read, None where it can or nothing speaks against it; a folder or a copy that lies here can."""
    if storage.exists(name) or _is_here(kind, name):
        return None
    if not is_name(name):
        return Fault(True, f"{name} is no folder here, and no name on the hub")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        if kind == "data set":
            api.dataset_info(name, timeout=SECONDS)
        else:
            api.model_info(name, timeout=SECONDS)
    except HFValidationError:
        return Fault(True, f"{name} is no folder here, and no name on the hub")
    except RepositoryNotFoundError:
        return Fault(
            True, f"the Hugging Face hub has no {kind} {name} for this user; correct the name, or set HF_TOKEN"
        )
    except HfHubHTTPError:  # it answers, and may have another answer when the stage asks
        return None
    except Exception as error:  # of two libraries: no network, a proxy, no answer in time, HF_HUB_OFFLINE
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Fault(
            False,
            f"the Hugging Face hub cannot be reached for the {kind} {name} ({lines[0]}); mend the network or HF_ENDPOINT, or "
            "name a folder that holds it",
        )
    return None


def faults(recipe: Recipe, chosen: Sequence[Stage], waiting: Sequence[Stage], elsewhere: bool) -> Iterator[str]:
    """A sentence for each name of the hub that stages will read in vain, with its key; where nobody can be asked for the first
    only. `elsewhere`: the run is on other machines, which may reach what this one does not."""
    for key, kind, name, optional in _named(recipe, chosen, waiting):
        found = fault(kind, name)
        if found is None or (optional and found.gone):
            continue
        if found.gone:
            yield f"{key}: {found.why}"
        elif not elsewhere:
            yield f"{key}: {found.why}"
            return


def _named(recipe: Recipe, chosen: Sequence[Stage], waiting: Sequence[Stage]) -> Iterator[tuple[str, Kind, str, bool]]:
    """(key, kind, name, whether it may be missing) of what stages that wait, or will train, read from the hub."""
    asked = {stage.name for stage in waiting}
    for source in recipe.sources:
        if source.type == "hf" and CRAWL in asked:
            yield f"sources: {source.name}", "data set", source.path.partition(":")[0], source.optional
    for pairs in recipe.parallel.sources:
        if pairs.kind == "hf" and PARALLEL_PAIRS in asked:
            name = pairs.path.removeprefix(row_files.HF).partition("@")[0]
            yield (
                f"sources: {pairs.name}",
                "data set",
                name if os.path.exists(name) else name.partition(":")[0],
                pairs.optional,
            )
    if QUALITY in asked and recipe.quality.model and storage.is_local(recipe.quality.model):
        yield "quality.model", "model", recipe.quality.model, False
    if SYNTHESIZE in asked and recipe.synthesize:
        for task in recipe.synthesize.tasks:
            if task.model and storage.is_local(task.model):
                yield f"synthesize: task {task.name}", "model", task.model, False
    if PARALLEL_ALIGN in asked and recipe.parallel.encoder and storage.is_local(recipe.parallel.encoder):
        yield "parallel.encoder", "model", recipe.parallel.encoder, False
    keys = {key for stage in chosen for key in stage.files if key.startswith("train.")}
    keys |= {key for stage in waiting for key in stage.files}
    models = {"language.model", "quality.model", "synthesize.tasks.model", "parallel.encoder"}
    for key in sorted(keys - {"sources", "parallel.sources", "dedup.indexes", *models}):
        value = recipes.lookup(recipe, key)
        value = [one.path for one in recipe.annotations] if key == "annotations" else value
        for pattern in value if isinstance(value, list) else [value] if isinstance(value, str) else []:
            if row_files.is_hf(pattern):
                name = pattern.removeprefix(row_files.HF).partition("@")[0]
                yield key, "data set", name if os.path.exists(name) else name.partition(":")[0], False
    if TOKENIZE in asked and recipe.tokenize.tokenizer != "train":
        yield "tokenize.tokenizer", "tokenizer", recipe.tokenize.tokenizer, False
    if BASE in asked and recipe.train and recipe.train.base.model and storage.is_local(recipe.train.base.model):
        yield "train.base.model", "model", recipe.train.base.model, False


def _is_here(kind: Kind, name: str) -> bool:
    """Whether an earlier download of a model, or of its tokenizer, lies on this machine."""
    if kind == "data set" or not is_name(name):
        return False
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, READ[kind]), str)
