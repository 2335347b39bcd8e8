"""The report's section on long-context tasks, from `long/metrics.json` alone: how often what is hidden is found, by length and
depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from cluster import storage
from ray_jobs.report.names import language
from ray_jobs.run import adopted
from ray_jobs.run.graph import LONG
from train.tasks import compare


class Cell(NamedTuple):
    """Out of 100, with its interval; `shade` is how much of the colour it has, 0 to 1; `few`: too few items to say much."""

    shown: str
    interval: str
    shade: float
    few: bool
    items: int


class Line(NamedTuple):
    """`first`: whether the line is the first of its model and task."""

    task: str
    model: str
    length: int
    first: bool
    cells: list[Cell | None]  # of all depths together, then of each


class Map(NamedTuple):
    title: str
    depths: list[str]
    lines: list[Line]


class Section(NamedTuple):
    """`overview`: means over languages, a line a model and length, a cell a task: (written, choice)."""

    tasks: list[str]
    overview: list[tuple[str, int, list[tuple[Cell | None, Cell | None]]]]
    languages: list[tuple[str, str, list[Map]]]
    chance: dict[str, float]


def section(uri: str) -> Section | None:
    found = storage.read_json(adopted.path(uri, LONG, "metrics.json"))
    if not found:
        return None
    tasks = list(found)
    cells = [
        (task, lang, model, cell)
        for task, languages in found.items()
        for lang, models in languages.items()
        for model, of in models.items()
        for cell in of
    ]
    models = list(dict.fromkeys(model for *_, model, _ in cells))
    lengths = sorted({cell["length"] for *_, cell in cells})
    overview = []
    for model in models:
        for length in lengths:
            of = {
                task: [c for t, _, m, c in cells if (t, m, c["length"], c["depth"]) == (task, model, length, None)]
                for task in tasks
            }
            if any(of.values()):
                overview.append(
                    (model, length, [(_mean(of[task], "score"), _mean(of[task], "choice")) for task in tasks])
                )
    langs = list(dict.fromkeys(lang for _, lang, *_ in cells))
    chance = {task: c["chance"] for task, _, _, c in cells if c["chance"] is not None}
    maps = [(language(lang), lang, _maps([one for one in cells if one[1] == lang])) for lang in langs]
    return Section(tasks, overview, maps, chance)


def _mean(cells: Sequence[dict], key: str) -> Cell | None:
    """The mean over languages."""
    of = [cell for cell in cells if cell[key]]
    if not of:
        return None
    bounds = [(one["value"], one["low"], one["high"]) for one in (cell[key] for cell in of)]
    value, reach = compare.combined(bounds)
    mean = {"value": value, "low": max(value - reach, 0.0), "high": min(value + reach, 1.0)}
    return _cell({**mean, "items": sum(cell[key]["items"] for cell in of)}, of[0]["chance"] if key == "choice" else 0.0)


def _maps(cells: Sequence[tuple[str, str, str, dict]]) -> list[Map]:
    """The two maps of one language: of written answers, and of the choice."""
    depths = sorted({cell["depth"] for *_, cell in cells if cell["depth"] is not None})
    out = []
    for key, title in (("score", "Written answers"), ("choice", "Choice among the options")):
        lines: list[Line] = []
        by_line: dict[tuple[str, str, int], dict] = {}
        for task, _, model, cell in cells:
            if cell[key]:
                by_line.setdefault((task, model, cell["length"]), {})[cell["depth"]] = cell
        for (task, model, length), of in by_line.items():
            row = [
                _cell(of[depth][key], of[depth]["chance"] if key == "choice" else 0.0) if depth in of else None
                for depth in (None, *depths)
            ]
            lines.append(Line(task, model, length, not lines or (task, model) != lines[-1][:2], row))
        if lines:
            out.append(Map(title, [f"{depth:g}" for depth in depths], lines))
    return out


def _cell(mean: dict, chance: float) -> Cell:
    shade = min(max((mean["value"] - chance) / (1 - chance), 0.0), 1.0)
    low, high = ("?" if math.isnan(bound) else f"{min(bound, 1.0) * 100:.0f}" for bound in (mean["low"], mean["high"]))
    return Cell(f"{mean['value'] * 100:.0f}", f"{low} to {high}", shade, mean["items"] < compare.LEAST, mean["items"])
