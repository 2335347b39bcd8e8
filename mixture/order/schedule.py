"""A schedule of weights: what one is, and how many rows of each pool come of it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def quotas(units: list[int], n: int) -> list[int]:
    """How many of the first `n` rows each pool gets, by integer weights `units`. Sums to n; none falls as n grows.

    The first pool takes its share of n, rounded, the next its share of what is left, and so on. Each step is monotone in
    what it is given, and so is what it leaves.
    """
    left, units_left = n, sum(units)
    counts = []
    for unit in units:
        count = (2 * unit * left + units_left) // (2 * units_left) if unit else 0
        counts.append(count)
        left -= count
        units_left -= unit
    return counts


def check_schedule(schedule: list[dict]) -> None:
    """Raises ValueError unless from_sample rises from 0 and every entry has weights, none negative, not all 0."""
    starts = [entry["from_sample"] for entry in schedule]
    if not starts or starts[0] != 0 or any(b <= a for a, b in pairwise(starts)):
        raise ValueError(f"a schedule starts at sample 0 and its from_sample rises; got {starts}")
    for entry in schedule:
        weights = entry["weights"].values()
        if not all(w >= 0 and np.isfinite(w) for w in weights) or sum(weights) <= 0:
            raise ValueError(f"weights from sample {entry['from_sample']} on: none may be negative, nor all 0")
