"""Which stages of an arm another run has already made, and which of the others it needs.

A stage whose fingerprint is equal is adopted (ray_jobs/run/adopted.py). An arm makes what its measures are read from, and of
what lies before that only what nobody has: where the final model's start is adopted, what that was made of is not made again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from cluster import storage
from ray_jobs.errors import UserError
from ray_jobs.experiment import measures
from ray_jobs.run import adopted, graph, superseded
from ray_jobs.run.fingerprint import digest
from ray_jobs.run.graph import REPORT, ROUNDS
from ray_jobs.run.keeping import read_json
from ray_jobs.run.run import Run
from ray_jobs.training import data_order


class Made(NamedTuple):
    """A finished result: the run that holds it, and its fingerprint (that of an accepted change of code has another)."""

    home: str
    fingerprint: str


Known = dict[tuple[str, str], Made]
"""(stage, fingerprint) -> who has it."""


class Shared(NamedTuple):
    """Of one run: stage -> the run that it is adopted from; the stages that it makes, in order; all fingerprints."""

    adopted: dict[str, str]
    waiting: list[str]
    prints: dict[str, str]


def results(uri: str) -> Known:
    """What the run at `uri` has made or adopted. Raises UserError where its training was changed on the way (`pinisi weights`,
    `takedown`), which no fingerprint says: what came of it is not what its recipe asks."""
    if changed := storage.glob(storage.join(uri, data_order.LEDGER, "*.jsonl")):
        raise UserError(
            f"{uri}: its training was changed on the way ({changed[0].rsplit('/', 1)[1]} in {data_order.LEDGER}), so arms cannot "
            f"share it; give another run to --from, or none"
        )
    found: Known = {}
    for stage in dict.fromkeys([*(stage.name for stage in graph.STAGES), *ROUNDS]):
        home = adopted.home(uri, stage)
        if manifest := read_json(storage.join(home, stage, superseded.MANIFEST)):
            made = Made(home, manifest["fingerprint"])
            for one in (manifest, *manifest.get("kept", ())):
                found[stage, one["fingerprint"]] = made
    return found


def settle(run: Run, known: Known, measured: Collection[str]) -> Shared:
    """What `run` adopts of what is `known`, and what it must make to be `measured`."""
    found: dict[str, str] = {}
    prints: dict[str, str] = {}
    for stage in run.stages:
        own = digest(run.parts(stage, prints))
        mine = read_json(storage.join(run.uri, stage.name, superseded.MANIFEST))
        if mine and own in {one["fingerprint"] for one in (mine, *mine.get("kept", ()))}:
            found[stage.name], prints[stage.name] = run.uri, mine["fingerprint"]
        elif other := known.get((stage.name, own)):
            found[stage.name], prints[stage.name] = other
        else:
            prints[stage.name] = own
    targets = {stage for measure in measured for stage in measures.STAGES[measure]} | {measures.last(run.recipe)}
    return Shared(
        {name: home for name, home in found.items() if home != run.uri and name != REPORT},
        needed(run, found, targets),
        prints,
    )


def needed(run: Run, there: Collection[str], targets: Iterable[str | None]) -> list[str]:
    """The stages without which `targets` cannot be made, those that are `there` and what only these need left out."""
    stages = {stage.name: stage for stage in run.stages}
    waiting, found = [name for name in targets if name in stages], set()
    while waiting:
        name = waiting.pop()
        if name not in there and name not in found:
            found.add(name)
            waiting += [*stages[name].inputs, *stages[name].after]
    return [name for name in stages if name in found]


def only_code_differs(run: Run, donor: str, shared: Shared) -> None:
    """Raises UserError for a stage of the run `donor` that took long and that `run` would make again for a change of code
    alone."""
    for name in shared.waiting:
        made = read_json(adopted.path(donor, name, superseded.MANIFEST)) or {}
        if made.get("asked") == run.asked[name] and made["seconds"] > 60 * run.recipe.run.guard_minutes:
            raise UserError(
                f"--from {donor}: {name} took {made['seconds'] / 60:,.0f} minutes and would be made again for a change of code "
                f"alone; `pinisi run {run.recipe.name} --run-dir {donor} --keep {name}` accepts it as it is"
            )
