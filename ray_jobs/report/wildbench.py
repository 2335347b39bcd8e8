"""The report's section on judged answers, from `wildbench/metrics.json` alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cluster import storage
from ray_jobs.report.names import language
from ray_jobs.run import adopted
from ray_jobs.run.graph import WILDBENCH

ALL = "all"


class Cell(NamedTuple):
    """`shown` is empty where nothing was judged; `certain`: the rows separate the score from the reference's 50."""

    shown: str
    interval: str
    judged: str
    certain: bool


class Table(NamedTuple):
    """What one judge says of one model: lines (name, code, cells of `heads`) of each language, all of them first."""

    judge: str
    model: str
    heads: list[str]
    lines: list[tuple[str, str, list[Cell]]]
    remarks: str


class Section(NamedTuple):
    """`agreement`: rows of text."""

    reference: str
    weights: str
    tables: list[Table]
    sentences: list[str]
    agreement: list[list[str]]
    nobody: bool


def section(uri: str) -> Section | None:
    place = adopted.path(uri, WILDBENCH, "metrics.json")
    if not storage.exists(place):
        return None
    found = storage.read_json(place)
    weighing = ", ".join(f"{name} {weight:g}" for name, weight in found["weights"].items() if weight)
    tables = [
        _table(judge, model, of["models"][model], found["answers"][model])
        for judge, of in found["judges"].items()
        for model in found["models"]
    ]
    return Section(
        found["reference"],
        weighing,
        tables,
        list(_sentences(found)),
        [_agreement(one) for one in found["agreement"]],
        not found["judges"],
    )


def _table(judge: str, model: str, table: dict, answers: dict) -> Table:
    names = list(table["categories"])
    heads = ["all rows", "macro", *names]
    lines = [("all languages", "", _cells(table, names))]
    lines += [(language(lang), lang, _cells(part, names)) for lang, part in table["languages"].items()]
    said = [
        (table["invalid"], "verdicts could not be read or did not come, and count nowhere"),
        (table["not_judged"], "pairs were judged by nobody"),
        (table["empty"], "answers were empty on one side or both: who is empty loses, nobody was asked"),
        (table["equal"], "answers equal the reference: ties, nobody was asked"),
        (table["length_rule"], "slight wins of a much longer answer are ties"),
        (answers["unfinished"], "answers were cut off at their limit of tokens"),
    ]
    remarks = "; ".join(f"{n:,} {what}" for n, what in said if n)
    rewards = ", ".join(f"{mark}: {n:,}" for mark, n in table["rewards"].items())
    return Table(judge, model, heads, lines, f"Rewards {rewards}. {f'{remarks}.' if remarks else ''}".strip())


def _cells(part: dict, names: list[str]) -> list[Cell]:
    scores = [part[ALL], part["macro"], *(part["categories"].get(name) for name in names)]
    return [_cell(score) for score in scores]


def _cell(score: dict | None) -> Cell:
    if score is None:
        return Cell("", "", "", False)
    interval = f"{score['low']:.0f} to {score['high']:.0f}"
    return Cell(f"{score['value']:.1f}", interval, f"{score['judged']:,}", score["certain"])


def _sentences(found: dict) -> Iterator[str]:
    """What the verdicts show: each model beside the reference, and beside the first model."""
    against = "the reference answers" if found["reference"] == "reference" else found["reference"]
    for judge, of in found["judges"].items():
        for model in found["models"]:
            macro = of["models"][model]["macro"] or of["models"][model][ALL]
            which = "macro score" if of["models"][model]["macro"] else "score"
            if macro is None:
                yield f"{judge}: no verdict on {model}."
                continue
            interval = f"95 % interval {macro['low']:.1f} to {macro['high']:.1f}"
            said = f"{judge}: {model} has a {which} of {macro['value']:.1f} ({interval})"
            side = "above" if macro["value"] > 50 else "below"
            yield (
                f"{said}, {side} {against}." if macro["certain"] else f"{said}: no difference from {against} is shown."
            )
        for model, one in of["differences"].items():
            change = one["macro"] or one[ALL]
            if change is None:
                continue
            first = found["models"][0]
            bounds = (
                f"95 % interval {change['low']:+.1f} to {change['high']:+.1f} on the same {change['judged']:,} rows"
            )
            if change["certain"]:
                side = "above" if change["value"] > 0 else "below"
                yield f"{judge}: {model} is {abs(change['value']):.1f} points {side} {first} ({bounds})."
            else:
                yield f"{judge}: no difference shown between {model} and {first} ({bounds})."


def _agreement(one: dict) -> list[str]:
    lang = "all languages" if one["lang"] == ALL else language(one["lang"])
    shown = [f"{value['value']:.0%} ({value['low']:.0%} to {value['high']:.0%})" for value in (one["alike"],)]
    for name in ("kappa", "weighted"):
        value = one[name]
        shown.append(f"{value['value']:.2f} ({value['low']:.2f} to {value['high']:.2f})" if value else "")
    return [" and ".join(one["judges"]), lang, f"{one['pairs']:,}", *shown]
