"""What a stage's module gets: the recipe, where to read and to write, and the progress bar."""

from __future__ import annotations

from dataclasses import dataclass

from cluster import storage
from ray_jobs.config.recipe import Recipe
from ray_jobs.run.graph import Stage
from ray_jobs.run.progress import Progress


@dataclass
class Job:
    """The argument of a stage's `run(job)`."""

    recipe: Recipe
    run_uri: str
    stage: Stage
    fingerprint: str
    progress: Progress
    address: str | None = None

    def path(self, *parts: str) -> str:
        """A URI inside this stage's folder."""
        return storage.join(self.run_uri, self.stage.name, *parts)

    def input(self, stage: str, *parts: str) -> str:
        """A URI inside the folder of an input stage."""
        assert stage in self.stage.inputs, f"{self.stage.name} does not declare its input {stage}"
        return storage.join(self.run_uri, stage, *parts)

    def has(self, stage: str) -> bool:
        """Whether `stage` is part of this run and an input of this one."""
        return stage in self.stage.inputs

    @property
    def ledger(self) -> str:
        return storage.join(self.run_uri, "dropped", self.stage.name)

    @property
    def metrics(self) -> str:
        """The folder of the training metrics of the run."""
        return storage.join(self.run_uri, "metrics")

    def manifest(self, stage: str) -> dict:
        return storage.read_json(self.input(stage, "_manifest.json"))
