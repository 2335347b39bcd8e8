"""Read a recipe: one YAML file that says everything about a run, typed by `ray_jobs.sections`.

Paths may use `${VARIABLE}`; `PINISI_SAMPLE_DIR` defaults to the `sample/` folder of this repository. A recipe may name one
other as its `base:` and change parts of it.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ray_jobs.errors import UserError
from ray_jobs.sections import Recipe

RECIPES = Path(__file__).parent / "recipes"
SAMPLE = Path(__file__).parent.parent / "sample"


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


def load(recipe: str, overrides: list[str] = ()) -> Recipe:
    """Read a recipe, its `base:`, and `key.path=value` overrides. Raises UserError naming the file, line and key."""
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
    return parse(values, path)


def parse(values: dict, path: Path | str) -> Recipe:
    """Typed recipe from plain values; `path` is named in errors."""
    try:
        return Recipe.model_validate(_expand_variables(values, str(path)))
    except ValidationError as error:
        raise UserError(_explain(error, path)) from None


def resolved(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out."""
    return yaml.safe_dump(recipe.model_dump(), sort_keys=False, allow_unicode=True)


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
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; save the recipe as UTF-8") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a recipe is a mapping of keys, this file holds {type(values).__name__}")
    return values


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


def _expand_variables(value: Any, path: str) -> Any:
    if isinstance(value, dict):
        return {k: _expand_variables(v, path) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand_variables(v, path) for v in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match) -> str:
        name = match[1]
        known = os.environ.get(name) or (str(SAMPLE) if name == "PINISI_SAMPLE_DIR" else None)
        if known is None:
            raise UserError(f"{path}: {value!r} needs the environment variable {name}; set it or write the path out")
        return known

    return re.sub(r"\$\{(\w+)\}", replace, value)


def _explain(error: ValidationError, path: Path | str) -> str:
    """One sentence for the first problem: file, line, key, what is wrong and the nearest right key."""
    problem = error.errors()[0]
    keys = [str(part) for part in problem["loc"]]
    where = ".".join(keys) or "recipe"
    line = _line_of(path, keys)
    prefix = f"{path}, line {line}: {where}" if line else f"{path}: {where}"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(keys[:-1])
        near = difflib.get_close_matches(keys[-1], known, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{prefix}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{prefix}: this key is required; add it"
    message = problem["msg"].removeprefix("Value error, ")
    given = problem.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{prefix}: {message[0].lower()}{message[1:]}{shown}"


def _known_keys(parents: list[str]) -> list[str]:
    model: Any = Recipe
    for parent in parents:
        if parent.isdigit():
            continue
        annotation = model.model_fields[parent].annotation
        nested = [a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields")]
        if not nested:
            return []
        model = nested[0]
    return sorted(model.model_fields)


def _line_of(path: Path | str, keys: list[str]) -> int | None:
    if not Path(path).is_file():
        return None
    node = yaml.compose(Path(path).read_text(encoding="utf-8"))
    line = None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == key), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and key.isdigit() and int(key) < len(node.value):
            node = node.value[int(key)]
            line = node.start_mark.line + 1
        else:
            return line
    return line
