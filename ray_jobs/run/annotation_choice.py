"""What `annotations` of a recipe names: its files, and what their columns are; all of it looked at before the run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from curation.annotations import table
from curation.annotations.table import BOOLEAN, NUMBER, Annotation
from curation.signals.own_signals import NOTHING
from ray_jobs.config.recipe import Recipe
from ray_jobs.errors import UserError
from ray_jobs.run import files

KEY = "annotations"
MOST_FILES = 200  # of one entry whose columns are looked at before the run, evenly spread
THREADS = 32
OF_TEXTS = ("made_from", "made_from_lang", "made_by", "prompt", "prompt_hash", "model_licence")  # that models make
TAKEN = {*NOTHING.schema.names, "pii", "quality", *OF_TEXTS}
COLUMN_OF = {"source_id": "id"}  # how others call a key, where not as we do


def chosen(recipe: Recipe) -> list[Annotation]:
    """The entries with their files and types. Raises UserError for what cannot be used, by its first file."""
    taken: set[str] = set()
    found = []
    for entry in recipe.annotations:
        for name in entry.columns:
            if name in TAKEN | taken:
                raise UserError(
                    f"{KEY}: {entry.path}: {name!r} is a column already; give it another name, such as "
                    f"columns: {{their_{name}: {entry.columns[name]}}}"
                )
            if not re.fullmatch(r"[A-Za-z_][\w-]*", name):
                raise UserError(
                    f"{KEY}: {entry.path}: {name!r} is no name of a signal; name it yourself, such as columns: "
                    f"{{score: '{entry.columns[name]}'}}"
                )
        taken |= entry.columns.keys()
        named = tuple(map(_from_anywhere, files.named([entry.path], KEY)))
        key_column = entry.key_column or COLUMN_OF.get(entry.key, entry.key)
        try:
            types = table.types_of(named[0], table.schema_of(named[0]), entry.key, key_column, entry.columns)
        except ValueError as error:
            raise UserError(f"{KEY}: {error}") from None
        found.append(Annotation(entry.path, named, entry.key, key_column, entry.columns, types, tuple(entry.sources)))
    return found


def _from_anywhere(file: str) -> str:
    """A folder of a data set as an absolute path, because workers have other working directories."""
    name, at, split = file.removeprefix(table.HF).partition("@")
    return f"{table.HF}{os.path.abspath(name)}{at}{split}" if file.startswith("hf:") and os.path.exists(name) else file


def faults(recipe: Recipe) -> Iterator[str]:
    """One sentence of the first thing that is wrong with the annotations, and with bounds on them."""
    try:
        found = chosen(recipe)
        for one in found:
            _alike(one)
        types = {name: kind for one in found for name, kind in one.types.items()}
        _bounds(recipe, types)
        score = recipe.quality.signal
        if recipe.quality.engine == "signal" and types.get(score, NUMBER) != NUMBER:
            raise UserError(f"quality.signal: {score} is a {types[score]}; a number is needed")
    except UserError as error:
        yield str(error)


def _alike(one: Annotation) -> None:
    """Raises UserError for a file that lacks a column, or has it in another type."""
    step = max(1, -(-len(one.files) // MOST_FILES))

    def look(file: str) -> str | None:
        try:
            types = table.types_of(file, table.schema_of(file), one.key, one.key_column, one.columns)
        except ValueError as error:
            return str(error)
        for name, kind in types.items():
            if kind != one.types[name]:
                return (
                    f"{file}: the column {one.columns[name]!r} is a {kind}, and a {one.types[name]} in {one.files[0]}"
                )
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        for fault in pool.map(look, one.files[1::step]):
            if fault:
                raise UserError(f"{KEY}: {fault}")


def _bounds(recipe: Recipe, types: dict[str, str]) -> None:
    """Raises UserError for a bound that its annotation cannot break, and for a score that is no number."""
    for lang, rules in recipe.filter.policy.items():
        for name, bounds in (rules or {}).items() if isinstance(rules, dict) else ():
            if name not in types or not isinstance(bounds, dict):
                continue
            kind = types[name]
            for bound, value in bounds.items():
                where = f"filter.policy: {lang}: {name}.{bound}"
                if bound in ("min", "max") and kind != NUMBER and value not in (None, False):
                    fix = "allowed: [true]" if kind == BOOLEAN else "allowed or forbidden, with a list of strings"
                    raise UserError(f"{where}: {name} is a {kind} and has no {bound}; write {fix}")
                if bound not in ("allowed", "forbidden") or (value in (None, False) and kind != BOOLEAN):
                    continue
                if kind == NUMBER:
                    raise UserError(f"{where}: {name} is a number; write min or max")
                for one in value if isinstance(value, list) else [value]:
                    if isinstance(one, bool) != (kind == BOOLEAN):
                        wanted = "true or false" if kind == BOOLEAN else f"strings: write {str(one).lower()!r}"
                        raise UserError(f"{where}: {one!r} is listed, and the values of {name} are {wanted}")
