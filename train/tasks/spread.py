"""How far the mean of items that belong together may be off."""

from __future__ import annotations

import numpy as np


def group_variance(x_N: np.ndarray, group_N: np.ndarray) -> float:
    """Variance of the mean of `x_N` whose items have the group `group_N` (0 … G-1), by the sums of groups: items of one group
    may be as alike as they like, groups are independent. Of one group 0, which says nothing.

    >>> group_variance(np.array([1.0, 1.0, 0.0, 0.0]), np.array([0, 0, 1, 1]))
    0.25
    """
    sums_G = np.bincount(group_N, weights=x_N - x_N.mean())
    return float((sums_G**2).sum()) * len(sums_G) / max(len(sums_G) - 1, 1) / len(x_N) ** 2
