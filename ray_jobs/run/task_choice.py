"""The tasks that a recipe asks its models, and which models."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cluster import storage
from ray_jobs.config.recipe import Tasks
from ray_jobs.errors import UserError
from ray_jobs.run import files
from train.tasks import task as task_files
from train.tasks.task import Task


def specifications(settings: Tasks) -> dict[str, tuple[Task, str]]:
    """{name: (task, its YAML)} of the recipe: those shipped and its own, less those that it leaves out. Raises UserError."""
    folder = Path(task_files.__file__).parent / "sets"
    texts = {name: (folder / f"{name}.yaml").read_text("utf-8") for name in task_files.shipped()}
    for pattern in settings.own:
        for path in files.named([pattern], "evaluate.tasks.own"):
            text = storage.read_bytes(path).decode("utf-8", "replace")
            try:
                texts[task_files.load(path, text).name] = text
            except ValueError as error:
                raise UserError(f"evaluate.tasks.own: {error}") from None
    unknown = [name for name in settings.include if name not in texts]
    if unknown:
        raise UserError(f"evaluate.tasks.include: there is no task {unknown[0]}; there are {', '.join(sorted(texts))}")
    chosen = {name: text for name, text in texts.items() if not settings.include or name in settings.include}
    return {name: (task_files.load(f"{name}.yaml", text), text) for name, text in chosen.items()}


def models(settings: Tasks, there: Iterable[str]) -> list[str]:
    """Of the stages whose models are `there` those that the recipe asks; all where it names none. Raises UserError."""
    there = list(there)
    for name in settings.models:
        if name not in there:
            raise UserError(f"evaluate.tasks.models: this run asks no model of {name!r}; it has {', '.join(there)}")
    return [name for name in there if not settings.models or name in settings.models]
