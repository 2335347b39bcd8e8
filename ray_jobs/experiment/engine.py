"""Run the arms of an experiment, one after the other, each as a run of its own that shares what is equal.

    EXPERIMENT/<arm>/<seed>/      a run; what is adopted lies elsewhere (`_adopted.json`)
    EXPERIMENT/experiment.json    the question, and of each arm and seed what it adopted and what it made
    EXPERIMENT/comparison.json    what ray_jobs/experiment/comparison.py finds
    EXPERIMENT/index.html         the same as a page

Whatever kills an experiment, the same command goes on: what is done is found done, what was begun continues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from cluster import storage
from ray_jobs.config import reader as recipes
from ray_jobs.config.recipe import Recipe
from ray_jobs.errors import StageFailed, UserError
from ray_jobs.experiment import compute, sharing
from ray_jobs.experiment.sharing import Known, Shared
from ray_jobs.experiment.specification import Experiment, Trial
from ray_jobs.run import adopted, lock, preflight
from ray_jobs.run.run import Run, open_run

RECORD = "experiment.json"


class Planned(NamedTuple):
    trial: Trial
    run: Run
    shared: Shared


def plan(experiment: Experiment, trials: Sequence[Trial], uri: str, donors: Sequence[str]) -> list[Planned]:
    """What each trial would adopt and make, the earlier ones done. Raises UserError as a run would before its first stage."""
    known = _of_donors(donors)
    found: list[Planned] = []
    for trial in trials:
        trial = _at_equal_compute(trial, found, compute.likely_tokens)
        run = Run(storage.join(uri, trial.folder), trial.recipe)
        with _named(trial):
            shared = sharing.settle(run, known, experiment.measure)
            for donor in donors:
                sharing.only_code_differs(run, donor, shared)
        known |= {(name, shared.prints[name]): sharing.Made(run.uri, shared.prints[name]) for name in shared.waiting}
        found.append(Planned(trial, run, shared))
    return found


def check(planned: Sequence[Planned], address: str | None) -> None:
    """Raises UserError for what an arm will miss, before the first one runs."""
    for trial, run, shared in planned:
        stages = [stage for stage in run.stages if stage.name in shared.waiting]
        with _named(trial):
            preflight.check(run.recipe, run.uri, stages, stages, say=lambda _: None, address=address)


def execute(
    experiment: Experiment,
    trials: Sequence[Trial],
    uri: str,
    donors: Sequence[str] = (),
    *,
    address: str | None = None,
    say: Callable[[str], None] = print,
) -> list[Planned]:
    """Make what is not there. Returns the trials as they were run. Raises UserError, or StageFailed naming the arm."""
    check(plan(experiment, trials, uri, donors), address)
    done: list[Planned] = []
    with lock.held(uri, say):
        known = _of_donors(donors)
        for trial in trials:
            trial = _at_equal_compute(trial, done, compute.equal_tokens)
            run = Run(storage.join(uri, trial.folder), trial.recipe)
            shared = sharing.settle(run, known, experiment.measure)
            adopted.write(run.uri, shared.adopted)
            say(f"arm {trial.arm}, seed {trial.seed}: {_said(shared)}")
            with _named(trial):
                run.execute(among=shared.waiting, address=address, say=say)
            known |= sharing.results(run.uri)
            done.append(Planned(trial, run, shared))
            _record(experiment, uri, done)
    return done


def _of_donors(donors: Sequence[str]) -> Known:
    known: Known = {}
    for donor in donors:
        known |= sharing.results(open_run(donor).uri)
    return known


@contextmanager
def _named(trial: Trial) -> Iterator[None]:
    """Errors within say of which arm they are."""
    try:
        yield
    except (UserError, StageFailed) as error:
        raise type(error)(f"arm {trial.arm}, seed {trial.seed}: {error}") from error


def _said(shared: Shared) -> str:
    made = f"makes {', '.join(shared.waiting)}" if shared.waiting else "makes nothing"
    return f"{made}; adopts {len(shared.adopted)} stages"


def _at_equal_compute(trial: Trial, done: Sequence[Planned], count: Callable[[Run, Recipe], dict[str, int]]) -> Trial:
    """With as many tokens of pre-training as cost what the arm that it names has cost, or may cost."""
    if trial.equal_compute is None:
        return trial
    other = next(one for one in done if (one.trial.arm, one.trial.seed) == (trial.equal_compute, trial.seed))
    values = trial.recipe.model_dump()
    for name, tokens in count(other.run, trial.recipe).items():
        values["train"]["pretrain"][name]["tokens"] = tokens
    recipe = recipes.parse(values, f"arms.{trial.arm}")
    return Trial(trial.arm, trial.seed, recipe, trial.equal_compute)


def _record(experiment: Experiment, uri: str, done: Sequence[Planned]) -> None:
    found = {
        "experiment": experiment.model_dump(),
        "trials": [
            {
                "arm": one.trial.arm,
                "seed": one.trial.seed,
                "run": one.run.uri,
                "adopted": one.shared.adopted,
                "made": one.shared.waiting,
            }
            for one in done
        ],
    }
    storage.write_json(storage.join(uri, RECORD), found)


def as_json(one: Planned, planned: Sequence[Planned]) -> dict:
    """What `--dry-run` says of a trial."""
    trial, run, shared = one
    try:
        ahead = compute.forecast(run, shared.waiting)
    except ValueError as error:
        raise UserError(f"arm {trial.arm}: {error}") from None
    equal = None
    if trial.equal_compute is not None:
        other = next(p.run.recipe for p in planned if p.trial.arm == trial.equal_compute)
        ratio = compute.planned(other)[1] / compute.planned(run.recipe)[1]
        equal = {"arm": trial.equal_compute, "ratio": ratio}
    return {
        "arm": trial.arm,
        "seed": trial.seed,
        "adopted": shared.adopted,
        "makes": shared.waiting,
        "flops": ahead.flops,
        "tokens": ahead.tokens,
        "at_most": ahead.at_most,
        "equal_compute": equal,
    }
