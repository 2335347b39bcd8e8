"""An experiment as a file: one question, its arms as changes of one recipe, what is measured, with which seeds.

Everything is checked here, before anything runs: names, keys of arms, whether each arm is a recipe that can be.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from cluster import strict_yaml
from cluster.strict_yaml import Section
from curation.policy.keys import nearest
from ray_jobs.config import reader as recipes
from ray_jobs.config.recipe import Recipe
from ray_jobs.errors import UserError
from ray_jobs.experiment import measures
from ray_jobs.run import graph

SHIPPED = Path(__file__).parents[1] / "experiments"
SEED = "train.seed"
EQUAL_COMPUTE = "equal_compute"  # of an arm, beside its recipe keys: the arm whose training FLOPs it gets too
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]


class Experiment(Section):
    """Each key is documented in docs/experiments.md."""

    name: Name
    question: str
    base: str  # a shipped recipe, or a file; beside this one, or from where the command is given
    set: dict[str, Any] = {}  # recipe keys of all arms
    arms: Annotated[dict[Name, dict[str, Any]], Field(min_length=2)]
    control: str | None = None  # the arm that others are compared with; None: the first
    measure: Annotated[list[str], Field(min_length=1)] = ["bits_per_byte", "tasks", "forgetting", "compute"]
    seeds: Annotated[list[int], Field(min_length=1)] = [42]
    seed_keys: list[str] = [SEED]  # recipe keys that a seed is the value of

    @model_validator(mode="after")
    def _names(self) -> Experiment:
        for measure in self.measure:
            if measure not in measures.STAGES:
                known = ", ".join(measures.STAGES)
                raise ValueError(
                    f"measure: {measure!r} is no measure{nearest(measure, measures.STAGES)}; there are {known}"
                )
        if self.control is not None and self.control not in self.arms:
            raise ValueError(f"control: there is no arm {self.control!r}{nearest(self.control, self.arms)}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: one is there twice")
        before: list[str] = []
        for arm, changes in self.arms.items():
            other = changes.get(EQUAL_COMPUTE)
            if other is not None and other not in before:
                raise ValueError(f"arms.{arm}.{EQUAL_COMPUTE}: {other!r} is no arm before this one")
            before.append(arm)
        return self

    @property
    def compared_with(self) -> str:
        return self.control or next(iter(self.arms))


@dataclass(frozen=True)
class Trial:
    """One arm with one seed, as the recipe that it is. `equal_compute`: the arm whose compute it gets."""

    arm: str
    seed: int
    recipe: Recipe
    equal_compute: str | None = None

    @property
    def folder(self) -> str:
        """Below the folder of the experiment."""
        return f"{self.arm}/{self.seed}"


def shipped() -> list[str]:
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of an experiment given as a path or as the name of one that ships with Pinisi."""
    for path in (Path(name), SHIPPED / f"{name}.yaml"):
        if path.is_file():
            return path
    raise UserError(f"{name}: no such file, and none of the shipped experiments ({', '.join(shipped())}) has that name")


def load(name: str, seeds: Sequence[int] = ()) -> tuple[Experiment, Path]:
    """The experiment of a file or of a shipped name; `seeds` replace its own. Raises UserError naming file, line and key."""
    path = find(name)
    try:
        values = strict_yaml.read(path, "experiment")
        found = Experiment.model_validate({**values, "seeds": list(seeds)} if seeds else values)
    except ValidationError as error:
        raise UserError(strict_yaml.explain(error, Experiment, path)) from None
    except ValueError as error:
        raise UserError(str(error)) from None
    return found, path


def trials(experiment: Experiment, path: Path, overrides: Sequence[str] = ()) -> list[Trial]:
    """The recipes of all arms and seeds, seed by seed, the arms of one in their order. `overrides`: `key=value` of all arms.

    Raises UserError naming the arm and key."""
    base = _base(experiment.base, path)
    try:
        recipes.load(base, [*_given(experiment.set), *overrides])
    except UserError as error:
        raise UserError(f"{path}: base: {error}") from None
    found = [
        Trial(
            arm,
            seed,
            _recipe(experiment, path, base, arm, [*overrides, *_given(dict.fromkeys(experiment.seed_keys, seed))]),
            changes.get(EQUAL_COMPUTE),
        )
        for seed in experiment.seeds
        for arm, changes in experiment.arms.items()
    ]
    pretrained = {trial.arm: bool(trial.recipe.train and trial.recipe.train.pretrain) for trial in found}
    for trial in found:
        if (other := trial.equal_compute) and not (pretrained[trial.arm] and pretrained[other]):
            raise UserError(
                f"{path}: arms.{trial.arm}.{EQUAL_COMPUTE}: tokens of pre-training make compute equal, so {trial.arm} and "
                f"{other} both need train.pretrain"
            )
        there = {stage.name for stage in graph.enabled(trial.recipe)}
        for measure in experiment.measure:
            if (stages := measures.STAGES[measure]) and not there & set(stages):
                raise UserError(
                    f"{path}: measure: {measure} is read from {' or '.join(stages)}, which arm {trial.arm} does not have; give "
                    f"its section in the recipe, or leave the measure out"
                )
    return found


def _base(named: str, path: Path) -> str:
    beside = path.parent / named
    return str(beside) if beside.is_file() else named


def _recipe(experiment: Experiment, path: Path, base: str, arm: str, overrides: list[str]) -> Recipe:
    own = {key: value for key, value in experiment.arms[arm].items() if key != EQUAL_COMPUTE}
    try:
        return recipes.load(base, [*_given(experiment.set), *overrides, *_given(own)])
    except UserError as error:
        said = str(error).removeprefix("--set ")
        raise UserError(f"{path}: arms.{arm}: {said}") from None


def _given(changes: dict[str, Any]) -> list[str]:
    """As `--set` takes them: JSON is YAML."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changes.items()]
