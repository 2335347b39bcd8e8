"""What a simulated run takes: wall time, money, energy.

A node costs from its request until it has idled out, with its disk; the head and what is stored cost for as long as they are
there. Energy is that of all paid hours at the watts that the cluster file states, times the data centre's PUE.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cluster.deploy.spec import Cluster, Group, Node
from ray_jobs.plan.corpus import Corpus
from ray_jobs.plan.rates import Number
from ray_jobs.plan.simulate import Phase, Span

HOUR = 3600.0
DAY = 24 * HOUR
MONTH_HOURS = 730.0  # of a price for a month


@dataclass(frozen=True)
class Row:
    """One number of the plan. `low` and `high`: where all goes well, or badly; None where that makes no difference."""

    part: str
    what: str
    value: float
    unit: str
    source: str
    low: float | None = None
    high: float | None = None


class Simulated(NamedTuple):
    """Phases, and the spans of each simulated run of them."""

    phases: Sequence[Phase]
    runs: Sequence[Sequence[Span]]

    def hours(self) -> list[list[tuple[Group, float]]]:
        """Of each run the node-hours that are paid in each phase."""
        return [
            [(phase.group, span.paid_node_seconds / HOUR) for phase, span in zip(self.phases, spans, strict=True)]
            for spans in self.runs
        ]

    def seconds(self) -> list[float]:
        return [spans[-1].end for spans in self.runs]


class Costs(NamedTuple):
    """Of each simulated run."""

    seconds: list[float]
    by_part: dict[str, list[float]]  # what is paid for -> currency

    @property
    def totals(self) -> list[float]:
        return [sum(each) for each in zip(*self.by_part.values(), strict=True)]


def check(cluster: Cluster, phases: Sequence[Phase]) -> None:
    """Raises ValueError where the cluster file has no price of what is used."""
    for node, what in _nodes(cluster, phases):
        if node.price_per_hour is None:
            raise ValueError(f"{what}.price_per_hour: a plan needs it; add what one node costs an hour")


def of(cluster: Cluster, simulated: Simulated, corpus: Corpus, n: Mapping[str, Number], factor: float = 1.0) -> Costs:
    """What simulated runs cost at `factor` times the prices of the cluster file."""
    prices, months = cluster.prices, n["storage_months"].value
    stored = sum(step.stored_bytes for step in corpus.steps)
    written, read, fetched = requests(corpus, n)
    asked = written * prices.write_requests + read * prices.read_requests + fetched * prices.fetch_requests
    fixed = {
        "storage": stored / 1e9 * prices.storage_gb_month * months,
        "traffic": corpus.fetched_bytes / 1e9 * prices.egress_gb,
        "requests": asked / 1e6,
    }
    seconds, paid = simulated.seconds(), simulated.hours()

    def nodes(role: str) -> list[float]:
        return [sum(hours * _price(group) for group, hours in one if group.role == role) for one in paid]

    disk_hours = [sum(hours * group.disk_gb for group, hours in one) for one in paid]
    parts = {
        "CPU nodes, mean": nodes("cpu"),
        "GPU nodes, mean": nodes("gpu"),
        "head": [s / HOUR * _price(cluster.head) for s in seconds],
        "disks": [
            (gb_hours + s / HOUR * cluster.head.disk_gb) * prices.disk_gb_month / MONTH_HOURS
            for gb_hours, s in zip(disk_hours, seconds, strict=True)
        ],
        **{what: [value] * len(seconds) for what, value in fixed.items()},
    }
    return Costs(seconds, {what: [factor * value for value in values] for what, values in parts.items()})


def requests(corpus: Corpus, n: Mapping[str, Number]) -> tuple[float, float, float]:
    """(that write the run's files, that read them, that fetch from outside)."""
    each = n["stored_request_bytes"].value
    written = sum(step.stored_bytes for step in corpus.steps) / each
    return written, written, sum(step.requests for step in corpus.steps)  # each stage reads what the one before wrote


def rows(cluster: Cluster, simulated: Simulated, costs: Costs, corpus: Corpus, n: Mapping[str, Number]) -> list[Row]:
    """Time, money and energy of simulated runs."""
    how = f"simulated with spot losses, {len(simulated.runs)} seeds"
    prices = cluster.prices
    currency = prices.currency
    lost = [sum(span.lost for span in spans) for spans in simulated.runs]
    written, read, fetched = requests(corpus, n)
    sources = {
        "CPU nodes, mean": "node-hours x price_per_hour",
        "GPU nodes, mean": "node-hours x price_per_hour",
        "head": "wall time x head.price_per_hour",
        "disks": "disk_gb of each node and the head x its hours x prices.disk_gb_month",
        "storage": f"prices.storage_gb_month x {n['storage_months'].value:g} months",
        "traffic": "prices.egress_gb x what is read from outside",
        "requests": f"{written / 1e6:,.1f} M that write and {read / 1e6:,.1f} M that read x prices.write_requests and "
        f"read_requests; {fetched / 1e6:,.0f} M to fetch.base x prices.fetch_requests",
    }
    found = [
        Row("time", "wall time, mean", statistics.mean(costs.seconds) / DAY, "days", how),
        Row("time", "wall time, 90th percentile", _percentile(costs.seconds) / DAY, "days", how),
        Row("time", "spot nodes lost, mean", statistics.mean(lost), "nodes", "groups.spot_losses_per_hour; " + how),
        *(
            Row("money", what, statistics.mean(values), currency, sources[what])
            for what, values in costs.by_part.items()
        ),
        Row("money", "total, mean", statistics.mean(costs.totals), currency, "sum"),
        Row("money", "total, 90th percentile", _percentile(costs.totals), currency, how),
    ]
    return found + _energy(cluster, simulated)


def _energy(cluster: Cluster, simulated: Simulated) -> list[Row]:
    """Energy and carbon, or which node does not say its watts."""
    unknown = [what for node, what in _nodes(cluster, simulated.phases) if node.watts is None]
    if unknown:
        return [Row("energy", "not counted", 0.0, "", f"add {', '.join(dict.fromkeys(f'{w}.watts' for w in unknown))}")]
    own = cluster.energy
    kwh = statistics.mean(
        (sum(hours * (group.watts or 0) for group, hours in one) + s / HOUR * (cluster.head.watts or 0)) / 1000
        for one, s in zip(simulated.hours(), simulated.seconds(), strict=True)
    )
    found = [Row("energy", "energy", kwh * own.pue, "kWh", f"paid hours x watts of each node x energy.pue {own.pue:g}")]
    if own.grams_per_kwh is None:
        return found
    tonnes = kwh * own.pue * own.grams_per_kwh / 1e6
    return [*found, Row("energy", "carbon", tonnes, "t CO2", f"energy x energy.grams_per_kwh {own.grams_per_kwh:g}")]


def _nodes(cluster: Cluster, phases: Sequence[Phase]) -> list[tuple[Node, str]]:
    """The kinds of nodes that a run has, each with the name of its section."""
    return [(cluster.head, "head"), *((phase.group, f"groups ({phase.group.name})") for phase in phases)]


def _price(node: Node) -> float:
    """Of one node, an hour. `check` refuses a cluster that does not say it."""
    assert node.price_per_hour is not None
    return node.price_per_hour


def _percentile(values: list[float]) -> float:
    return statistics.quantiles(values, n=10, method="inclusive")[-1]
