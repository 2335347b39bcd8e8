"""The items of `train.eval_tasks`, which a model is asked while it is pre-trained. They decide no weight."""

from __future__ import annotations

import dataclasses
import logging
from typing import TypedDict

from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.config.given import given
from ray_jobs.errors import UserError
from ray_jobs.run import task_choice
from ray_jobs.run.job import Job
from ray_jobs.training import task_items
from ray_jobs.work.rows import write_ledger
from train.tasks import measure
from train.tasks.suite import Suite
from train.tasks.task import Item, Task

log = logging.getLogger(__name__)

TOKENS_PER_ROW = 1024
KEY = "train.eval_tasks"


class Cell(TypedDict):
    task: dict  # fields of a Task
    lang: str
    shots: list[Item]
    items: list[Item]


def cells(job: Job) -> list[Cell]:
    """What is asked; rows that are no items go to the ledger of the stage. Raises UserError where there are none."""
    settings = given(job.train.eval_tasks)
    known = task_choice.with_options(settings, KEY)
    found, rejects = task_items.read(settings, job.recipe.languages, known, KEY)
    write_ledger(job, rejects, "part-eval-tasks")
    if not found:
        raise UserError(f"{KEY}.rows: no row of a task with options in the recipe's languages; see {job.ledger}")
    return [
        {"task": dataclasses.asdict(known[name]), "lang": lang, "shots": _small(shots), "items": _small(items)}
        for (name, lang), (shots, items) in found.items()
    ]


def _small(items: list[Item]) -> list[Item]:
    """Without the rows that they were made of, as they are sent to every worker."""
    return [item._replace(row={}) for item in items]


def suite(given_cells: list[Cell], tokenizer, most: int) -> Suite:
    """The items as rows for a model that reads `most` tokens; those that are longer are left out with a warning.

    Raises ValueError where all are."""
    of, items, questions = [], [], []
    for cell in given_cells:
        task = Task(**cell["task"])
        asked = [Item(*item) for item in cell["items"]]
        shots = [Item(*item) for item in cell["shots"]]
        encoded = measure.tokenized(tokenizer, shots, asked, lambda texts: tokenizers.encode(tokenizer, texts))  # type: ignore[arg-type,return-value]
        found = list(zip(asked, encoded, strict=True))
        fitting = [(item, question) for item, question in found if question.longest <= most]
        if len(fitting) < len(found):
            long = len(found) - len(fitting)
            log.warning("%s: %d items of %s in %s are longer than %d tokens", KEY, long, task.name, cell["lang"], most)
        of += [(task, cell["lang"])] * len(fitting)
        items += [item for item, _ in fitting]
        questions += [question for _, question in fitting]
    if not items:
        raise ValueError(f"{KEY}: each item is longer than {most} tokens; set fewer `shots`, or leave {KEY} out")
    return Suite(of, items, questions, TOKENS_PER_ROW)
