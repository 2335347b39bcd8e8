"""A run on an autoscaled cluster that loses spot nodes, as a discrete-event simulation: wall time, money, nodes over time.

Phases follow one another, as stages do. A phase asks for nodes of one group; each comes after a while, and is taken away
after an exponential time when the group is spot, with what it had in flight. Work of a shard phase runs on any number of
nodes; a gang (training) runs only while all of its nodes are there and goes back to its last checkpoint when one is lost.
A node costs from its request until it has idled out.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass

from cluster.deploy.spec import Group

MAX_EVENTS = 2_000_000
START_SPREAD = (0.8, 1.5)  # a start takes so many times `start_seconds`, uniformly


@dataclass(frozen=True)
class Phase:
    """`node_seconds` of work on up to `nodes` nodes of `group`; what a lost node loses is up to `redo_seconds` of work.

    `limit` is how many nodes' worth of work can be done at once, however many there are: someone else's server may not be
    asked faster."""

    name: str
    group: Group
    nodes: int
    node_seconds: float
    redo_seconds: float
    gang: bool = False
    limit: float = math.inf


@dataclass(frozen=True)
class Span:
    """What a phase took: seconds from the start of the run, node-seconds paid, nodes lost."""

    name: str
    begin: float
    end: float
    nodes: int
    paid_node_seconds: float
    lost: int


def simulate(phases: list[Phase], seed: int) -> list[Span]:
    """One run. The same phases and seed give the same spans. Raises ValueError when losses outrun the work."""
    chance = random.Random(seed)
    clock, spans = 0.0, []
    for phase in phases:
        span = _phase(phase, clock, chance)
        spans.append(span)
        clock = span.end
    return spans


def _phase(phase: Phase, begin: float, chance: random.Random) -> Span:
    group, work = phase.group, phase.node_seconds
    loss_rate = group.spot_losses_per_hour / 3600 if group.spot else 0.0
    events: list[tuple[float, int, str]] = []  # (time, request number, kind)
    requested: dict[int, float] = {}  # request number -> when its node was asked for: each costs from then on
    up: set[int] = set()
    paid, lost, number, now = 0.0, 0, 0, begin

    def request(at: float) -> None:
        nonlocal number
        number += 1
        requested[number] = at
        heapq.heappush(events, (at + group.start_seconds * chance.uniform(*START_SPREAD), number, "ready"))

    def speed() -> float:
        if phase.gang:
            return float(phase.nodes) if len(up) == phase.nodes else 0.0
        return min(float(len(up)), phase.limit)

    for _ in range(phase.nodes):
        request(begin)
    for _ in range(MAX_EVENTS):
        at, node, kind = events[0] if events else (math.inf, 0, "none")
        done = now + work / speed() if speed() else math.inf
        if done <= at:
            # nodes that still start are counted too; all of them go when they have been idle
            paid += sum(done - since + group.idle_seconds for since in requested.values())
            return Span(phase.name, begin, done, phase.nodes, paid, lost)
        heapq.heappop(events)
        work -= speed() * (at - now)
        now = at
        if kind == "ready":
            up.add(node)
            if loss_rate:
                heapq.heappush(events, (now + chance.expovariate(loss_rate), node, "loss"))
        else:
            # what was in flight: the whole gang's work since its checkpoint, or one node's share of the speed
            share = phase.nodes if phase.gang else speed() / len(up)
            work = min(phase.node_seconds, work + chance.uniform(0.0, phase.redo_seconds) * share)
            up.discard(node)
            paid += now - requested.pop(node)
            lost += 1
            request(now)
    raise ValueError(
        f"{phase.name}: nodes of {group.name} are lost faster than the work gets done; lower groups.{group.name}."
        "spot_losses_per_hour by other zones or instances, or set spot: false"
    )
