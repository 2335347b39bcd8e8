"""Which bounds of a policy the judgements speak for: a proposal for each rule and language, with intervals, or why there is none.

A rule is looked at alone, the others staying as they are: only documents that break no other rule depend on it. Of these the
judged ones stand for all (`scores.weights`): those that the layer kept, and those that it dropped by this rule. A bound errs on
a good document that it drops and on noise that it keeps. The proposed bound is the one of fewest errors, halfway between two
judged values, and of equal ones the nearest to the present.

The best of many bounds looks better than it is. So the documents of each side are drawn anew with replacement `DRAWS` times (a
bootstrap, Efron 1979); each time the best bound of those drawn is tried on those that were not. A bound is proposed only where
that saves errors on average and in at least `SURE` of the draws. Its interval holds every bound that does not surely err more:
the draws' own best bounds crowd around the steps of the errors, and their percentiles held a planted bound in 13 of 20 trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 400
SURE = 0.95
LEAST, LEAST_MOVED = 20, 5  # judged documents that depend on the rule, and that change side
LEVEL = 0.95


class Proposal(NamedTuple):
    """`bound`: None where the judgements speak for none, and `why` says so. `saved`: documents of the run of which the rule
    would be right and is wrong now, less the other way round, as those that were not drawn tell it."""

    now: float
    bound: float | None
    low: float | None
    high: float | None
    saved: float | None
    saved_low: float | None
    saved_high: float | None
    good: int
    noise: int
    why: str


def propose(  # noqa: PLR0917
    values_N: np.ndarray,
    noise_N: np.ndarray,
    weights_N: np.ndarray,
    dropped_N: np.ndarray,
    now: float,
    side: str,
    seed: int = 0,
) -> Proposal:
    """From the judged documents that break no other rule: their signal, share of noise (0 to 1), how many documents each stands
    for, and whether the rule drops it now. `side`: `min` or `max`."""
    good, noise = int((noise_N < 0.5).sum()), int((noise_N >= 0.5).sum())
    none = Proposal(now, None, None, None, None, None, None, good, noise, "")
    if good + noise < LEAST:
        return none._replace(why=f"{good + noise} judged documents depend on it alone: {LEAST} are the least")
    sign = 1.0 if side == "min" else -1.0  # a document stays where sign * value >= sign * bound
    order = np.argsort(sign * values_N, kind="stable")
    value, cost = (sign * values_N)[order], ((1 - 2 * noise_N) * weights_N)[order]
    present = sign * now
    cuts_C = _cuts(value, present)
    at_C = np.searchsorted(value, cuts_C)  # that many documents, the lowest, are dropped by each cut
    here = int(np.flatnonzero(cuts_C == present)[0])
    chance = np.random.default_rng(seed)
    sides = [np.flatnonzero(dropped_N[order] == which) for which in (False, True)]
    counts_RN = np.zeros((DRAWS, len(value)))
    for rows in sides:
        if len(rows):
            drawn_RK = chance.integers(len(rows), size=(DRAWS, len(rows)))
            np.add.at(counts_RN, (np.arange(DRAWS)[:, None], rows[drawn_RK]), 1)
    drawn_RC = _errors(counts_RN * cost, at_C)
    best_R = _best(drawn_RC, cuts_C, present)
    outside_RN = counts_RN == 0
    share_R = outside_RN.mean(1)
    errors_RC = _errors(outside_RN * cost, at_C) / np.where(share_R, share_R, 1)[:, None]
    saved_R = errors_RC[:, here] - errors_RC[np.arange(DRAWS), best_R]
    best = int(_best(_errors(cost[None], at_C), cuts_C, present)[0])
    if best == here:
        return none._replace(why="the present bound makes the fewest errors")
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    as_good_C = cuts_C[np.quantile(drawn_RC - drawn_RC[:, [best]], tails[0], axis=0) <= 0]
    bounds = sorted(float(sign * bound) for bound in (as_good_C[0], as_good_C[-1]))
    saved_low, saved_high = (float(one) for one in np.quantile(saved_R, tails))
    found = none._replace(low=bounds[0], high=bounds[1])
    found = found._replace(saved=float(saved_R.mean()), saved_low=saved_low, saved_high=saved_high)
    moved = abs(int(at_C[best]) - int(at_C[here]))
    if moved < LEAST_MOVED or saved_R.mean() <= 0 or (saved_R > 0).mean() < SURE:
        return found._replace(why="another bound errs less on these documents, but not surely on others")
    return found._replace(bound=_short(float(sign * cuts_C[best]), value * sign, side))


def _cuts(value_N: np.ndarray, present: float) -> np.ndarray:
    """The present bound, one below all values (drop nothing), and one between each two that differ; ascending."""
    different = np.unique(value_N)
    between = (different[1:] + different[:-1]) / 2
    return np.unique(np.concatenate([[present, different[0]], between]))


def _errors(cost_RN: np.ndarray, at_C: np.ndarray) -> np.ndarray:
    """[R, C]: the cost of what each cut drops, its noise taken off; the constant that it keeps is the same for all."""
    sums = np.concatenate([np.zeros((len(cost_RN), 1)), np.cumsum(cost_RN, 1)], 1)
    return sums[:, at_C]


def _best(errors_RC: np.ndarray, cuts_C: np.ndarray, present: float) -> np.ndarray:
    """The cut of fewest errors in each row; of those that are equal the nearest to the present one."""
    near = np.argsort(np.abs(cuts_C - present), kind="stable")
    return near[np.argmin(np.round(errors_RC[:, near], 9), 1)]


def _short(bound: float, values_N: np.ndarray, side: str) -> float:
    """The bound with as few digits as divide the judged documents in the same way."""

    def stays(limit: float) -> np.ndarray:
        return values_N >= limit if side == "min" else values_N <= limit

    for digits in range(2, 16):
        if np.array_equal(stays(short := float(f"{bound:.{digits}g}")), stays(bound)):
            return short
    return bound


def recipe(proposals: Mapping[tuple[str, str, str], Proposal]) -> dict:
    """What to write below `filter.policy`, of (language, signal, `min` or `max`) -> proposal."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (lang, signal, side), one in sorted(proposals.items()):
        if one.bound is not None:
            bound = int(one.bound) if float(one.bound).is_integer() else one.bound
            found.setdefault(lang, {}).setdefault(signal, {})[side] = bound
    return found


def depends(broken: Sequence[str], rule: str) -> bool:
    """Whether the rule alone decides on a document that breaks these."""
    return not set(broken) - {rule}
