"""The tasks that a recipe asks its models, and which models."""

from __future__ import annotations

from collections.abc import Iterable

from cluster import storage
from ray_jobs.config.recipe import Long, Tasks
from ray_jobs.config.training import ItemRows
from ray_jobs.errors import UserError
from ray_jobs.run import files
from ray_jobs.run.graph import TOKENIZE, TRAINED_ON
from train.tasks import task as task_files
from train.tasks.task import Task


def specifications(settings: ItemRows, key: str = "evaluate.tasks") -> dict[str, Task]:
    """The tasks of the recipe by name: those shipped and its own, less those that it leaves out. `key` is where it has
    `settings`. Raises UserError."""
    known = dict(task_files.shipped())
    for pattern in settings.own:
        for path in files.named([pattern], f"{key}.own"):
            try:
                task = task_files.load(path, storage.read_bytes(path).decode("utf-8", "replace"))
            except ValueError as error:
                raise UserError(f"{key}.own: {error}") from None
            known[task.name] = task
    for name in settings.include:
        if name not in known:
            raise UserError(f"{key}.include: there is no task {name}; there are {', '.join(sorted(known))}")
    return {name: task for name, task in known.items() if not settings.include or name in settings.include}


def with_options(settings: ItemRows, key: str) -> dict[str, Task]:
    """Those of `specifications` that ask for an option. Raises UserError where one that is included does not."""
    known = specifications(settings, key)
    for name in settings.include:
        if known[name].kind != "options":
            raise UserError(
                f"{key}.include: {name} wants {known[name].kind}, and only options are asked while a model trains"
            )
        if known[name].score == "sequence_ppl":
            raise UserError(f"{key}.include: {name} counts by sequence_ppl, which is not measured while a model trains")
    return {name: task for name, task in known.items() if task.kind == "options" and task.score != "sequence_ppl"}


def models(settings: Tasks | Long, there: Iterable[str]) -> list[str]:
    """Of the stages `there` that have a model those that the recipe asks; all where it names none. Raises UserError."""
    there = [name for name in there if name not in (*TRAINED_ON, TOKENIZE)]
    for name in settings.models:
        if name not in there:
            key = "tasks" if isinstance(settings, Tasks) else "long"
            raise UserError(f"evaluate.{key}.models: this run asks no model of {name!r}; it has {', '.join(there)}")
    return [name for name in there if not settings.models or name in settings.models]
