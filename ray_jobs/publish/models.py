"""The models that a run has exported, by their names."""

from __future__ import annotations

from cluster import storage
from ray_jobs.errors import UserError
from ray_jobs.run import adopted
from ray_jobs.run.graph import EXPORT
from ray_jobs.run.run import Run

NAMES = ("chat", "base", "long", "pruned")


def folder(run: Run, name: str) -> str:
    """Where the exported model `name` lies (a URI). Raises UserError where there is none, or one of another recipe."""
    place = adopted.path(run.uri, EXPORT, name)
    if not storage.exists(storage.join(place, "config.json")):
        raise UserError(f"{run.uri}: the model {name} is not exported; `pinisi run … --until export` exports it")
    if not run.stands(EXPORT):
        raise UserError(
            f"{run.uri}: the model {name} is not what its recipe asks for now; `pinisi run … --until export` makes it"
        )
    return place


def first(run: Run) -> str:
    """The first exported model of `NAMES`. Raises UserError where there is none."""
    for name in NAMES:
        if storage.exists(adopted.path(run.uri, EXPORT, name, "config.json")):
            return name
    raise UserError(f"{run.uri}: no model is exported; `pinisi run … --until export` exports it, or push --what corpus")
