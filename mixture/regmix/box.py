"""Moving mixtures into a box: bounds of every weight, and their sum, are kept and proportions as far as these allow."""

from __future__ import annotations

import numpy as np


def scale_into(weights_ND: np.ndarray, lower_D: np.ndarray, upper_D: np.ndarray, total: float = 1.0) -> np.ndarray:
    """clip(s * weights, lower, upper) with the factor s of each row that makes it sum to `total`; float64 [N, D].

    What is over an upper bound so flows to the others in proportion to their weights; to weights of 0 (in proportion to
    their bounds) only when nothing else has room. Raises ValueError when no row in the box sums to `total`.

    >>> scale_into(np.array([[10.0, 2.0, 1.0]]), np.zeros(3), np.array([1.0, 0.1, 1.0]))
    array([[0.81818182, 0.1       , 0.08181818]])
    """
    slack = 1e-9 * max(total, 1e-300)
    if (lower_D > upper_D).any() or lower_D.sum() > total + slack or upper_D.sum() < total - slack:
        raise ValueError(
            f"no mixture keeps these bounds: they sum to {lower_D.sum():.4g} and {upper_D.sum():.4g}, the total is {total:.4g}"
        )
    if upper_D.sum() <= 0:
        return np.zeros_like(weights_ND, dtype=np.float64)
    # a speck of everything that may have any, so that every factor below is finite
    sums_N1 = weights_ND.sum(axis=1, keepdims=True)
    shares_ND = weights_ND / np.where(sums_N1 > 0, sums_N1, 1.0) + 1e-12 * upper_D / upper_D.sum()
    shares_ND = np.where(upper_D > 0, shares_ND, 1.0)  # between bounds of 0 the share does not matter
    # The sum as a function of s bends where a weight leaves its lower or meets its upper bound: the last bend at which it is
    # not over the total is found by halving, and behind it it is linear in the weights that are not at a bound.
    leaves_ND, meets_ND = lower_D / shares_ND, upper_D / shares_ND
    bends = np.sort(np.concatenate([leaves_ND, meets_ND], axis=1), axis=1)
    rows = np.arange(len(bends))
    low, high = np.zeros(len(bends), dtype=int), np.full(len(bends), bends.shape[1])
    while (high - low > 1).any():
        middle = (low + high) // 2
        over = np.clip(bends[rows, middle][:, None] * shares_ND, lower_D, upper_D).sum(axis=1) > total
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    at_N1 = bends[rows, low][:, None]
    free_ND = (leaves_ND <= at_N1) & (meets_ND > at_N1)
    fixed_N = np.where(free_ND, 0.0, np.where(meets_ND <= at_N1, upper_D, lower_D)).sum(axis=1)
    slope_N = np.where(free_ND, shares_ND, 0.0).sum(axis=1)
    s_N = np.where(slope_N > 0, (total - fixed_N) / np.where(slope_N > 0, slope_N, 1.0), at_N1[:, 0])
    return np.clip(s_N[:, None] * shares_ND, lower_D, upper_D)
