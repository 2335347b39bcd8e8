"""YAML files read into typed models that refuse unknown keys, with errors of one sentence: file, line, key, what to do.

`Section` is what every mapping in such a file is a model of, and beside it are the kinds of numbers in it.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def read(path: Path, what: str) -> dict:
    """The mapping in the YAML file `path`; `what` names the kind of file in errors. Raises ValueError."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text; save the {what} as UTF-8") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a {what} is a mapping of keys, this file holds {type(values).__name__}")
    return values


def explain(error: ValidationError, model: type[BaseModel], path: Path | str) -> str:
    """One sentence for the first unknown key, else the first problem: file, line, key, what is wrong, the nearest right key."""
    problems = error.errors()
    # a misspelt key that is required is missing too; its own name says more
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    keys = [str(part) for part in problem["loc"]]
    where = ".".join(keys) or "top level"
    line = _line_of(path, keys)
    prefix = f"{path}, line {line}: {where}" if line else f"{path}: {where}"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(model, keys[:-1])
        near = difflib.get_close_matches(keys[-1], known, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{prefix}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{prefix}: this key is required; add it"
    message = problem["msg"].removeprefix("Value error, ")
    given = problem.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{prefix}: {message[0].lower()}{message[1:]}{shown}"


def _known_keys(model: Any, parents: list[str]) -> list[str]:
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
