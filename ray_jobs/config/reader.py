"""Read a recipe: one YAML file that says everything about a run, typed by `ray_jobs.config.recipe`.

Paths may use `${VARIABLE}`; `PINISI_SAMPLE_DIR` defaults to the `sample/` folder of this repository. A recipe may name one
other as its `base:`, which may have a base too, and change parts of it.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from cluster import strict_yaml
from ray_jobs.config import asked
from ray_jobs.config.curation import Pdf
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
    """Read a recipe, its `base:`, and `key.path=value` overrides. Raises UserError naming the file, line and key, also for a key
    that is given and that nothing reads."""
    merged, path = _merged(recipe, overrides)
    found = parse(merged.values, path)
    _check_asked(found, merged, path)
    return found


def portable(recipe: str, overrides: Sequence[str] = ()) -> tuple[str, str]:
    """The name of a recipe and its text for another machine: base and overrides merged, and `${NAME}` filled in where this
    machine has that variable, left for the other one where not. Raises UserError as `load` does.

    All of it is the `base:` of that text, as what was asked for is looked at here."""
    merged, path = _merged(recipe, overrides)
    values = _expand_variables(merged.values, str(path), leave=True)
    try:
        found = Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(strict_yaml.explain(error, Recipe, path)) from None
    _check_asked(found, merged, path)
    return found.name, yaml.safe_dump({"base": _placeless(values)}, sort_keys=False, allow_unicode=True)


class Merged(NamedTuple):
    """The plain values of a recipe, those before overrides, and the values that its own file and the overrides say, by dotted
    key. Of a shipped recipe, of the base of another and of the copy that a run keeps, which has every key, none is its own."""

    values: dict
    without: dict
    own: dict[str, Any]
    overridden: dict[str, Any]


def _check_asked(recipe: Recipe, merged: Merged, path: Path) -> None:
    """Raises UserError for a key that was given and that nothing reads. An override may turn off what the keys of a file need."""
    for sentence in asked.not_read(recipe, merged.overridden.items()):
        raise UserError(f"--set {sentence}")
    for sentence in asked.not_read(recipe, merged.own.items()):
        if not merged.overridden or _unread_before(merged, path):
            raise UserError(f"{path}: {sentence}")


def _unread_before(merged: Merged, path: Path) -> bool:
    """Whether a file's own keys include one that nothing reads without overrides either; not where it needs them to be read."""
    try:
        return any(asked.not_read(parse(merged.without, path), merged.own.items()))
    except UserError:
        return False


def _merged(recipe: str, overrides: Sequence[str]) -> tuple[Merged, Path]:
    path = find(recipe)
    values = _read(path)
    base = values.pop("base", None)
    whole = path.resolve().parent == RECIPES.resolve() or values.keys() >= Recipe.model_fields.keys()
    own = {} if whole else dict(asked.leaves(values))
    if isinstance(base, dict):
        values = _upon(base, values)
    elif base:
        values = _upon(_below(path, base, [path]), values)
    without = copy.deepcopy(values)
    for override in overrides:
        _override(values, override)
    overridden = {key: value for override in overrides for key, value in _given(values, override.partition("=")[0])}
    own = {key: value for key, value in own.items() if key not in overridden and dict(_given(values, key))}
    if "languages" in overridden and "sources" not in own.keys() | overridden.keys():
        _leave_pairs(values)
    return Merged(values, without, own, overridden), path


def _upon(below: dict, above: dict) -> dict:
    """The values of a recipe merged upon those of its base."""
    values = _merge(below, above)
    if "languages" in above and "sources" not in above:
        _leave_pairs(values)
    return values


def _leave_pairs(values: dict) -> None:
    """Take out the pairs of a base that are of a language which the recipe has not: nobody has asked for them."""
    has = values["languages"] if isinstance(values.get("languages"), list) else []
    pairs = [one for one in values.get("sources") or () if isinstance(one, dict) and one.get("type") == "parallel"]
    gone = [one for one in pairs if any(isinstance(side, str) and side not in has for side in _sides(one))]
    values["sources"] = [one for one in values.get("sources") or () if one not in gone]


def _sides(pairs: dict) -> list:
    sides = pairs.get("sides")
    return list(sides) if isinstance(sides, list | dict) else []


def _below(path: Path, base: object, above: list[Path]) -> dict:
    """The values of the base that the recipe at `path` names, with those of its own base; `above`: who has led here."""
    base_path = find(str(path.parent / str(base)) if (path.parent / str(base)).is_file() else str(base))
    if any(base_path.resolve() == one.resolve() for one in above):
        raise UserError(f"{path}: base: {base_path.name} is built on {path.name} itself; name another recipe")
    values = _read(base_path)
    below = values.pop("base", None)
    if isinstance(below, dict):
        return _upon(below, values)
    return _upon(_below(base_path, below, [*above, base_path]), values) if below else values


def _given(values: dict, key: str) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of what lies at or below a dotted key, none where an override took it away."""
    *parents, last = key.split(".")
    node: Any = values
    for parent in parents:
        node = node.get(parent) if isinstance(node, dict) else None
    if isinstance(node, dict) and last in node:
        nested = {last: node[last]}
        for parent in reversed(parents):
            nested = {parent: nested}
        yield from asked.leaves(nested)


def parse(values: dict, path: Path | str) -> Recipe:
    """Typed recipe from plain values; `path` is named in errors."""
    try:
        return Recipe.model_validate(_expand_variables(values, str(path)))
    except ValidationError as error:
        raise UserError(strict_yaml.explain(error, Recipe, path)) from None


def resolved(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out."""
    return yaml.safe_dump(_placeless(recipe.model_dump()), sort_keys=False, allow_unicode=True)


LATER: dict[str, object] = {
    **{"sources.language": "", "sources.window_lines": 100, "sources.step_lines": None, "sources.namespaces": [0]},
    "extract.pdf": Pdf().model_dump(),
    **{"quality.engine": "fasttext", "quality.pooled": False},
    **{"quality.model": "", "quality.label": "", "quality.signal": ""},
    **{"tokenize.temperature": None, "tokenize.parity": False, "tokenize.parallel": None, "tokenize.pieces": "qwen2"},
    **{"mixture.regmix.match_repetition": False, "mixture.regmix.reuse": None},
    **{"mixture.regmix.proxies.larger": None, "mixture.regmix.proxies.phases": 1},
}
"""Keys that came later, also of the items of a list, with what they are where nobody sets them: then results of before stand."""
LATER_FILES = ("quality.model", "synthesize.tasks.model", "tokenize.parallel", "mixture.regmix.reuse")
"""The same of keys that name files: not counted where there are none."""


def fingerprinted(recipe: Recipe, key: str) -> Any:
    """The value at a dotted key, the same wherever the code lies: each attempt of a submitted run unpacks its own copy."""
    return _placeless(_as_before(lookup(recipe, key), key))


def all_fingerprinted(recipe: Recipe, keys: Sequence[str]) -> dict[str, Any]:
    """`fingerprinted` of each key but of those that came later and that nobody sets."""
    return {key: fingerprinted(recipe, key) for key in keys if key not in LATER or lookup(recipe, key) != LATER[key]}


def _as_before(value: Any, at: str) -> Any:
    if isinstance(value, dict):
        below = {name: f"{at}.{name}" for name in value}
        return {name: _as_before(one, below[name]) for name, one in value.items() if one != LATER.get(below[name], ...)}
    return [_as_before(one, at) for one in value] if isinstance(value, list) else value


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
