"""How often a pool may be read, and what more text is worth against more readings.

A pool of U tokens of which n are read is worth D(n) tokens that are read once (Muennighoff et al. 2023, arXiv 2305.16264,
section 5, with their R* = 15.39):

    D(n) = n                                          up to one reading
    D(n) = U (1 + R* (1 - exp(-(n / U - 1) / R*)))    beyond, so that reading r adds exp(-(r - 1) / R*) of what is new

`auto` caps. Let a mixture of B tokens have the least sum of ln(excess loss) over the pools' languages, each alone with a
loss E + k D^-beta: then every pool's next token adds the same to ln D, D'(n) / D(n) = 1 / m for all. A pool that can give m
tokens or more is read m tokens of; a scarcer one is read r times,

    r = 1 + R* ln((m / U + R*) / (1 + R*)),

and m follows from the budget, sum of r U = B. So the cap grows with scarcity: 5.8 readings of a pool of a seventh of m, 16.7
of a thirtieth. It is this r, at least `PLAIN` (what Muennighoff et al. find as good as new text) and at most `MOST`: over
2,000 runs (Sedova et al. 2026, arXiv 2605.12715) found 15 to 20 readings useful of a scarce pool in a mixture. The two bounds
and D are published; that the caps follow from equal gains is ours. 2605.12715 has a law of its own, which also knows the size
of the model and how generic text regularises, and we could not read its formula: nothing here knows the model, or what
languages teach one another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

R_STAR = 15.39
PLAIN = 4.0
MOST = 20.0
BETA = 0.353  # of Muennighoff et al.: excess loss ~ D^-beta

Asked = float | Mapping[str, float] | Literal["auto"]
"""A number for all pools, language -> number (and `default`, else `PLAIN`), or `auto`."""


def effective(unique: float, read: float) -> float:
    """Tokens of new text that are worth as much as `read` tokens of a pool of `unique` tokens.

    >>> round(effective(100, 400), 1)
    372.6
    """
    if read <= unique:
        return float(read)
    return unique * (1.0 + R_STAR * -math.expm1(-(read / unique - 1.0) / R_STAR))


def caps(asked: Asked, tokens: Mapping[str, int], budget: float) -> dict[str, float]:
    """How often a stage of `budget` tokens may read each pool. `tokens`: pool -> its tokens, of all pools of the stage.

    >>> found = caps("auto", {"all/en": 10_000_000, "all/th": 4_000_000, "all/lo": 200_000}, 10_000_000)
    >>> {pool: round(readings, 1) for pool, readings in found.items()}
    {'all/en': 4.0, 'all/th': 4.0, 'all/lo': 12.3}
    >>> caps({"lo": 12}, {"all/th": 10, "all/lo": 1}, 5)
    {'all/th': 4.0, 'all/lo': 12}
    """
    if asked == "auto":
        level = _level(tokens, budget)
        return {name: min(MOST, max(PLAIN, _readings(level, count))) for name, count in tokens.items()}
    if isinstance(asked, Mapping):
        default = asked.get("default", PLAIN)
        return {name: asked.get(language(name), default) for name in tokens}
    return dict.fromkeys(tokens, asked)


def most(asked: Asked) -> float:
    """As often as any pool may be read, whatever the pools."""
    if asked == "auto":
        return MOST
    return max(PLAIN if "default" not in asked else 0.0, *asked.values()) if isinstance(asked, Mapping) else asked


def language(pool: str) -> str:
    """`all/th`, `high_quality/th` and `all/th>=8192` are of `th`."""
    return pool.rsplit("/", maxsplit=1)[-1].partition(">=")[0]


def times(allowed: Mapping[str, float]) -> str:
    """Caps in words: `4`, or `4 to 16.7`."""
    least, greatest = min(allowed.values(), default=PLAIN), max(allowed.values(), default=PLAIN)
    return f"{least:.3g}" if least == greatest else f"{least:.3g} to {greatest:.3g}"


def _readings(level: float, unique: float) -> float:
    """The readings at which the next token of a pool adds 1 / `level` to the logarithm of its effective tokens."""
    if unique <= 0:
        return MOST
    if level <= unique:
        return level / unique
    return 1.0 + R_STAR * math.log((level / unique + R_STAR) / (1.0 + R_STAR))


def _level(tokens: Mapping[str, int], budget: float) -> float:
    """m of the module's text: the tokens that are read of each pool that has them."""
    sizes = [count for count in tokens.values() if count > 0]
    if not sizes or budget >= MOST * sum(sizes):
        return math.inf
    low, high = 0.0, max(sizes) * (1.0 + R_STAR) * math.exp(MOST / R_STAR)
    for _ in range(100):
        middle = (low + high) / 2
        read = sum(min(MOST, _readings(middle, size)) * size for size in sizes)
        low, high = (middle, high) if read < budget else (low, middle)
    return high


def gain(unique: float, read: float, more_unique: float = 0.0, more_read: float = 0.0) -> float:
    """Relative change of the excess loss, the part that data can still remove: -0.01 is one percent of it less.

    Of a pool of `unique` tokens of which `read` are read, when it gets `more_unique` tokens, or `more_read` are read. 0 for
    a pool that is not read."""
    before, after = effective(unique, read), effective(unique + more_unique, read + more_read)
    return (after / before) ** -BETA - 1.0 if before > 0 else 0.0
