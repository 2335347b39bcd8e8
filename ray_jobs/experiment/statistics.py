"""How much two arms of an experiment differ, and whether items and seeds together show it.

An arm is trained once for each seed, and every model is scored on the same items. With d_si = ours - other of seed s and
item i, the difference is the mean over both, and it errs in two ways: other seeds would train other models (a seed moves all
its items together, so they are correlated), and other items would ask for other things. The interval is

    d ± sqrt((t_{S-1} e_S)² + (t_{G-1} e_G)²),    e_S² = var_s(mean_i d_si) / S,    e_G² = Σ_g (Σ_{i in g} r_i)² G / (G - 1) / I²

with Student's t, r_i = mean_s d_si - d, and G groups of items that belong together (each item alone unless said otherwise).

This covers at least as often as it says, however small S is (Banerjee 1960, Sankhya 22): let F be the distribution function of
chi² with one degree of freedom. It is concave, so with w the shares of two variances F(Σ w_j u_j) >= Σ w_j F(u_j), and for
u_j = t_j² e_j² / E e_j² the mean of each F(u_j) is the level by the definition of t_j. For normal scores with effects of seed,
item and both, E e_S² + E e_G² is the variance of d plus once more that of the rest, so the interval errs to the wide side.
Degrees of freedom by Welch and Satterthwaite would be narrower and cover as little as 87 % with two seeds (simulated).

One seed says nothing of other seeds. Then the interval is that of the items alone: it holds for these two models, not for
the two ways to train them, and `shown` stays False.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from train.tasks.spread import group_variance

LEVEL = 0.95
LEAST = 10  # groups of items without which nothing is shown: a few that differ alike have no spread


class Difference(NamedTuple):
    """`value`: mean of ours less other, with the bounds of its interval (nan where there is one item only).

    `shown`: whether the arms differ, so that arms trained anew would too. `seeds` and `items` are those that both arms have."""

    value: float
    low: float
    high: float
    shown: bool
    seeds: int
    items: int

    @property
    def apart(self) -> bool:
        """Whether the interval leaves out 0. With one seed this says that the two models differ, not that the arms do."""
        return self.low > 0 or self.high < 0

    @property
    def verdict(self) -> str:
        """What a page may say.

        >>> Difference(-0.1, -0.2, -0.05, False, 1, 40).verdict
        'these two models differ; one seed cannot show that the arms do'
        """
        if self.shown:
            return "difference shown"
        if self.seeds == 1 and self.apart:
            return "these two models differ; one seed cannot show that the arms do"
        return "no difference shown"


def difference(
    ours: Mapping[int, Mapping[str, float]],
    other: Mapping[int, Mapping[str, float]],
    groups: Mapping[str, str] | None = None,
    level: float = LEVEL,
) -> Difference:
    """Of two arms, each seed -> item -> score.

    Seeds and items are those that both arms have, an item in every one of these seeds. `groups`: item -> what it shares with
    others, such as the passage that several questions ask about; an item that is not named stands alone. `level`: of the
    interval; for m differences of which none shall be declared by chance, 1 - 0.05 / m. Raises ValueError when the arms
    have no seed or no item in common, or a score is not a finite number.

    >>> arm = {seed: {str(item): item % 7 + 0.1 * seed for item in range(20)} for seed in (42, 43, 44)}
    >>> better = {seed: {item: score + 1 + 0.1 * (seed % 2) for item, score in scores.items()} for seed, scores in arm.items()}
    >>> print("{:.2f}, {:.2f} to {:.2f}, shown: {}".format(*difference(better, arm)[:4]))
    1.03, 0.89 to 1.18, shown: True
    """
    seeds = sorted(ours.keys() & other.keys())
    if not seeds:
        raise ValueError("the two arms have no seed in common")
    items = sorted(set.intersection(*(set(side[seed]) for side in (ours, other) for seed in seeds)))
    if not items:
        raise ValueError("the two arms have no item in common that every seed scored")
    d_SI = np.array([[ours[seed][item] - other[seed][item] for item in items] for seed in seeds], np.float64)
    if not np.isfinite(d_SI).all():
        raise ValueError("a score is not a finite number")
    d_I, value = d_SI.mean(0), float(d_SI.mean())
    # a group's key is a pair, so that no group has the name of an item that stands alone
    keys = [(1, groups[item]) if groups and item in groups else (0, item) for item in items]
    number = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    n_groups, n_seeds = len(number), len(seeds)
    if n_groups < 2:
        return Difference(value, float("nan"), float("nan"), False, n_seeds, len(items))
    square = _t(n_groups - 1, level) ** 2 * group_variance(d_I, np.array([number[key] for key in keys]))
    if n_seeds > 1:
        square += _t(n_seeds - 1, level) ** 2 * d_SI.mean(1).var(ddof=1) / n_seeds
    reach = float(np.sqrt(square))
    found = Difference(value, value - reach, value + reach, False, n_seeds, len(items))
    return found._replace(shown=found.apart and n_seeds > 1 and n_groups >= LEAST)


def _t(freedom: int, level: float) -> float:
    return float(stdtrit(freedom, (1 + level) / 2))
