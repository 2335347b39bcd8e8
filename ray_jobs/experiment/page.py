"""The comparison of arms as a page that needs nothing else, and as lines of a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, select_autoescape
from rich.text import Text

from cluster import storage, terminal
from cluster.terminal import Column
from ray_jobs.experiment import comparison, compute
from ray_jobs.experiment.comparison import Comparison, Row, Table
from ray_jobs.experiment.engine import Planned
from ray_jobs.experiment.specification import Experiment
from ray_jobs.experiment.statistics import Difference
from ray_jobs.report.names import language
from ray_jobs.report.page import TEMPLATES
from ray_jobs.run import adopted
from ray_jobs.run.run import Run

FILE, DATA = "index.html", "comparison.json"


class Shown(NamedTuple):
    """A difference as it is shown; `grey`: nothing is separated; `sure`: seeds show it too."""

    value: str
    interval: str
    grey: bool
    sure: bool


class Facts(NamedTuple):
    """A table of what two runs are; `numbers`: all but the first column."""

    title: str
    heads: tuple[str, ...]
    rows: list[tuple]
    numbers: bool


class Cost(NamedTuple):
    """An arm's compute, the mean over its seeds. `times`: FLOPs over those of the arm that it is compared with."""

    arm: str
    flops: str
    times: str
    own: str
    hours: str
    tokens: str
    rate: str
    parameters: str
    memory: str


def write(experiment: Experiment, done: Sequence[Planned], uri: str) -> Comparison:
    """Compare the trials of an experiment, and write page and data into its folder."""
    arms: dict[str, dict] = {arm: {} for arm in experiment.arms}
    for one in done:
        arms[one.trial.arm][one.trial.seed] = one.run
    found = comparison.compare(arms, experiment.compared_with, experiment.measure)
    storage.write_json(storage.join(uri, DATA), as_json(found))
    changes = {arm: {**experiment.set, **own} for arm, own in experiment.arms.items()}
    shared = [(one.trial.arm, one.trial.seed, _made(one.run), adopted.read(one.run.uri)) for one in done]
    text = html(found, experiment.name, experiment.question, changes=changes, shared=shared, seeds=experiment.seeds)
    storage.write_text(storage.join(uri, FILE), text)
    return found


def _made(run: Run) -> list[str]:
    there = adopted.read(run.uri)
    return [stage.name for stage in run.stages if stage.name not in there and run.manifest(stage.name)]


def html(found: Comparison, name: str, question: str, **more) -> str:
    """The page. `more`: changes (arm -> recipe keys), shared (arm, seed, what it made, what it adopted), seeds, facts of two
    runs."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape(), trim_blocks=True)
    return environment.get_template("experiment.html").render(
        name=name,
        question=question,
        found=found,
        language=language,
        shown=shown,
        score=score,
        costs=costs(found),
        ALL=comparison.ALL,
        **{"changes": {}, "shared": [], "seeds": [], "facts": None, **more},
    )


def as_json(found: Comparison) -> dict:
    return comparison.as_json(found)


def score(table: Table, row: Row, arm: str) -> str:
    return f"{row.scores[arm]:.{table.digits}f}" if arm in row.scores else ""


def shown(table: Table, one: Difference) -> Shown:
    n = table.digits
    interval = "" if math.isnan(one.low) else f"{one.low:+.{n}f} to {one.high:+.{n}f}"
    return Shown(f"{one.value:+.{n}f}", interval, not comparison.apart(one), one.shown)


def costs(found: Comparison) -> list[Cost]:
    """Of each arm; of what not every seed knows, nothing."""
    means = {arm: _means(by_seed.values()) for arm, by_seed in found.costs.items()}
    control = means.get(found.control, {}).get("flops")

    def said(value: float | None, write) -> str:
        return "" if value is None else write(value)

    return [
        Cost(
            arm,
            said(one.get("flops"), "{:.3g}".format),
            f"{work / control:.3f}" if control and (work := one.get("flops")) is not None else "",
            said(one.get("own_flops"), "{:.3g}".format),
            said(one.get("device_hours"), "{:.3g}".format),
            said(one.get("tokens"), terminal.short),
            said(one.get("tokens_per_second"), terminal.short),
            said(one.get("parameters"), terminal.short),
            said(one.get("memory_bytes"), terminal.size),
        )
        for arm, one in means.items()
    ]


def _means(costs: Iterable[compute.Cost]) -> dict[str, float | None]:
    """Of each number its mean over seeds, None where one is not known."""
    each: list[dict] = [dict(one) for one in costs]
    return {
        key: None if any(one[key] is None for one in each) else sum(one[key] for one in each) / len(each)
        for key in (each[0] if each else ())
    }


def lines(found: Comparison, title: str) -> list[Text]:
    """The same for a terminal: the first row of each table, compute, and what can be said."""
    said = [*terminal.paragraph(title), Text()]
    first = [(table, table.rows[0]) for table in found.tables]
    columns = [
        Column("measured"),
        Column("model"),
        Column("arm"),
        Column("score", right=True),
        Column("difference", right=True),
        Column("95 % interval", right=True),
        Column("verdict", free=True),
    ]
    rows = []
    for table, row in first:
        where = "" if row.lang == comparison.ALL else f", {row.lang}"
        rows.append((f"{table.title}{where}", table.model, table.against, score(table, row, table.against), "", "", ""))
        for arm, one in row.differences.items():
            cell = shown(table, one)
            words = verdict(table, one, found.of_arms)
            rows.append(("", "", arm, score(table, row, arm), cell.value, cell.interval, words))
    if rows:
        said += [*terminal.table(columns, rows, title=f"against {found.control}"), Text()]
    if found.costs:
        heads = ("arm", "FLOPs", "times", "own FLOPs", "device hours", "tokens", "tokens/s", "parameters", "memory")
        columns = [Column(heads[0]), *(Column(head, right=True) for head in heads[1:])]
        said += [*terminal.table(columns, costs(found), title="compute, mean over seeds"), Text()]
    for sentence in (*found.sentences, *found.cannot):
        said += terminal.paragraph(sentence)
    return said


def verdict(table: Table, one: Difference, of_arms: bool) -> str:
    """
    >>> verdict(Table("t", "final", "accuracy", True, 1, "a", []), Difference(2.0, 1.0, 3.0, True, 3, 40), True)
    'better'
    """
    if not comparison.apart(one):
        return "no difference shown"
    better = "better" if (one.value > 0) == table.more_is_better else "worse"
    return better if one.shown or not of_arms else f"{better} in this seed"
