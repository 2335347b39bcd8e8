"""Proxies that repeat a pool as often as the target will (Zhou et al. 2026, arXiv 2606.07597).

A proxy reads a sixteenth, or a ten-thousandth, of the target's tokens. From the whole pools it would read a scarce one once
where the target reads it twenty times, and so would ask for far too much of it: in that paper the mixture is off by 0.75, and
by 0.05 when every pool is cut to the same part as the tokens. Then weight w means w T / U readings to both:

    kept = U t / (T s)    tokens of a pool of U, for t tokens of a proxy and T of the target

where s is how many tokens of the proxies' small vocabulary one of the run's becomes, on average over the tempered mixture.
"""

from __future__ import annotations

from collections.abc import Mapping

from mixture.readings import MOST

BEYOND = 1.2  # draws go beyond the readings that are ever useful, so that the regression sees where that ends
WIDER = 2.0  # times its token share may any pool have in a draw, where all are repeated more often than that


def kept(target: float, proxy: float, scale: float = 1.0) -> float:
    """The part of every pool that proxies of `proxy` tokens read, for a target of `target` tokens; at most all."""
    return min(1.0, proxy / (target * scale))


def bounds(tokens: Mapping[str, float], target: float) -> dict[str, float]:
    """The largest weight of each pool in a proxy's mixture: 24 readings by the target, or twice its share of the tokens."""
    total = sum(tokens.values())
    return {
        name: min(1.0, max(BEYOND * MOST * count / target, WIDER * count / total)) for name, count in tokens.items()
    }


def mean_scale(tokens: Mapping[str, float], scale: Mapping[str, float], temperature: float = 2.0) -> float:
    """`scale` of each pool, weighed as draws are on average: tokens^(1/temperature)."""
    weight = {name: count ** (1.0 / temperature) for name, count in tokens.items()}
    return sum(weight[name] * scale[name] for name in tokens) / sum(weight.values())
