"""How arms differ from the one that they are compared with: scores, forgetting, compute; plain data for a page and a terminal.

A model's score is a weighted mean over items: bits of all held-out documents over their bytes, right answers over questions.
Its variance is that of the linearised mean, so of each item i, of N with weights w_i, goes into the comparison

    s_i = m + (x_i - m) w_i N / sum(w),      m = sum(w_i x_i) / sum(w)

whose plain mean is m. Several languages count alike however many items each has: s_i is then M + (s_i - m) N / (L n) with M the
mean over L languages and n the items of the language; the mean is M and its variance that of strata.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ray_jobs.experiment import compute, measures, small_models
from ray_jobs.experiment.filters import Compared
from ray_jobs.experiment.measures import Cell, Scores
from ray_jobs.experiment.statistics import Difference, difference
from ray_jobs.report.names import language
from ray_jobs.report.tasks import UNITS
from ray_jobs.run.run import Run

Arms = Mapping[str, Mapping[int, Run]]
"""Arm -> seed -> run."""
BySeed = Mapping[int, Scores]
ALL = "mean of languages"
OF_STAGES = {"long": "score", "wildbench": "reward, from -100 to 100"}


class Row(NamedTuple):
    """One language of a table, or the mean over all. `scores` and `differences` by arm, in the units of the table."""

    lang: str
    items: int
    scores: dict[str, float]
    differences: dict[str, Difference]


class Table(NamedTuple):
    """`model`: which model of each arm; `against`: the arm, or the model, that differences are from."""

    title: str
    model: str
    unit: str
    more_is_better: bool
    digits: int
    against: str
    rows: list[Row]


class Comparison(NamedTuple):
    """`costs`: arm -> seed -> what it cost. `cannot`: what cannot be compared and why. `of_arms`: whether it is of arms, of which
    a seed is one trial, or of two runs as they are."""

    control: str
    tables: list[Table]
    forgetting: list[Table]
    costs: dict[str, dict[int, compute.Cost]]
    sentences: list[str]
    cannot: list[str]
    of_arms: bool


def compare(arms: Arms, control: str, measured: Sequence[str], *, of_arms: bool = True) -> Comparison:
    cannot: list[str] = []
    tables: list[Table] = []
    for model in ("final", "pre-trained", "long-context"):
        found = {arm: _scores(runs, model, measured) for arm, runs in arms.items()}
        found = {arm: scores for arm, scores in found.items() if scores}
        again = model != "final" and all(_stages(runs, "final") == _stages(runs, model) for runs in arms.values())
        if control in found and len(found) > 1 and not again:
            tables += _tables(found, control, model, cannot)
    if "small_models" in measured:
        tables.append(_of_small_models(small_models.compare(arms, control), control))
    forgetting = _forgetting(arms, measured) if "forgetting" in measured else []
    priced = arms if "compute" in measured else {}
    costs = {arm: {seed: compute.of(run) for seed, run in runs.items()} for arm, runs in priced.items()}
    said = [*_said(tables, of_arms), *_forgotten(forgetting, of_arms)]
    return Comparison(control, tables, forgetting, costs, said, cannot, of_arms)


def _of_small_models(found: Mapping[str, Compared], control: str) -> Table:
    """The scores of `control` are those beside the first arm."""
    first = next(iter(found.values()))
    langs = sorted(set.intersection(*(set(one.lang.values()) for one in found.values())))
    rows = []
    for lang in [ALL, *langs]:
        keys = [key for key, own in first.lang.items() if lang in (own, ALL)]
        of_arm = {
            arm: (_only(one.ours, one.lang, lang), _only(one.other, one.lang, lang)) for arm, one in found.items()
        }
        scores = {control: _mean(_mean(seed.values()) for seed in next(iter(of_arm.values()))[1].values())}
        scores |= {arm: _mean(_mean(seed.values()) for seed in sides[0].values()) for arm, sides in of_arm.items()}
        rows.append(Row(lang, len(keys), scores, {arm: difference(*sides) for arm, sides in of_arm.items()}))
    return Table("bits per byte", "small models", "bits per byte", False, 3, control, rows)


def _only(side: Mapping[int, Mapping[str, float]], of: Mapping[str, str], lang: str) -> dict[int, dict[str, float]]:
    return {seed: {key: x for key, x in one.items() if lang in (of[key], ALL)} for seed, one in side.items()}


def _stages(runs: Mapping[int, Run], model: str) -> set[str | None]:
    return {measures.models(run.recipe).get(model) for run in runs.values()}


def _scores(runs: Mapping[int, Run], model: str, measured: Sequence[str]) -> dict[int, Scores]:
    """Seed -> scores of one model of an arm; without the seeds that have none."""
    wanted = [one for one in measured if one not in ("forgetting", "compute")]
    found = {}
    for seed, run in runs.items():
        stage = measures.models(run.recipe).get(model)
        scores = stage and measures.scores(
            run.uri, [one.name for one in run.stages], stage, wanted, final=model == "final"
        )
        if scores:
            found[seed] = scores
    return found


def _tables(found: Mapping[str, BySeed], control: str, model: str, cannot: list[str]) -> list[Table]:
    """One for each thing that is measured in the control arm and another."""
    cells = dict.fromkeys(cell for scores in found[control].values() for cell in scores)
    tables = []
    for what in dict.fromkeys(cell.what for cell in cells):
        here = sorted((cell for cell in cells if cell.what == what), key=lambda cell: cell.lang)
        common: dict[Cell, list[str]] = {}
        sides: dict[str, BySeed] = {control: found[control]}
        for arm, scores in found.items():
            if arm != control and any(cell in one for one in scores.values() for cell in here):
                sides[arm] = scores
            elif arm != control:
                cannot.append(f"{what} of the {model} model: {arm} has none")
        for cell in here:
            items = _common(sides.values(), cell)
            if items:
                common[cell] = items
            else:
                cannot.append(f"{what} in {language(cell.lang)}: the arms have no item in common that all have scored")
        if common and len(sides) > 1:
            tables.append(_table(what, model, common, sides, control))
    return tables


def _common(sides: Iterable[BySeed], cell: Cell) -> list[str]:
    """The items that every seed of every side has scored."""
    each = [set(scores.get(cell, {})) for side in sides for scores in side.values()]
    return sorted(set.intersection(*each)) if each else []


def _table(what: str, model: str, common: Mapping[Cell, list[str]], sides: Mapping[str, BySeed], against: str) -> Table:
    first = next(iter(common))
    scale, digits, unit = _unit(first)
    rows = []
    groups = [[cell] for cell in common]
    for cells in [list(common), *groups] if len(groups) > 1 else groups:
        by_arm = {
            arm: {seed: _items(scores, cells, common, scale) for seed, scores in side.items()}
            for arm, side in sides.items()
        }
        rows.append(
            Row(
                cells[0].lang if len(cells) == 1 else ALL,
                sum(len(common[cell]) for cell in cells),
                {arm: _mean(_mean(one.values()) for one in seeds.values()) for arm, seeds in by_arm.items()},
                {arm: _difference(seeds, by_arm[against]) for arm, seeds in by_arm.items() if arm != against},
            )
        )
    return Table(what, model, unit, first.more_is_better, digits, against, rows)


def _difference(ours: Mapping[int, dict], other: Mapping[int, dict]) -> Difference:
    one, another = _paired(ours, other)
    return difference(one, another, measures.groups(item for scores in one.values() for item in scores))


def _unit(cell: Cell) -> tuple[float, int, str]:
    """(factor, digits, name) of what is shown."""
    if cell.measure == "bits_per_byte":
        return 1.0, 3, "bits per byte"
    if cell.measure in OF_STAGES:
        return 100.0, 1, OF_STAGES[cell.measure]
    return 1.0 if cell.measure == "chrf" else 100.0, 1, UNITS.get(cell.measure, "chrF2, mean of sentences")


def _paired(ours: Mapping[int, dict], other: Mapping[int, dict]) -> tuple[Mapping[int, dict], Mapping[int, dict]]:
    """Both with the same seeds: what has only one, as a finished run that all share, stands for each."""
    if len(other) == 1 and not ours.keys() & other.keys():
        (only,) = other.values()
        return ours, dict.fromkeys(ours, only)
    return ours, other


def _items(scores: Scores, cells: Sequence[Cell], common: Mapping[Cell, list[str]], scale: float) -> dict[str, float]:
    """Item -> what it adds to the mean, times `scale` (module docstring)."""
    total = sum(len(common[cell]) for cell in cells)
    by_cell = {cell: _linear([scores[cell][item] for item in common[cell]]) for cell in cells}
    means = {cell: _mean(values) for cell, values in by_cell.items()}
    whole = _mean(means.values())
    return {
        f"{cell.lang}\0{item}": scale * (whole + (value - means[cell]) * total / (len(cells) * len(values)))
        for cell, values in by_cell.items()
        for item, value in zip(common[cell], values, strict=True)
    }


def _linear(pairs: Sequence[tuple[float, float]]) -> list[float]:
    weight = sum(w for _, w in pairs)
    mean = sum(x * w for x, w in pairs) / weight
    return [mean + (x - mean) * w * len(pairs) / weight for x, w in pairs]


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)


def _forgetting(arms: Arms, measured: Sequence[str]) -> list[Table]:
    """Of each arm its final model against its own base, in the languages of replay."""
    tables: list[Table] = []
    for arm, runs in arms.items():
        replay = {lang for run in runs.values() for lang in run.recipe.mixture.replay_languages}
        both = {
            model: {
                seed: {cell: items for cell, items in scores.items() if cell.lang in replay}
                for seed, scores in _scores(runs, model, ["bits_per_byte", "tasks"]).items()
            }
            for model in ("base", "final")
        }
        if _stages(runs, "base") != _stages(runs, "final") and all(both.values()):
            tables += _tables(both, "base", arm, [])
    return tables


def _said(tables: Sequence[Table], of_arms: bool) -> list[str]:
    """What the first row of each table says: the mean over languages where there are several. Arms that differ first."""
    said: list[str] = []
    rest: list[str] = []
    for table in tables:
        row = table.rows[0]
        what = f"{table.title} of the {table.model} model, {row.lang if row.lang == ALL else language(row.lang)}"
        said += [f"{what}: {worded(arm, table, d, of_arms)}" for arm, d in row.differences.items() if apart(d)]
        if unsure := [arm for arm, d in row.differences.items() if not apart(d)]:
            n = next(iter(row.differences.values()))
            seeds = f"{n.seeds} seed{'s' if n.seeds > 1 else ''} and " if of_arms else ""
            rest.append(
                f"{what}: no difference shown between {table.against} and {', '.join(unsure)} on {seeds}{n.items:,} items"
            )
    return said + rest


def _forgotten(tables: Sequence[Table], of_arms: bool) -> list[str]:
    said = []
    for table in tables:
        for row in table.rows:
            for one in row.differences.values():
                worse = one.value < 0 if table.more_is_better else one.value > 0
                if row.lang != ALL and apart(one) and worse:
                    sure = one.shown or not of_arms
                    what = "is being forgotten" if sure else "is worse than in the base in this one model"
                    said.append(f"{table.model}: {language(row.lang)} {what}: {table.title} {shown(table, one)}")
    return said


def worded(arm: str, table: Table, one: Difference, of_arms: bool) -> str:
    """The verdict on a difference that is apart, in words."""
    better = (one.value > 0) == table.more_is_better
    said = f"{arm} is {'better' if better else 'worse'} than {table.against}: {shown(table, one)}"
    sure = one.shown or not of_arms
    return said if sure else f"{said}; these two models differ, one seed cannot show that the arms do"


def apart(one: Difference) -> bool:
    """Whether the interval leaves out 0 (with one seed that is of two models, not of two arms)."""
    return one.low > 0 or one.high < 0


def shown(table: Table, one: Difference) -> str:
    """`-0.031 (95 % interval -0.050 to -0.012), 3 seeds, 120 items`."""
    n = table.digits
    interval = "no interval" if math.isnan(one.low) else f"95 % interval {one.low:+.{n}f} to {one.high:+.{n}f}"
    seeds = f"{one.seeds} seed{'s' if one.seeds > 1 else ''}"
    return f"{one.value:+.{n}f} ({interval}), {seeds}, {one.items:,} items"


def as_json(found: Comparison) -> dict:
    def plain(one: Difference) -> dict:
        bounds = (one.low, one.high) if not math.isnan(one.low) else (None, None)  # JSON has no nan
        return {**one._asdict(), "low": bounds[0], "high": bounds[1]}

    def table(one: Table) -> dict:
        rows = [
            {**row._asdict(), "differences": {arm: plain(d) for arm, d in row.differences.items()}} for row in one.rows
        ]
        return {**one._asdict(), "rows": rows}

    return {
        **found._asdict(),
        "tables": [table(one) for one in found.tables],
        "forgetting": [table(one) for one in found.forgetting],
    }
