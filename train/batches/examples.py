"""Tokenised examples, rows made of them, and the order in which epochs visit rows.

An example is a sequence of tokens of which some are scored (trained, or summed into a log-probability). A row holds one
example, or several laid end to end: positions start anew at each, attention and labels never cross from one to the
next. Labels are shifted, so an example of n tokens takes n - 1 positions.

Axes: B row, T position.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from train.batches.labels import IGNORE


class Example(NamedTuple):
    """`ids`: tokens, int64. `scored`: bool, true for the tokens whose probability counts. Both of one length."""

    id: str
    lang: str
    ids: np.ndarray
    scored: np.ndarray

    @property
    def positions(self) -> int:
        """Positions that it takes in a row."""
        return len(self.ids) - 1

    @property
    def n_scored(self) -> int:
        """Scored tokens; the first token is never one, for nothing predicts it."""
        return int(self.scored[1:].sum())


def collate(rows: list[list[Example]], length: int | None = None) -> dict[str, Tensor]:
    """Rows of examples as tensors [B, T]: input_ids, labels (-100 where not scored), doc_ids, position_ids; and count.

    T is `length`, or the longest row. `doc_ids` numbers the examples through the batch (0, 1, … in row-major order), so
    it also says whose token a position is; padding has the number after the last. `count` is the number of labels.
    """
    n = sum(len(row) for row in rows)
    length = length or max(sum(e.positions for e in row) for row in rows)
    shape = (len(rows), length)
    input_ids_BT = np.zeros(shape, np.int64)
    labels_BT = np.full(shape, IGNORE, np.int64)
    doc_ids_BT = np.full(shape, n, np.int64)
    position_ids_BT = np.zeros(shape, np.int64)
    doc = 0
    for b, row in enumerate(rows):
        start = 0
        for example in row:
            end = start + example.positions
            assert end <= length, f"a row of {end} positions does not fit in {length}"
            input_ids_BT[b, start:end] = example.ids[:-1]
            labels_BT[b, start:end] = np.where(example.scored[1:], example.ids[1:], IGNORE)
            doc_ids_BT[b, start:end] = doc
            position_ids_BT[b, start:end] = np.arange(example.positions)
            start, doc = end, doc + 1
        position_ids_BT[b, start:] = np.arange(length - start)
    return {
        "input_ids": torch.from_numpy(input_ids_BT),
        "labels": torch.from_numpy(labels_BT),
        "doc_ids": torch.from_numpy(doc_ids_BT),
        "position_ids": torch.from_numpy(position_ids_BT),
        "count": torch.tensor(int((labels_BT != IGNORE).sum())),
    }


def within(examples: list[Example], length: int) -> tuple[list[Example], list[dict]]:
    """(examples of at most `length` positions with something scored, ledger rows {doc_id, rule, …} of the others).

    Cutting an answer would teach to stop in mid-sentence, so what does not fit is left out.
    """
    kept, rejects = [], []
    for example in examples:
        ledger = {"doc_id": example.id, "lang": example.lang}
        if example.positions > length:
            detail = f"{example.positions} positions do not fit in {length}"
            rejects.append(
                {**ledger, "rule": "too_long", "value": example.positions, "threshold": length, "detail": detail}
            )
        elif not example.n_scored:
            rejects.append({**ledger, "rule": "nothing_scored", "detail": "no token of it is trained"})
        else:
            kept.append(example)
    return kept, rejects


def token_batches(examples: list[Example], tokens: int) -> list[list[int]]:
    """Indices of `examples` in batches whose padded size is at most `tokens` (or one example), longest first."""
    order = sorted(range(len(examples)), key=lambda i: (-examples[i].positions, i))
    batches: list[list[int]] = []
    width = 0
    for i in order:
        if not batches or (len(batches[-1]) + 1) * width > tokens:
            batches.append([])
            width = max(examples[i].positions, 1)
        batches[-1].append(i)
    return batches


@lru_cache(maxsize=8)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)


def in_epochs(row: int, n: int, seed: int) -> int:
    """Which of `n` things global row number `row` takes: every epoch of n rows is its own seeded permutation."""
    epoch, position = divmod(row, n)
    return int(_permutation(n, seed, epoch)[position])


def steps(n: int, epochs: float, rows_per_step: int) -> int:
    """Updates in which `n` rows are seen `epochs` times; the last update may reach into the next epoch."""
    return max(1, math.ceil(n * epochs / rows_per_step))
