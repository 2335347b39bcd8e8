"""Greedy choice of rows that differ: exact, a block of rows at a time, in memory of a block and of what was taken.

A row is taken unless its cosine with one taken before it exceeds `max_cosine`. Each block meets the taken rows in matrix
products; inside a block the order is kept. Cosines are float64 and rounded to 12 decimals, so that the order in which a
library adds decides nothing: the result is that of the loop over single rows, ties included
(`tests/equality/test_select_equality.py`). The cosine with a row of zeros is 0.

Cost: N C E multiplications for N rows seen, C of them taken. Axes: N rows in their order, B of a block, C taken, E width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

DECIMALS = 12
COLUMNS = 8192  # taken rows that a block meets in one product

Rows = Callable[[np.ndarray], np.ndarray]
"""Row numbers [n] to embeddings [n, E], of any length: what is asked for is all that need be in memory."""


class Chosen(NamedTuple):
    """`taken_N`: bool. `cosine_N`: the largest with those taken before, -inf for the first. `nearest_N`: the row of that
    one (of equals the first taken), or -1. `seen`: rows looked at until the quota was reached; later ones have neither."""

    taken_N: np.ndarray
    cosine_N: np.ndarray
    nearest_N: np.ndarray
    seen: int


def greedy(rows: Rows, n: int, quota: int, max_cosine: float, block: int = 1024) -> Chosen:
    """Of rows 0 .. n - 1, in this order, take up to `quota`."""
    chosen = Chosen(np.zeros(n, bool), np.full(n, -np.inf), np.full(n, -1), n)
    taken = _Taken()
    for start in range(0, n, block):
        if len(taken.rows) >= quota:
            return chosen._replace(seen=start)
        unit_BE = unit(rows(np.arange(start, min(start + block, n))))
        best_B, nearest_B = taken.nearest(unit_BE)
        seen = len(unit_BE)
        # Only rows that differ enough from all earlier blocks can be taken, so only they can change the others.
        open_B = np.flatnonzero(best_B <= max_cosine)
        for b, cosine_B in zip(open_B, _cosines(unit_BE[open_B], unit_BE), strict=True):
            if best_B[b] > max_cosine:
                continue
            taken.add(start + int(b), unit_BE[b])
            chosen.taken_N[start + b] = True
            if len(taken.rows) >= quota:
                seen = int(b) + 1
                break
            nearer_B = cosine_B > best_B
            nearer_B[: b + 1] = False
            best_B[nearer_B], nearest_B[nearer_B] = cosine_B[nearer_B], start + b
        chosen.cosine_N[start : start + seen], chosen.nearest_N[start : start + seen] = best_B[:seen], nearest_B[:seen]
        if seen < len(unit_BE):
            return chosen._replace(seen=start + seen)
    return chosen


def unit(rows_NE: np.ndarray) -> np.ndarray:
    """The rows in float64 with length 1; a row of zeros stays."""
    rows_NE = np.asarray(rows_NE, np.float64)
    norms_N1 = np.linalg.norm(rows_NE, axis=1, keepdims=True)
    return np.divide(rows_NE, norms_N1, out=np.zeros_like(rows_NE), where=norms_N1 > 0)


def _cosines(left_ME: np.ndarray, right_NE: np.ndarray) -> np.ndarray:
    cosine_MN = left_ME @ right_NE.T
    return np.round(cosine_MN, DECIMALS, out=cosine_MN)


class _Taken:
    """The rows taken so far, in arrays of `COLUMNS` that never move."""

    def __init__(self):
        self.rows: list[int] = []
        self.units: list[np.ndarray] = []

    def add(self, row: int, unit_E: np.ndarray) -> None:
        place = len(self.rows) % COLUMNS
        if not place:
            self.units.append(np.empty((COLUMNS, len(unit_E))))
        self.units[-1][place] = unit_E
        self.rows.append(row)

    def nearest(self, unit_BE: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Largest cosine [B] with a taken row, and that row [B]; -inf and -1 when none was taken."""
        every_B = np.arange(len(unit_BE))
        best_B, nearest_B = np.full(len(unit_BE), -np.inf), np.full(len(unit_BE), -1)
        for number, units_CE in enumerate(self.units):
            rows_C = np.array(self.rows[number * COLUMNS : (number + 1) * COLUMNS])
            cosine_BC = _cosines(unit_BE, units_CE[: len(rows_C)])
            column_B = cosine_BC.argmax(1)
            cosine_B = cosine_BC[every_B, column_B]
            nearer_B = cosine_B > best_B
            best_B[nearer_B], nearest_B[nearer_B] = cosine_B[nearer_B], rows_C[column_B[nearer_B]]
        return best_B, nearest_B
