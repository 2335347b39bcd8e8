"""Scores of SEA-WildBench from verdicts (Sailor2, arXiv 2502.12982, section 7.2; Lin et al. 2024).

    reward of a verdict     much better 1, slightly better 0.5, tie 0, the same below 0; a slight win of an answer that is over
                            500 characters longer is a tie (`win_rate.with_length_rule`), an empty answer loses with 1
    score                   100 (mean reward + 1) / 2: 50 is as good as the reference answers
    macro score             the weighted mean of the scores of the categories; weights are normalised over those there are

A row counts once in each of its categories. All means are over what was judged: a verdict that could not be read is counted as
invalid and nowhere else.

Intervals are of 95 %: Student's t about the mean of the outcomes and one more that is half a win and half a loss (Agresti and
Coull 1998 add four to a share). Without it a cell of ten rows that all tied, or lost, would have no width: of outcomes as a weak
model has them the plain interval held the mean in 14 to 93 of 100 draws of 5 to 30 rows, this one in 95 or more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t

from train.tasks.compare import LEAST, LEVEL

TIE = 50.0
ALL = "all"
ASKED, EQUAL, EMPTY, NOT_JUDGED, BY_LENGTH = HOWS = ("judge", "equal", "empty", "not judged", "length rule")
"""How a verdict came about: the judge was asked; both answers are equal, or one is empty, and nobody was asked; nobody has judged
the pair; the judge was asked, and the slight win of the longer answer is a tie."""


class Score(NamedTuple):
    """Points out of 100 with their interval; `judged`: rows with a verdict."""

    value: float
    low: float
    high: float
    judged: int

    @property
    def certain(self) -> bool:
        """Whether these rows separate the answers from the reference."""
        return self.judged >= LEAST and not self.low <= TIE <= self.high


class Difference(NamedTuple):
    """Points by which a model is above another on the same rows."""

    value: float
    low: float
    high: float
    judged: int

    @property
    def certain(self) -> bool:
        return self.judged >= LEAST and not self.low <= 0 <= self.high


def score(rewards: Sequence[float]) -> Score | None:
    """Of the rewards of one row or more; None of none."""
    return macro(rewards, [(ALL,)] * len(rewards), {ALL: 1.0})


def macro(rewards: Sequence[float], categories: Sequence[Sequence[str]], weights: Mapping[str, float]) -> Score | None:
    """The weighted mean of the categories' scores; None where no row is of a category with a weight.

    The interval allows for rows of several categories. Its degrees of freedom are those of Welch and Satterthwaite."""
    outcome_N = (np.asarray(rewards, np.float64) + 1) / 2
    places = {name: [i for i, of in enumerate(categories) if name in of] for name, weight in weights.items() if weight}
    places = {name: inside for name, inside in places.items() if inside}
    if not places:
        return None
    total = sum(weights[name] for name in places)
    pull_N = np.zeros(len(outcome_N))  # of each row on the macro score, about the centre
    value = centre = added = freedom = 0.0
    for name, inside in places.items():
        x_n, n, share = outcome_N[inside], len(inside), weights[name] / total
        mean = (x_n.sum() + 0.5) / (n + 1)
        value += share * float(x_n.mean())
        centre += share * mean
        step = share / (n + 1)
        pull_N[inside] += step * (x_n - mean)
        pseudo = step**2 * ((0 - mean) ** 2 + (1 - mean) ** 2) / 2
        added += pseudo
        freedom += (step**2 * float(np.square(x_n - mean).sum()) + pseudo) ** 2 / max(n - 1, 1)
    variance = float(np.square(pull_N).sum()) + added
    reach = float(t.ppf((1 + LEVEL) / 2, max(variance**2 / freedom, 1.0))) * variance**0.5
    low, high = max(0.0, min(value, centre - reach)), min(1.0, max(value, centre + reach))
    rows = len({i for inside in places.values() for i in inside})
    return Score(100 * value, 100 * low, 100 * high, rows)


def difference(
    before: Sequence[float],
    after: Sequence[float],
    categories: Sequence[Sequence[str]] | None = None,
    weights: Mapping[str, float] | None = None,
) -> Difference | None:
    """Of two models' rewards on the same rows, in one order; with categories and weights of their macro"""
    halves = (np.asarray(after, np.float64) - np.asarray(before, np.float64)) / 2
    found = score(halves.tolist()) if weights is None else macro(halves.tolist(), categories or (), weights)
    if found is None:
        return None
    value, low, high = (2 * (bound - TIE) for bound in (found.value, found.low, found.high))
    return Difference(value, low, high, found.judged)


def without_weight(categories: Sequence[Sequence[str]], weights: Mapping[str, float]) -> list[str]:
    """The categories of rows that the macro score leaves out, by name."""
    return sorted({name for of in categories for name in of if not weights.get(name)})


def table(results: Sequence[Mapping], weights: Mapping[str, float]) -> dict:
    """Scores of one model by one judge in all and by category, and the same of each language.

    A row of `results` is {lang, categories, verdict, reward (None: invalid, or not judged), how (in `HOWS`), problem}."""
    languages = sorted({one["lang"] for one in results})
    return {
        **_part(results, weights),
        "languages": {lang: _part([one for one in results if one["lang"] == lang], weights) for lang in languages},
    }


def _part(results: Sequence[Mapping], weights: Mapping[str, float]) -> dict:
    good = [one for one in results if one["reward"] is not None]
    names = sorted(
        {name for one in results for name in one["categories"]}, key=lambda name: (name not in weights, name)
    )
    hows = Counter(one["how"] for one in results)
    rewards = Counter(f"{one['reward']:+g}" if one["reward"] else "0" for one in good)
    return {
        ALL: plain(score([one["reward"] for one in good])),
        "macro": plain(macro([one["reward"] for one in good], [one["categories"] for one in good], weights)),
        "categories": {
            name: plain(score([one["reward"] for one in good if name in one["categories"]])) for name in names
        },
        "rewards": {mark: rewards[mark] for mark in ("+1", "+0.5", "0", "-0.5", "-1")},
        "invalid": sum(one["problem"] is not None for one in results),
        **{how.replace(" ", "_"): hows[how] for how in HOWS[1:]},
    }


def differences(
    first: Sequence[Mapping], second: Sequence[Mapping], weights: Mapping[str, float]
) -> tuple[Difference | None, Difference | None]:
    """(in all, macro): by how much the second model is above the first, on the rows with a verdict of both, in one order."""
    both = [
        (one, other)
        for one, other in zip(first, second, strict=True)
        if one["reward"] is not None and other["reward"] is not None
    ]
    if not both:
        return None, None
    before, after = ([pair[i]["reward"] for pair in both] for i in (0, 1))
    categories = [one["categories"] for one, _ in both]
    return difference(before, after), difference(before, after, categories, weights)


def plain(found: Score | Difference | None) -> dict | None:
    """As JSON has it."""
    return None if found is None else {**found._asdict(), "certain": found.certain}
