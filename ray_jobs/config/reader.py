"""Read a recipe: one YAML file that says everything about a run, typed by `ray_jobs.config.recipe`.

Paths may use `${VARIABLE}`; `PINISI_SAMPLE_DIR` defaults to the `sample/` folder of this repository. A recipe may name one
other as its `base:` and change parts of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cluster import strict_yaml
from ray_jobs.config.recipe import Recipe
from ray_jobs.errors import UserError

RECIPES = Path(__file__).parents[1] / "recipes"
SAMPLE = Path(__file__).parents[2] / "sample"
BUNDLED = "${PINISI_BUNDLED_SAMPLE}"  # how a run's own copy of its recipe and its fingerprints write the folder above


def find(recipe: str) -> Path:
    """The file of a recipe given as a path or as the name of one that ships with Pinisi."""
    path = Path(recipe)
    if path.is_file():
        return path
    shipped = RECIPES / f"{recipe}.yaml"
    if shipped.is_file():
        return shipped
    names = sorted(p.stem for p in RECIPES.glob("*.yaml"))
    raise UserError(
        f"{recipe}: no such recipe file, and none of the shipped recipes ({', '.join(names)}) has that name"
    )


def load(recipe: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, its `base:`, and `key.path=value` overrides. Raises UserError naming the file, line and key."""
    return parse(*_merged(recipe, overrides))


def portable(recipe: str, overrides: Sequence[str] = ()) -> tuple[str, str]:
    """The name of a recipe and its text for another machine: base and overrides merged, and `${NAME}` filled in where this
    machine has that variable, left for the other one where not. Raises UserError as `load` does."""
    values, path = _merged(recipe, overrides)
    values = _expand_variables(values, str(path), leave=True)
    try:
        name = Recipe.model_validate(values).name
    except ValidationError as error:
        raise UserError(strict_yaml.explain(error, Recipe, path)) from None
    return name, yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _merged(recipe: str, overrides: Sequence[str]) -> tuple[dict, Path]:
    path = find(recipe)
    values = _read(path)
    if base := values.pop("base", None):
        base_path = find(str(path.parent / base) if (path.parent / str(base)).is_file() else str(base))
        below = _read(base_path)
        if "base" in below:
            raise UserError(f"{path}: base: {base_path.name} has a base of its own; only one level is allowed")
        values = _merge(below, values)
    for override in overrides:
        _override(values, override)
    return values, path


def parse(values: dict, path: Path | str) -> Recipe:
    """Typed recipe from plain values; `path` is named in errors."""
    try:
        return Recipe.model_validate(_expand_variables(values, str(path)))
    except ValidationError as error:
        raise UserError(strict_yaml.explain(error, Recipe, path)) from None


def resolved(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out."""
    return yaml.safe_dump(_placeless(recipe.model_dump()), sort_keys=False, allow_unicode=True)


def fingerprinted(recipe: Recipe, key: str) -> Any:
    """The value at a dotted key, the same wherever the code lies: each attempt of a submitted run unpacks its own copy."""
    return _placeless(lookup(recipe, key))


def _placeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _placeless(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_placeless(v) for v in value]
    return value.replace(f"{SAMPLE}{os.sep}", f"{BUNDLED}/") if isinstance(value, str) else value


def lookup(recipe: Recipe, key: str) -> Any:
    """The value at a dotted key, as plain data; None where a section on the way is null."""
    value: Any = recipe.model_dump()
    for part in key.split("."):
        if value is None:
            return None
        value = value[part]
    return value


def _read(path: Path) -> dict:
    try:
        return strict_yaml.read(path, "recipe")
    except ValueError as error:
        raise UserError(str(error)) from None


def _merge(below: dict, above: dict) -> dict:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _override(values: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override}: write it as key.path=value")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        raise UserError(f"--set {key}: {text!r} is not a valid YAML value") from None
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        value = float(value)  # YAML 1.1 reads 2e-5 as text
    *parents, last = key.split(".")
    node = values
    for parent in parents:
        if isinstance(node, list):
            try:
                node = node[int(parent)]
            except (ValueError, IndexError):
                raise UserError(f"--set {key}: {parent!r} is not an index of that list") from None
            continue
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict | list):
            raise UserError(f"--set {key}: {parent!r} is a value, it has no keys below it")
    if isinstance(node, list):
        if not last.isdigit() or int(last) >= len(node):
            raise UserError(f"--set {key}: {last!r} is not an index of that list")
        node[int(last)] = value
    else:
        node[last] = value


def _expand_variables(value: Any, path: str, leave: bool = False) -> Any:
    """Every `${NAME}` replaced; one that is not set is an error, or stays as it is."""
    if isinstance(value, dict):
        return {k: _expand_variables(v, path, leave) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand_variables(v, path, leave) for v in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match) -> str:
        name = match[1]
        if match[0] == BUNDLED:
            return str(SAMPLE)
        if leave:
            return os.environ.get(name) or match[0]
        known = os.environ.get(name) or (str(SAMPLE) if name == "PINISI_SAMPLE_DIR" else None)
        if known is None:
            raise UserError(f"{path}: {value!r} needs the environment variable {name}; set it or write the path out")
        return known

    return re.sub(r"\$\{(\w+)\}", replace, value)
