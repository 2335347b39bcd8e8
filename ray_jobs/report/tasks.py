"""The report's section on tasks, from `tasks/metrics.json` alone."""

from __future__ import annotations

from typing import NamedTuple

from cluster import storage
from ray_jobs.report.names import language
from ray_jobs.run import adopted
from ray_jobs.run.graph import TASKS
from train.tasks import compare
from train.tasks import task as task_files

UNITS = {
    "sum": "accuracy",
    "per_byte": "accuracy",
    "sequence_ppl": "accuracy",
    "f1": "F1",
    "exact_match": "exact match",
    "pair_accuracy": "pairs in the order of people",
}


class Score(NamedTuple):
    """`shown` with its interval; `certain`: whether its difference from the first model is more than chance."""

    shown: str
    interval: str
    change: str
    certain: bool


class Line(NamedTuple):
    name: str
    code: str
    items: int
    chance: str
    seen: str
    scores: list[Score]


class Section(NamedTuple):
    """`tables`: (title, what is measured, lines), the mean over languages first. `against`: the first model."""

    models: list[str]
    against: str
    tables: list[tuple[str, str, list[Line]]]
    sentences: list[str]


def section(uri: str) -> Section | None:
    found = storage.read_json(adopted.path(uri, TASKS, "metrics.json"))
    cells = [cell for languages in found.values() for cell in languages.values()]
    if not cells:
        return None
    models, against = list(cells[0]["models"]), cells[0]["against"]
    tables, sentences = [], []
    for name, languages in found.items():
        if not languages:
            continue
        scale = 1 if next(iter(languages.values()))["measure"] == "chrf" else 100
        lines = [_line(language(lang), lang, cell, models, scale) for lang, cell in languages.items()]
        if len(lines) > 1:
            lines.insert(0, _mean(languages, models, against, scale))
        title = task_files.shipped()[name].title if name in task_files.shipped() else name
        measure = next(iter(languages.values()))["measure"]
        tables.append(
            (f"{name}: {title}" if title != name else name, UNITS.get(measure, "chrF2, mean of sentences"), lines)
        )
        sentences += _said(name, languages, models, against, scale)
    return Section(models, against, tables, sentences)


def _line(name: str, code: str, cell: dict, models: list[str], scale: int) -> Line:
    scores = [_score(cell["models"][model], cell["differences"].get(model), scale) for model in models]
    chance = f"{cell['chance'] * scale:.0f}" if cell["chance"] else ""
    return Line(name, code, cell["items"], chance, _seen(cell, models, scale), scores)


def _seen(cell: dict, models: list[str], scale: int) -> str:
    """How many items stand in what the run trained on, and the scores without them."""
    if not cell.get("seen"):  # nor in a run of before items were searched for
        return ""
    rest = [cell["models"][model]["without_seen"] for model in models]
    without = "" if rest[0] is None else f"; without: {', '.join(f'{value * scale:.1f}' for value in rest)}"
    return f"{cell['seen']} seen in training{without}"


def _score(mean: dict, difference: dict | None, scale: int) -> Score:
    shown, interval = f"{mean['value'] * scale:.1f}", f"{mean['low'] * scale:.0f} to {mean['high'] * scale:.0f}"
    if difference is None:
        return Score(shown, interval, "", False)
    change = f"{difference['value'] * scale:+.1f}"
    return Score(shown, interval, change, difference["certain"])


def _differences(languages: dict, model: str) -> list[compare.Difference]:
    kept = [cell["differences"][model] for cell in languages.values()]
    return [compare.Difference(*(one[key] for key in compare.Difference._fields)) for one in kept]


def _mean(languages: dict, models: list[str], against: str, scale: int) -> Line:
    scores = []
    for model in models:
        means = [cell["models"][model] for cell in languages.values()]
        value, reach = compare.combined([(one["value"], one["low"], one["high"]) for one in means])
        bounds = {"value": value, "low": max(value - reach, 0.0), "high": value + reach}
        difference = None
        if model != against:
            both = compare.macro(_differences(languages, model))
            difference = {"value": both.value, "certain": both.certain}
        scores.append(_score(bounds, difference, scale))
    chances = [cell["chance"] for cell in languages.values() if cell["chance"]]
    chance = f"{scale * sum(chances) / len(chances):.0f}" if chances else ""
    items, seen = (sum(cell.get(key, 0) for cell in languages.values()) for key in ("items", "seen"))
    return Line("mean of languages", "", items, chance, f"{seen} seen in training" if seen else "", scores)


def _said(name: str, languages: dict, models: list[str], against: str, scale: int) -> list[str]:
    """What these items show of each model but the first."""
    found = {model: compare.macro(_differences(languages, model)) for model in models if model != against}
    out = [
        f"{name}: {model} is {abs(one.value) * scale:.1f} points {'above' if one.value > 0 else 'below'} {against} in the mean "
        f"(95 % interval {one.low * scale:+.1f} to {one.high * scale:+.1f})."
        for model, one in found.items()
        if one.certain
    ]
    if unsure := [model for model, one in found.items() if not one.certain]:
        items = next(iter(found.values())).items
        out.append(f"{name}: no difference shown on {items:,} items between {against} and {', '.join(unsure)}.")
    return out
