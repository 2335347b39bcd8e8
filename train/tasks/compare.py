"""How sure the mean score of items is, and the difference of two models on the same items.

Intervals are of 95 %. Of a share of right answers Wilson's (1927); of other scores the mean ± Student's t times its standard
error. Differences are paired, item by item; of right and wrong answers McNemar's exact test (1947) must also leave 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, t

from train.scores.reward_quality import interval
from train.tasks.spread import group_variance

LEVEL = 0.95
LEAST = 10  # items without which no difference is certain: two that differ alike have no spread


class Mean(NamedTuple):
    """`value` with the bounds of its interval, and the number of items. Without two items the bounds are nan."""

    value: float
    low: float
    high: float
    items: int


class Difference(NamedTuple):
    """`value`: the later model's mean less the earlier one's; `p`: McNemar's, nan where scores are not only 0 and 1."""

    value: float
    low: float
    high: float
    p: float
    items: int

    @property
    def certain(self) -> bool:
        """Whether these items separate the models."""
        return bool(self.items >= LEAST and (self.low > 0 or self.high < 0) and not self.p > 1 - LEVEL)


def mean(scores: Sequence[float]) -> Mean:
    """Of the scores of one item or more."""
    x_N = np.asarray(scores, np.float64)
    n, value = len(x_N), float(x_N.mean())
    if _binary(x_N):
        found = binomtest(int(x_N.sum()), n).proportion_ci(LEVEL, "wilson")
        return Mean(value, float(found.low), float(found.high), n)
    low, high = _around(x_N)
    return Mean(value, max(low, 0.0), high, n)  # no score is below 0


def grouped(scores: Sequence[float], groups: Sequence[str]) -> Mean:
    """`mean` where items of one of `groups` belong together, as questions about one text do: the spread is that of groups.

    Of right and wrong answers Wilson's interval of as many items as these are worth (Kish's design effect)."""
    x_N = np.asarray(scores, np.float64)
    n, n_groups, value = len(x_N), len(set(groups)), float(x_N.mean())
    if n_groups == n:
        return mean(scores)
    if _binary(x_N):
        variance = group_variance(x_N, _numbers(groups))
        alone = value * (1 - value) / n
        worth = n / min(max(variance / alone, 1.0), n / n_groups) if alone else n_groups
        return Mean(value, *interval(value, worth), n)
    low, high = _around_groups(x_N, groups)
    return Mean(value, max(low, 0.0), high, n)  # nan stays


def difference(before: Sequence[float], after: Sequence[float], groups: Sequence[str] | None = None) -> Difference:
    """Of two models' scores of the same items, in one order. Where items of one of `groups` belong together the spread is that
    of groups, and no test looks at items alone."""
    a_N, b_N = np.asarray(before, np.float64), np.asarray(after, np.float64)
    assert a_N.shape == b_N.shape
    d_N = b_N - a_N
    p = float("nan")
    if groups is not None and len(set(groups)) < len(d_N):
        low, high = _around_groups(d_N, groups)
        return Difference(float(d_N.mean()), low, high, p, len(d_N))
    if _binary(a_N) and _binary(b_N):
        won, lost = int((d_N > 0).sum()), int((d_N < 0).sum())
        p = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    return Difference(float(d_N.mean()), *_around(d_N), p, len(d_N))


def macro(differences: Sequence[Difference]) -> Difference:
    """The mean of differences on sets of their own items; p is not known of it."""
    value = float(np.mean([one.value for one in differences]))
    several = [one for one in differences if one.items > 1] or differences  # one item has no interval
    _, half = combined([one[:3] for one in several])
    items = sum(one.items for one in several)
    return Difference(value, value - half, value + half, float("nan"), items)


def combined(bounds: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """(mean, half of its interval) of independent numbers, each with the bounds of its interval."""
    value_N, low_N, high_N = np.array(bounds, np.float64).T
    return float(value_N.mean()), float(np.sqrt(np.square((high_N - low_N) / 2).sum()) / len(value_N))


def _binary(x_N: np.ndarray) -> bool:
    return bool(np.isin(x_N, (0.0, 1.0)).all())


def _around_groups(x_N: np.ndarray, groups: Sequence[str]) -> tuple[float, float]:
    n_groups = len(set(groups))
    if n_groups < 2:
        return float("nan"), float("nan")
    reach = float(t.ppf((1 + LEVEL) / 2, n_groups - 1) * np.sqrt(group_variance(x_N, _numbers(groups))))
    return float(x_N.mean() - reach), float(x_N.mean() + reach)


def _numbers(groups: Sequence[str]) -> np.ndarray:
    return np.unique(np.asarray(groups), return_inverse=True)[1]


def _around(x_N: np.ndarray) -> tuple[float, float]:
    n = len(x_N)
    if n < 2:
        return float("nan"), float("nan")
    reach = float(t.ppf((1 + LEVEL) / 2, n - 1) * x_N.std(ddof=1) / np.sqrt(n))
    return float(x_N.mean() - reach), float(x_N.mean() + reach)
