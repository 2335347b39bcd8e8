"""Intervals and agreement for shares that people judged, at 95 %.

wilson      Wilson 1927: the interval of a share, right for few observations and for shares near 0 and 1
newcombe    Newcombe 1998, method 10: the difference of two independent shares, from their Wilson intervals
effective   Kish 1965: how many equally weighted observations weighted ones are worth, (sum w)^2 / sum w^2
kappa       Cohen 1960: agreement beyond chance, (p_o - p_e) / (1 - p_e)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from train.scores.reward_quality import interval

Z = 1.959964


class Share(NamedTuple):
    """A share with its interval. `n`: observations; `effective`: what they are worth with their weights."""

    value: float
    low: float
    high: float
    n: int
    effective: float


def wilson(share: float, n: float) -> tuple[float, float]:
    """
    >>> [round(bound, 3) for bound in wilson(0.5, 100)], [round(bound, 3) for bound in wilson(0.02, 100)]
    ([0.404, 0.596], [0.006, 0.07])
    """
    return interval(share, n, Z)


def weighted(values: Sequence[float], weights: Sequence[float] | None = None) -> Share | None:
    """The share of `values`, each from 0 to 1, under weights; None for no values.

    >>> weighted([1, 0, 0, 0])
    Share(value=0.25, low=0.045587..., high=0.699358..., n=4, effective=4.0)
    """
    weights = [1.0] * len(values) if weights is None else weights
    if not (total := sum(weights)):
        return None
    share = min(1.0, sum(v * w for v, w in zip(values, weights, strict=True)) / total)
    effective = total * total / sum(w * w for w in weights)
    return Share(share, *wilson(share, effective), len(values), effective)


def newcombe(one: Share, other: Share) -> tuple[float, float, float]:
    """one - other with its interval.

    Shares of nested samples have documents in common, so the interval is then rather too wide than too narrow."""
    value = one.value - other.value
    low = value - math.hypot(one.value - one.low, other.high - other.value)
    high = value + math.hypot(one.high - one.value, other.value - other.low)
    return value, low, high


def kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> float | None:
    """Of what two people said of the same things; None where both said one thing of all, or nothing.

    >>> round(kappa([("a", "a")] * 20 + [("a", "b")] * 5 + [("b", "a")] * 10 + [("b", "b")] * 15), 3)
    0.4
    """
    if not pairs:
        return None
    n = len(pairs)
    first, second = (Counter(side) for side in zip(*pairs, strict=True))
    chance = sum(first[one] * second[one] for one in first) / (n * n)
    agreed = sum(a == b for a, b in pairs) / n
    return None if chance == 1 else (agreed - chance) / (1 - chance)


def error_rate(alike: float) -> float | None:
    """How often each of two people errs, of two possible answers, who err alike and each for themselves, and agree in the share
    `alike`: (1 - e)^2 + e^2 = alike. None where they agree no more than chance would.

    >>> error_rate(0.82), error_rate(0.5)
    (0.1..., None)
    """
    return (1 - math.sqrt(2 * alike - 1)) / 2 if alike > 0.5 else None


def corrected(share: Share, alike: Share) -> tuple[float, float, float] | None:
    """A share of yes, with its interval, less the errors that two people's agreement `alike` on yes and no tells of.

    The bounds take the worst ends of both intervals. None where the people may agree no more than by chance."""
    errors = [error for one in (alike.low, alike.value, alike.high) if (error := error_rate(one)) is not None]
    if len(errors) < 3:
        return None
    lows, values, highs = (
        [min(1.0, max(0.0, (bound - error) / (1 - 2 * error))) for error in errors]
        for bound in (share.low, share.value, share.high)
    )
    return values[1], min(lows), max(highs)
