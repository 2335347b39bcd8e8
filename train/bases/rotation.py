"""The rotation of positions for a longer context: a larger base, or YaRN, written into a model's config before it is loaded.

A query and a key m positions apart, whose contents are alike, score on average in proportion to

    B(m) = sum over i < d / 2 of cos(m theta_i),    theta_i = base^(-2 i / d),    d the width of a head.

Where B is negative a model would rather attend to what is unlike. So a base is large enough for L positions when B(m) >= 0
for all m < L ("Base of RoPE Bounds Context Length", arXiv 2405.14591). It is a bound for doing well, not one that a run must
keep: published models of Sailor2 with 128K stay below it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from train.bases import rope

GRID = 0.05  # of log10 of a base
_CHUNK = 4096  # distances that are tried at a time: most bases fail early


class Rotation(NamedTuple):
    """How a model rotates so many `positions` from now on. `theta`: the base. `factor`: of YaRN, over `original` positions; None
    without YaRN."""

    positions: int
    theta: float
    factor: float | None = None
    original: int | None = None


@lru_cache(maxsize=64)
def smallest_base(positions: int, width: int) -> float:
    """The smallest base, on a grid of `GRID` in log10, with B(m) >= 0 for all m < `positions`, for heads of `width`.

    >>> f"{smallest_base(4096, 128):.1e}"
    '4.5e+04'
    """
    exponent = np.arange(0, width, 2) / width
    k = round(2 / GRID)
    while not _holds(10 ** (k * GRID), exponent, positions):
        k += 1
    return 10 ** (k * GRID)


def _holds(base: float, exponent: np.ndarray, positions: int) -> bool:
    frequencies = base**-exponent
    for first in range(0, positions, _CHUNK):
        distances = np.arange(first, min(first + _CHUNK, positions))
        if np.cos(distances[:, None] * frequencies).sum(1).min() < 0:
            return False
    return True


def usual_base(positions: int, width: int) -> float:
    """`smallest_base` rounded up to 1, 2 or 5 times a power of ten: 1e7 for 131,072 positions and heads of 128."""
    least = smallest_base(positions, width)
    power = 10.0 ** math.floor(math.log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least)


def rotated_width(config) -> int:
    """How many numbers of a head are rotated."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    parameters = getattr(config, "rope_parameters", None) or {}
    return int(width * (parameters.get("partial_rotary_factor") or 1.0))


def fault(config) -> str:
    """Why the rotation of this model cannot be changed; empty where it can."""
    parameters = getattr(config, "rope_parameters", None)
    if not isinstance(parameters, dict) or "rope_theta" not in parameters or rope.types(config) != {"default"}:
        kinds = ", ".join(sorted(rope.types(config))) or "none that is known"
        return f"only a plain rotation can be given another base, and that of this model is {kinds}; set it to null"
    return ""


def settled(
    config, positions: int, theta: float | None, factor: float | None = None, original: int | None = None
) -> Rotation:
    """The rotation of a model for `positions` with what is None chosen: `usual_base`, unless the model's is larger or YaRN
    stretches it; the positions that it has had. Raises ValueError where it cannot be changed."""
    if found := fault(config):
        raise ValueError(found)
    own = float(config.rope_parameters["rope_theta"])
    if theta is None:
        theta = own if factor else max(own, usual_base(positions, rotated_width(config)))
    return Rotation(positions, theta, factor, (original or config.max_position_embeddings) if factor else None)


def warning(config, positions: int, rotation: Rotation | None) -> str:
    """A sentence where the base is below the bound for `positions`, or angles are stretched to fewer; empty where all is well.
    Without a `rotation` it is the model's own."""
    if fault(config):
        return ""
    if rotation and rotation.factor:
        reach = int(rotation.factor * (rotation.original or 0))
        short = f"YaRN stretches {rotation.original:,} positions to {reach:,}, and rows have {positions:,}"
        return short if reach < positions else ""
    theta, width = rotation.theta if rotation else config.rope_parameters["rope_theta"], rotated_width(config)
    least = smallest_base(positions, width)
    if theta >= least:
        return ""
    return (
        f"a rotation of base {theta:.3g} is below {least:.2g}, the least for {positions:,} positions and heads of {width} "
        "(arXiv 2405.14591)"
    )


def change(config, rotation: Rotation) -> None:
    """Write `rotation` and its positions into `config`. Raises ValueError where it cannot be changed."""
    if found := fault(config):
        raise ValueError(found)
    parameters = config.rope_parameters | {"rope_theta": rotation.theta}
    if rotation.factor is not None:
        yarn = {"factor": rotation.factor, "original_max_position_embeddings": rotation.original}
        parameters |= {"rope_type": "yarn"} | yarn
    config.rope_parameters = parameters
    config.max_position_embeddings = rotation.positions
