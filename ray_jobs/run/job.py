"""What a stage's module gets: the recipe, where to read and to write, and the progress bar."""

from __future__ import annotations

from dataclasses import dataclass

from cluster import storage
from ray_jobs.config.alignment import Dpo, Reward, Sft
from ray_jobs.config.given import given
from ray_jobs.config.mixture import Regmix
from ray_jobs.config.recipe import Recipe
from ray_jobs.config.training import Pretrain, Train
from ray_jobs.run import adopted
from ray_jobs.run.graph import BASE, Stage
from ray_jobs.run.progress import Progress


@dataclass(frozen=True)
class Share:
    """Every `of`-th item of a stage, from number `number` on, counted from 0."""

    number: int
    of: int


class ShareDone(BaseException):
    """Ends a stage of which only a share was wanted: no error, so nothing that handles errors may catch it."""


@dataclass
class Job:
    """The argument of a stage's `run(job)`.

    Sections that a recipe may leave out are properties here: a stage that needs one runs only where it is there."""

    recipe: Recipe
    run_uri: str
    stage: Stage
    fingerprint: str
    progress: Progress
    address: str | None = None
    ray: bool = True  # False: work stays in processes of this machine, and on the ranks of torchrun
    share: Share | None = None  # of a stage of which only a part is done here

    def path(self, *parts: str) -> str:
        """A URI inside this stage's folder."""
        return storage.join(self.run_uri, self.stage.name, *parts)

    def input(self, stage: str, *parts: str) -> str:
        """A URI inside the folder of an input stage."""
        assert stage in self.stage.inputs, f"{self.stage.name} does not declare its input {stage}"
        return adopted.path(self.run_uri, stage, *parts)

    def has(self, stage: str) -> bool:
        """Whether `stage` is part of this run and an input of this one."""
        return stage in self.stage.inputs

    @property
    def seed(self) -> int:
        """Of a training stage: `train.seed` for all that follow the base, where it is given."""
        own = None if self.stage.name == BASE else self.train.seed
        return self.recipe.seed if own is None else own

    @property
    def train(self) -> Train:
        return given(self.recipe.train)

    @property
    def pretrain(self) -> Pretrain:
        return given(self.train.pretrain)

    @property
    def reward(self) -> Reward:
        return given(self.train.reward)

    @property
    def sft(self) -> Sft:
        return given(self.train.sft)

    @property
    def dpo(self) -> Dpo:
        return given(self.train.dpo)

    @property
    def regmix(self) -> Regmix:
        return given(self.recipe.mixture.regmix)

    @property
    def ledger(self) -> str:
        return storage.join(self.run_uri, "dropped", self.stage.name)

    @property
    def metrics(self) -> str:
        """The folder of the training metrics of the run."""
        return storage.join(self.run_uri, "metrics")

    @property
    def metrics_uri(self) -> str:
        """The training metrics of this stage."""
        return storage.join(self.metrics, f"{self.stage.name.replace('/', '-')}.jsonl")

    def manifest(self, stage: str) -> dict:
        return storage.read_json(self.input(stage, "_manifest.json"))
