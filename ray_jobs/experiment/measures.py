"""What an experiment measures: which stages that needs, and the scores of a finished run, item by item."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from cluster import storage
from ray_jobs.config.recipe import Recipe
from ray_jobs.run import adopted, graph
from ray_jobs.run.graph import BASE, EVALUATE, PRETRAIN_2, QUALITY, REWARD, SFT_1, SFT_2, TASKS

STAGES: dict[str, tuple[str, ...]] = {
    "bits_per_byte": (EVALUATE,),
    "tasks": (TASKS,),
    "forgetting": (EVALUATE, TASKS),
    "long": ("long",),
    "wildbench": ("wildbench",),
    "compute": (),
    "reward": (REWARD,),
    "small_models": (QUALITY,),
}
"""Measure -> the stages whose results it is read from."""
ANSWERS = {TASKS: "correct", "long": "score", "wildbench": "reward"}
"""Stages with a table of answers, results.parquet, item by item -> its column of scores."""

IN_GROUP = "\1"


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
    """What a model is to the arm -> the stage that made it: the base, those that it is pre-trained to, the one of the end."""
    final = last(recipe)
    if recipe.train is None or final is None:
        return {}
    there = {stage.name for stage in graph.enabled(recipe)}
    between = {"pre-trained": PRETRAIN_2, "long-context": "long_context"}
    return {"base": BASE, **{name: stage for name, stage in between.items() if stage in there}, "final": final}


def scores(uri: str, stages: Iterable[str], stage: str, measure: Iterable[str], *, final: bool = True) -> Scores:
    """Those of the model that `stage` made in the run at `uri`, which has `stages`; with the `final` one those of the reward
    model."""
    wanted = {name for one in measure for name in STAGES[one]} & set(stages)
    found: dict[Cell, dict[str, tuple[float, float]]] = {}
    if EVALUATE in wanted:
        for row in _rows(adopted.path(uri, EVALUATE, "documents.parquet")):
            if row["model"] == stage and row["bytes"] and math.isfinite(row["bits"]):
                cell = Cell("bits per byte", row["lang"], "bits_per_byte", more_is_better=False)
                found.setdefault(cell, {})[row["doc_id"]] = row["bits"] / row["bytes"], row["bytes"]
    tasks = _measures(uri) if TASKS in wanted else {}
    for name, column in ANSWERS.items():
        for row in _rows(adopted.path(uri, name, "results.parquet")) if name in wanted else ():
            if row["model"] == stage and row[column] is not None and math.isfinite(row[column]):
                cell = Cell(_task(name, row), row["lang"], _how(tasks, name, row), more_is_better=True)
                found.setdefault(cell, {})[_item(name, row)] = row[column], 1.0
    if REWARD in wanted and final:
        for row in _rows(adopted.path(uri, REWARD, "heldout.parquet")):
            cell = Cell("reward model", row["lang"], "pair_accuracy", more_is_better=True)
            right = (1 + np.sign(row["chosen_reward"] - row["rejected_reward"])) / 2  # a tie is half a hit
            if math.isfinite(right):
                found.setdefault(cell, {})[row["id"]] = float(right), 1.0
    return found


def _task(stage: str, row: dict) -> str:
    """What a row of answers is a score of: its task, or what its judge says."""
    return f"{stage}, {row['judge']}" if "judge" in row else row["task"]


def _item(stage: str, row: dict) -> str:
    """What is asked, behind the group that it belongs to: questions about one text, translations of one request."""
    group = row["id"] if stage == "wildbench" else row.get("group")
    name = " ".join(str(row[key]) for key in ("id", "length", "depth") if key in row)
    return name if group is None else f"{group}{IN_GROUP}{name}"


def groups(items: Iterable[str]) -> dict[str, str]:
    """Item -> its group, of the items that have one; a language may stand before an item, behind it a zero."""
    return {item: item.rpartition("\0")[2].partition(IN_GROUP)[0] for item in items if IN_GROUP in item}


def _how(tasks: dict, stage: str, row: dict) -> str:
    """How tasks are scored; other stages have one way."""
    return tasks.get(row["task"], {}).get(row["lang"], {}).get("measure", "") if stage == TASKS else stage


def _rows(path: str) -> list[dict]:
    return storage.read_table(path).to_pylist() if storage.exists(path) else []


def _measures(uri: str) -> dict:
    path = adopted.path(uri, TASKS, "metrics.json")
    return storage.read_json(path) if storage.exists(path) else {}
