"""How far two judges agree on the same pairs of answers, beyond what chance would give.

    alike       the share of pairs of which both say the same (better, tie, worse), with Wilson's interval
    kappa       Cohen 1960: 1 - observed / expected disagreement, in those three words
    weighted    Cohen 1968, linear weights: of verdicts from -1 to 1, where the disagreement of two is their distance

expected: of two judges who say what they say as often, each by chance. Intervals of 95 % are percentiles of a posterior: the
table of both judges' verdicts is drawn from a Dirichlet distribution with two pairs added, one where both say the same and one
anywhere. Resampling the pairs gives no width to full agreement: of judges who agree in 95 of 100 pairs its interval of 10 held
the truth in 3 draws of 10, and this one in 95 of 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from train.scores.reward_quality import interval

DRAWS = 2000
LEVEL = 0.95
WORDS = (-1.0, 0.0, 1.0)
VERDICTS = (-1.0, -0.5, 0.0, 0.5, 1.0)
Z = 1.959964


class Bounded(NamedTuple):
    """A number with its interval."""

    value: float
    low: float
    high: float


class Agreement(NamedTuple):
    """`kappa` and `weighted` are None where a judge says one thing of all pairs: then there is nothing to agree on."""

    pairs: int
    alike: Bounded
    kappa: Bounded | None
    weighted: Bounded | None


def agreement(first: Sequence[float], second: Sequence[float]) -> Agreement | None:
    """Of two judges' verdicts, in `VERDICTS`, on the same pairs in one order; None without a pair."""
    a_N, b_N = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if not len(a_N):
        return None
    same = float((np.sign(a_N) == np.sign(b_N)).mean())
    alike = Bounded(same, *interval(same, len(a_N), Z))
    return Agreement(
        len(a_N),
        alike,
        _kappa(np.sign(a_N), np.sign(b_N), WORDS, nominal=True),
        _kappa(a_N, b_N, VERDICTS, nominal=False),
    )


def _kappa(a_N: np.ndarray, b_N: np.ndarray, words: Sequence[float], *, nominal: bool) -> Bounded | None:
    word_K = np.array(words)
    distance_KK = np.abs(word_K[:, None] - word_K)
    distance_KK = (distance_KK > 0).astype(np.float64) if nominal else distance_KK
    counts_KK = np.zeros(distance_KK.shape)
    np.add.at(counts_KK, (np.searchsorted(word_K, a_N), np.searchsorted(word_K, b_N)), 1)
    if (counts_KK.sum(1) > 0).sum() < 2 or (counts_KK.sum(0) > 0).sum() < 2:
        return None
    size = len(word_K)
    added_KK = np.eye(size) / size + 1 / size**2
    rng = np.random.default_rng(0)
    drawn = rng.dirichlet((counts_KK + added_KK).ravel(), DRAWS).reshape(-1, size, size)
    value = float(_beyond_chance(counts_KK[None], distance_KK)[0])
    low, high = np.quantile(_beyond_chance(drawn, distance_KK), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Bounded(value, min(value, float(low)), max(value, float(high)))


def _beyond_chance(table_RKK: np.ndarray, distance_KK: np.ndarray) -> np.ndarray:
    share_RKK = table_RKK / table_RKK.sum((1, 2), keepdims=True)
    expected_RKK = share_RKK.sum(2)[:, :, None] * share_RKK.sum(1)[:, None, :]
    return 1 - (share_RKK * distance_KK).sum((1, 2)) / (expected_RKK * distance_KK).sum((1, 2))
