"""What would make a run cheaper or quicker: other `max_nodes` of the CPU nodes, another `fetch.gap_bytes`.

Every combination is simulated as the plan is. More nodes than a crawl may use, or than a stage has shards for, are paid while
they wait; wider gaps are fewer requests and more bytes.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cluster.deploy.spec import Cluster, Group
from ray_jobs.config.recipe import Recipe
from ray_jobs.plan.money import DAY, Costs
from ray_jobs.plan.rates import GAPS

SEEDS = 3
WORTH = 0.01  # of the total: less than this is no proposal
SAME = 0.005  # of the total: two that differ by less cost the same


@dataclass(frozen=True)
class Proposal:
    """Keys and their values, and what the run then takes; without keys the run as it is asked for."""

    keys: dict[str, int]
    total: float
    days: float


Costing = Callable[[Recipe, Cluster], Costs]
"""The costs of a recipe on a cluster. Raises ValueError where it does not fit."""


def better(recipe: Recipe, cluster: Cluster, group: Group, crawled: bool, costs: Costing) -> list[Proposal]:
    """The run as it is, then the cheapest that is no slower and the cheapest of all, where they are worth it.

    `group`: of the CPU nodes; `crawled`: whether `fetch.gap_bytes` changes anything."""
    found = list(_all(recipe, cluster, group, crawled, costs))
    if not found or found[0].keys:
        return []
    asked, *others = found
    chosen = [asked]
    for as_quick in (True, False):
        those = [one for one in others if not as_quick or one.days <= asked.days]
        best = min(those, key=lambda one: one.total, default=asked)
        same = [one for one in those if one.total <= best.total + SAME * asked.total]
        best = min(same, key=lambda one: (len(one.keys), one.days), default=asked)
        if best.total < (1 - WORTH) * asked.total and best.total < (1 - SAME) * chosen[-1].total:
            chosen.append(best)
    return chosen


def _all(recipe: Recipe, cluster: Cluster, group: Group, crawled: bool, costs: Costing) -> Iterator[Proposal]:
    """Every combination that fits, what is asked for first."""
    halves = [group.max_nodes]
    while halves[-1] > 1:
        halves.append(halves[-1] // 2)
    gaps = [recipe.fetch.gap_bytes, *(gap for gap in GAPS.values() if crawled and gap != recipe.fetch.gap_bytes)]
    for nodes, gap in itertools.product(halves, gaps):
        keys = {f"groups ({group.name}).max_nodes": nodes} if nodes != group.max_nodes else {}
        keys |= {"fetch.gap_bytes": gap} if gap != recipe.fetch.gap_bytes else {}
        fetch = recipe.fetch.model_copy(update={"gap_bytes": gap})
        groups = [
            one.model_copy(update={"max_nodes": nodes, "min_nodes": min(one.min_nodes, nodes)}) if one is group else one
            for one in cluster.groups
        ]
        try:
            made = costs(recipe.model_copy(update={"fetch": fetch}), cluster.model_copy(update={"groups": groups}))
        except ValueError:  # it does not fit
            continue
        yield Proposal(keys, statistics.mean(made.totals), statistics.mean(made.seconds) / DAY)
