"""What an experiment measures: which stages that needs, and the scores of a finished run, item by item."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from cluster import storage
from ray_jobs.config.recipe import Recipe
from ray_jobs.run import adopted, graph
from ray_jobs.run.graph import BASE, EVALUATE, PRETRAIN_2, SFT_1, SFT_2, TASKS

STAGES: dict[str, tuple[str, ...]] = {
    "bits_per_byte": (EVALUATE,),
    "tasks": (TASKS,),
    "forgetting": (EVALUATE, TASKS),
    "compute": (),
}
"""Measure -> the stages whose results it is read from; of those that a recipe does not have nothing is read."""


class Cell(NamedTuple):
    """What is scored: `what` (bits per byte, or a task), its language, how (`measure`), and whether more is better."""

    what: str
    lang: str
    measure: str
    more_is_better: bool


Scores = Mapping[Cell, Mapping[str, tuple[float, float]]]
"""Cell -> item -> (score, weight); a model's score is the weighted mean: bits of all documents over their bytes."""


def last(recipe: Recipe) -> str | None:
    """The stage whose model a recipe is for: the last of its alignment, else of its pre-training, else the base; None where
    nothing is trained."""
    if recipe.train is None:
        return None
    if rounds := graph.rounds(recipe):
        return rounds[-1]
    if recipe.train.sft:
        return SFT_2 if recipe.train.reward else SFT_1
    return PRETRAIN_2 if recipe.train.pretrain else BASE


def models(recipe: Recipe) -> dict[str, str]:
    """What a model is to the arm -> the stage that made it: the base, the pre-trained one, the one of the end."""
    final = last(recipe)
    if recipe.train is None or final is None:
        return {}
    pretrained = {"pre-trained": PRETRAIN_2} if recipe.train.pretrain else {}
    return {"base": BASE, **pretrained, "final": final}


def scores(uri: str, stages: Iterable[str], stage: str, measure: Iterable[str]) -> Scores:
    """Those of the model that `stage` made in the run at `uri`, which has `stages`."""
    wanted = {name for one in measure for name in STAGES[one]} & set(stages)
    found: dict[Cell, dict[str, tuple[float, float]]] = {}
    if EVALUATE in wanted:
        for row in _rows(adopted.path(uri, EVALUATE, "documents.parquet")):
            if row["model"] == stage and row["bytes"]:
                cell = Cell("bits per byte", row["lang"], "bits_per_byte", more_is_better=False)
                found.setdefault(cell, {})[row["doc_id"]] = row["bits"] / row["bytes"], row["bytes"]
    if TASKS in wanted:
        metrics = _json(adopted.path(uri, TASKS, "metrics.json"))
        for row in _rows(adopted.path(uri, TASKS, "results.parquet")):
            if row["model"] == stage:
                how = metrics.get(row["task"], {}).get(row["lang"], {}).get("measure", "")
                cell = Cell(row["task"], row["lang"], how, more_is_better=True)
                found.setdefault(cell, {})[row["id"]] = row["correct"], 1.0
    return found


def _rows(path: str) -> list[dict]:
    return storage.read_table(path).to_pylist() if storage.exists(path) else []


def _json(path: str) -> dict:
    return storage.read_json(path) if storage.exists(path) else {}
