"""Mixtures for proxy runs, drawn around a prior as RegMix draws them (Liu et al. 2024, arXiv 2407.01492; sail-sg/regmix).

A draw of a Dirichlet distribution around the tempered prior, of random strength: weak ones lie in corners (few pools), strong
ones near the prior. A pool gets at most `most` times its prior share, as more would repeat it too often. Weights are
multiples of 2e-4 and no mixture comes twice.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mixture.regmix.box import scale_into

UNITS = 5000  # of weight in a mixture: 2e-4 each
STRENGTHS = np.geomspace(0.1, 5.0, 15)
MOST = 15.0  # times its prior share
BATCH = 300_000  # numbers drawn at a time
MOST_POOLS = 500
LEAST_ACCEPTED = 0.01
PATIENCE = 1000  # times as many draws as should be needed


def sample_mixtures(
    prior: dict[str, float],
    n: int,
    seed: int,
    *,
    temperature: float = 2.0,
    most: float | Mapping[str, float] = MOST,
    oversample: int = 100,
) -> np.ndarray:
    """`n` different mixtures, float64 [n, D]: rows sum to 1, columns in the order of `sorted(prior)`.

    `prior` holds the pools' shares on any scale (token counts will do); draws scatter around prior**(1/temperature). No
    weight exceeds `most` times its prior share (a mapping says the largest weights themselves); a pool for which that is
    under 2e-4 is always 0. `oversample` * n mixtures are drawn, and n different ones of these taken at random.

    Draws over a bound are refused. With many small pools nearly all are (of 50 equal pools each may have 0.3, where a weak
    draw gives one of them everything); when under 1 draw in 100 passes, draws are moved onto their bounds instead, and what
    is over flows to the other pools in proportion. Raises ValueError when there are no `n` different mixtures.

    >>> sample_mixtures({"vi": 900, "lo": 100}, 3, seed=0)  # columns lo, vi
    array([[0.0278, 0.9722],
           [0.1486, 0.8514],
           [0.2798, 0.7202]])
    """
    names = sorted(prior)
    prior_D = np.array([prior[name] for name in names], dtype=np.float64)
    if not names or not np.isfinite(prior_D).all() or (prior_D < 0).any() or prior_D.sum() <= 0:
        raise ValueError("a prior needs shares that are not negative and not all 0")
    if len(names) > MOST_POOLS:
        raise ValueError(f"{len(names)} pools are too many to try mixtures of, {MOST_POOLS} are the most: group them")
    if n < 1 or oversample < 1 or temperature <= 0 or (isinstance(most, int | float) and most <= 1):
        raise ValueError("n and oversample must be at least 1, temperature above 0 and most above 1")
    prior_D = prior_D / prior_D.sum()
    bound_D = most * prior_D if isinstance(most, int | float) else np.array([most[name] for name in names])
    bound_D = np.minimum(bound_D, 1.0)
    tempered_D = prior_D ** (1.0 / temperature)
    tempered_D /= tempered_D.sum()
    rng = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    batch, move = max(100, BATCH // len(names)), False
    for _ in range(1 + PATIENCE * oversample * n // batch):
        draws_ND = dirichlet(rng, rng.choice(STRENGTHS, batch)[:, None] * tempered_D)
        kept_ND = draws_ND[(draws_ND <= bound_D).all(axis=1)]
        move = move or len(kept_ND) < LEAST_ACCEPTED * batch
        found.append(_round(scale_into(draws_ND, np.zeros_like(bound_D), bound_D) if move else kept_ND, bound_D))
        if sum(map(len, found)) >= oversample * n:
            break
    different_ND = np.unique(np.concatenate(found)[: oversample * n], axis=0)
    if len(different_ND) < n:
        raise ValueError(
            f"this prior of {len(names)} pools gives only {len(different_ND)} different mixtures, {n} are asked for"
        )
    return rng.choice(different_ND, n, replace=False, axis=0) / UNITS


def dirichlet(rng: np.random.Generator, strength_ND: np.ndarray) -> np.ndarray:
    """One draw for each row of concentrations, also of those so small (1e-5) that every gamma variate would be 0."""
    with np.errstate(divide="ignore"):  # a concentration of 0 is a weight of 0
        log_ND = np.log(rng.standard_gamma(strength_ND + 1.0))
        log_ND += np.log1p(-rng.random(strength_ND.shape)) / strength_ND  # gamma(a) = gamma(a + 1) * uniform**(1/a)
    log_ND[strength_ND == 0] = -np.inf
    draw_ND = np.exp(log_ND - log_ND.max(axis=1, keepdims=True))
    return draw_ND / draw_ND.sum(axis=1, keepdims=True)


def _round(weights_ND: np.ndarray, bound_D: np.ndarray) -> np.ndarray:
    """Mixtures in whole units, int64, none over its bound: the largest remainders get what rounding down has left.

    Weights under one unit become 0 before. Rows without room for all units are left out.
    """
    weights_ND = np.where(weights_ND < 1.0 / UNITS, 0.0, weights_ND)
    weights_ND = weights_ND[weights_ND.any(axis=1)]
    exact_ND = weights_ND * (UNITS / weights_ND.sum(axis=1, keepdims=True))
    most_D = np.floor(bound_D * UNITS * (1 + 1e-12))
    units_ND = np.minimum(np.floor(exact_ND), most_D)
    left_N = UNITS - units_ND.sum(axis=1)
    remainder_ND = np.where((units_ND < most_D) & (weights_ND > 0), exact_ND - units_ND, -1.0)
    rank_ND = np.argsort(np.argsort(-remainder_ND, axis=1, kind="stable"), axis=1, kind="stable")
    units_ND += rank_ND < left_N[:, None]
    fits_N = left_N <= (remainder_ND >= 0).sum(axis=1)
    return units_ND[fits_N].astype(np.int64)
