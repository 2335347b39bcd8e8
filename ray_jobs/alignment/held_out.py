"""Rows of the alignment stages that are not trained on but measured while training (train/monitor/heldout_rows.py)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from ray_jobs.alignment import chats
from train.batches.parts import BatchFn, LossFn
from train.monitor.heldout_rows import LossValidation, batches

log = logging.getLogger(__name__)

MOST = 10  # at most one row in so many of a language


def split(rows: list[dict], every: int, per_language: int) -> tuple[list[dict], list[dict]]:
    """(rows to train on, rows to measure): of each language the `per_language` whose ids hash lowest, a tenth at most; none
    where `every` is 0. Both in the order given."""
    if not every:
        return rows, []
    by_language: dict[str, list[dict]] = {}
    for row in rows:
        by_language.setdefault(row["lang"], []).append(row)
    held = {
        row["id"]
        for of_language in by_language.values()
        for row in chats.sample(of_language, min(per_language, len(of_language) // MOST))
    }
    return [row for row in rows if row["id"] not in held], [row for row in rows if row["id"] in held]


class Settings(TypedDict):
    """What `validation` reads of a stage's settings."""

    loop: dict[str, Any]  # fields of a LoopConfig
    eval_every: int


def validation(
    languages: list[str],
    rows_of: Callable[[list[int]], tuple[BatchFn, int]],
    loss_fn: LossFn,
    settings: Settings,
    metrics: Mapping[str, str] | None = None,
) -> LossValidation | None:
    """What `fit` measures every `settings["eval_every"]` updates; None for 0, and, with a warning, without held-out rows.

    `languages[i]` is that of example i; `rows_of(indices)` is a batch function over these examples and its number of rows.
    """
    found = []
    for language in sorted(set(languages)):
        batch_fn, rows = rows_of([i for i, of_example in enumerate(languages) if of_example == language])
        found += batches(language, batch_fn, rows, settings["loop"]["micro_rows"])
    if not settings["eval_every"]:
        return None
    if not found:
        log.warning("eval_every is set, but nothing is held out: no language has %d rows", MOST)
        return None
    return LossValidation(found, loss_fn, settings["eval_every"], metrics or {})
