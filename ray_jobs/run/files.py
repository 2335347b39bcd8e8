"""The files from outside that a run reads: sources of documents, instructions, preferences."""

from __future__ import annotations

import hashlib
import os
import re

from cluster import storage
from ray_jobs.config import reader as recipes
from ray_jobs.config.curation import Source
from ray_jobs.config.parallel import LANG, ParallelSource
from ray_jobs.config.recipe import Recipe
from ray_jobs.errors import UserError
from ray_jobs.run import hub, row_files

DEDUP_INDEX = "dedup/index/_index.json"  # in the folder of a run
MODELS_OF_TASKS = "synthesize.tasks.model"  # of a list, so nothing looks it up as it stands
INDEX_FILES = ("_index.json", DEDUP_INDEX)


def of_source(source: Source) -> list[str]:
    """The files of one source, sorted; a Hugging Face data set is its own name, unless it may be missing and the hub has none.
    Raises UserError when there are none."""
    if source.type == "hf":
        fault = hub.fault("data set", source.path.partition(":")[0]) if source.optional else None
        return [] if fault and fault.gone else [source.path]
    found = expand(source.path)
    if not found and not source.optional:
        raise UserError(
            f"sources: {source.name}: no file matches {source.path}; correct the path or set `optional: true`"
        )
    return found


def of_parallel(source: ParallelSource) -> list[list[str]]:
    """The files of a source of parallel text, those that belong together in one list: two for a Moses text, in the order of
    `langs`. Raises UserError when there are none, or one of two is missing."""
    if source.kind == "hf" and source.optional:
        fault = hub.fault("data set", source.path.removeprefix(row_files.HF).partition("@")[0].partition(":")[0])
        if fault and fault.gone:
            return []
    patterns = of_sides(source)
    found = [expand(pattern) for pattern in patterns]
    if len(found) == 2:
        first, second = (
            {_wild(pattern, uri): uri for uri in some} for pattern, some in zip(patterns, found, strict=True)
        )
        if odd := sorted(set(first) ^ set(second)):
            uri = (first | second)[odd[0]]
            raise UserError(f"sources: {source.name}: {uri} has no file of the other language beside it")
        pairs = [[uri, second[wild]] for wild, uri in first.items()]
    else:
        pairs = [[uri] for uri in found[0]]
    if not pairs and not source.optional:
        raise UserError(
            f"sources: {source.name}: no file matches {source.path}; correct the path or set `optional: true`"
        )
    return pairs


def of_sides(source: ParallelSource) -> list[str]:
    """The globs of a source of parallel text: one, or one a side."""
    if LANG not in source.path:
        return [source.path]
    return [source.path.replace(LANG, str(place)) for place in source.places]


def _wild(pattern: str, uri: str) -> tuple[str, ...]:
    """What the signs of a glob stand for in the URI of a file that it has found."""
    signs = {"**": "(.*)", "*": "([^/]*)", "?": "([^/])"}
    pieces = re.split(r"(\*\*|\*|\?|\[[^\]]+\])", pattern.removeprefix("./"))
    regex = "".join(signs.get(one, "([^/])") if i % 2 else re.escape(one) for i, one in enumerate(pieces))
    found = re.search(f"{regex}(/.*)?$", uri)
    return tuple(group or "" for group in found.groups()) if found else (uri,)


def expand(pattern: str) -> list[str]:
    """The files of a glob, a folder or a name at any URI (`storage.files`); a Hugging Face data set (`hf:NAME`) is its own name.

    Raises UserError when the place cannot be read.
    """
    if row_files.is_hf(pattern):
        return [pattern]
    try:
        return list(storage.files(pattern))
    except unreadable() as error:
        raise UserError(f"{pattern}: cannot be listed: {error}") from None


def within(source: Source | ParallelSource, uri: str) -> str:
    """How a file of a source is named among its files, the same wherever they lie: the path below the folder that has no sign
    of a glob, or below the source itself when that is a folder. A file that the source names is its own last name."""
    if source.type in {"hf", "commoncrawl"} or not source.path or row_files.is_hf(uri):
        return uri
    _, root = storage.filesystem(source.path)
    _, path = storage.filesystem(uri)
    if path == root:
        return path.rsplit("/", 1)[-1]
    if not path.startswith(root.rstrip("/") + "/"):
        signs = r"[*?\[{]" if isinstance(source, ParallelSource) else r"[*?\[]"  # {lang} stands for two files
        root = re.split(signs, root, maxsplit=1)[0].rpartition("/")[0]
    return path.removeprefix(root).lstrip("/")


def unreadable() -> tuple[type[Exception], ...]:
    """What reading a place raises that a user has named: also for a kind of storage that is not installed or known."""
    return ImportError, ValueError, *storage.faults()


def named(patterns: list[str], key: str) -> list[str]:
    """The files of the globs of a recipe key, each once, sorted. Raises UserError for a glob that matches nothing."""
    found = {pattern: expand(pattern) for pattern in patterns}
    for pattern, names in found.items():
        if not names:
            raise UserError(f"{key}: no file matches {pattern}; correct the path")
    return sorted({name for names in found.values() for name in names})


def patterns(recipe: Recipe, key: str) -> list[str]:
    """The globs that a recipe key stands for; those of `dedup.indexes` are places of which one suffices."""
    if key == "sources":
        return [source.path for source in recipe.sources if source.type not in ("hf", "commoncrawl")]
    if key == "parallel.sources":
        found = [pattern for source in recipe.parallel.sources for pattern in of_sides(source)]
        return [pattern for pattern in found if not row_files.is_hf(pattern)]
    if key == "parallel.templates":
        folder = recipe.parallel.templates
        return [storage.join(folder, "*.yaml")] if folder else []
    if key == "annotations":
        return [one.path for one in recipe.annotations if not row_files.is_hf(one.path)]
    if key in ("quality.model", "parallel.encoder"):
        model = recipes.lookup(recipe, key)
        return [model] if model and storage.exists(model) else []
    if key == MODELS_OF_TASKS:
        tasks = recipe.synthesize.tasks if recipe.synthesize else []
        return sorted({task.model for task in tasks if task.model and storage.exists(task.model)})
    if key == "dedup.indexes":
        return [storage.join(uri, name) for uri in recipe.dedup.indexes for name in INDEX_FILES]
    if key in ("filter.word_lists", "filter.language_files"):
        folder = recipes.lookup(recipe, key)
        return [storage.join(folder, "*.yaml")] if folder else []
    if key == "filter.perplexity_models":
        folder = recipe.filter.perplexity_models
        return [folder.rstrip("/")] if folder else []
    if key == "language.model":
        model = recipe.language.model
        if model == "lid.176":
            return []
        return [model] if storage.is_file(model) else [storage.join(model, "model.json")]
    value = recipes.lookup(recipe, key)
    found = value if isinstance(value, list) else [value] if value else []
    return [pattern for pattern in found if not row_files.is_hf(pattern)]


def listing(recipe: Recipe, key: str) -> str | None:
    """A hash of names, sizes and times of change of the files that a recipe key points to; None where the key is unset.

    Raises UserError when the place cannot be read."""
    found = patterns(recipe, key)
    return state(found, key) if found else None


def state(found: list[str], key: str) -> str:
    """A hash of names, sizes and times of change of the files that match the globs of a recipe key. Raises UserError."""
    seen = hashlib.sha256()
    for pattern in found:
        try:
            details = storage.files(pattern)
        except unreadable() as error:
            raise UserError(f"{key}: {pattern} cannot be listed: {error}") from None
        for name in sorted(details):
            info = details[name]
            changed = info.get("mtime") or info.get("LastModified") or info.get("created") or ""
            bundled = f"{recipes.SAMPLE}{os.sep}"
            if name.startswith(bundled):  # part of the code, of which each attempt of a submitted run unpacks a copy
                name, changed = f"{recipes.BUNDLED}/{name.removeprefix(bundled)}", ""
            seen.update(f"{name}\0{info.get('size')}\0{changed}\0{info.get('ETag', '')}\n".encode())
    return seen.hexdigest()[:16]


def rows(pattern: str) -> list[dict]:
    """All rows of the files that match `pattern` (`ray_jobs.run.row_files`), in the order of names and rows.

    Raises UserError naming the file and line that is not a JSON object."""
    result = []
    found = expand(pattern)
    if not found:
        raise UserError(f"{pattern}: no file matches; correct the path")
    for uri in found:
        try:
            for where, row, wrong in row_files.read(uri):
                if row is None:
                    raise UserError(f"{where}: {wrong}")
                result.append(row)
        except ValueError as error:
            raise UserError(str(error)) from None
    return result


def location(model: str) -> str:
    """The name of a shipped model, or where a trained one lies: absolute, because workers have other working directories."""
    return model if model == "lid.176" or not storage.is_local(model) else os.path.abspath(storage.local(model))
