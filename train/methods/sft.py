"""Supervised fine-tuning: conversations packed into rows of T positions, next-token loss on the assistant's tokens.

loss = - sum over assistant tokens of log p(token | its conversation so far)

Packing is best-fit decreasing: examples from the longest, each into the fullest row that has room for it (arXiv
2404.10830). A conversation is never cut, and attention never crosses from one to the next.
"""

from __future__ import annotations

from train.batches.examples import Example, collate, in_epochs
from train.batches.parts import Batch, BatchFn
from train.methods import pretrain

loss = pretrain.loss
"""Next-token loss over the labels; `batch_fn` puts labels on assistant tokens only."""


def pack(lengths: list[int], room: int) -> list[list[int]]:
    """Indices of `lengths` in rows whose lengths sum to at most `room`, by best-fit decreasing.

    Deterministic: equal lengths go in the order given, of equally full rows the one opened last is filled. About one
    microsecond an example: the free space of rows is a bit mask, whose lowest bit from `length` on is the best fit.
    """
    if lengths and max(lengths) > room:
        raise ValueError(f"An example of {max(lengths)} positions does not fit in rows of {room}.")
    rows: list[list[int]] = []
    by_space: list[list[int]] = [[] for _ in range(room + 1)]
    spaces = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[i]
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            row = by_space[space].pop()
            if not by_space[space]:
                spaces ^= 1 << space
        else:
            space, row = room, len(rows)
            rows.append([])
        rows[row].append(i)
        left = space - length
        by_space[left].append(row)
        spaces |= 1 << left
    return rows


def batch_fn(examples: list[Example], rows: list[list[int]], length: int, seed: int) -> BatchFn:
    """Rows of `length` positions for the loop. `rows`: indices of `examples`, as `pack` gives them.

    Every epoch visits the rows in its own permutation. `count` is the number of assistant tokens.
    """
    if not rows:
        raise ValueError("There is no example to train on.")

    def batch(numbers: list[int]) -> Batch:
        chosen = [rows[in_epochs(number, len(rows), seed)] for number in numbers]
        return collate([[examples[i] for i in row] for row in chosen], length)

    return batch
