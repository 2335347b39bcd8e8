"""The mixture of least predicted loss: the mean of the best of many simulated ones (RegMix, arXiv 2407.01492, section 3).

Objective J = sum over targets of ln(predicted loss): halving one language's loss counts as much as halving another's
(Sailor2, arXiv 2502.12982, section 3.4). The mean of the best candidates and not the best one, because the best one is the
one whose prediction errs most. Draws around the prior are too sparse in 15 dimensions, so that the mean is then refined by
draws closer and closer around it (docs/decisions.md has what that brings).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mixture.regmix.box import scale_into
from mixture.regmix.mixtures import dirichlet
from mixture.regmix.regression import Predictor

BATCH = 10_000
NEAR = (50.0, 100.0, 200.0, 400.0)  # strengths of the draws of refinement


class Group(NamedTuple):
    """Pools that get `share` of the tokens together; `columns` are theirs, bounds are of single weights."""

    columns: np.ndarray
    share: float
    lower: np.ndarray
    upper: np.ndarray


def best_mixture(
    predictor: Predictor,
    prior: Mapping[str, float],
    *,
    seed: int,
    n_candidates: int = 100_000,
    average: int = 128,
    caps: Mapping[str, float] | None = None,
    minimum: Mapping[str, float] | None = None,
    fixed_shares: Mapping[tuple[str, ...], float] | None = None,
    target_weights: Sequence[float] | None = None,
    refine: bool = True,
) -> dict[str, float]:
    """Weights of the pools, summing to 1, in the order of `sorted(prior)`, which is that of the predictor's columns.

    `caps` and `minimum` bound the weights of the pools that they name (`epoch_caps` makes caps). `fixed_shares` maps groups
    of pools to what they get together, such as {("en", "zh"): 0.2}; no pool may be in two groups. Candidates are Dirichlet
    draws around the prior, moved onto the bounds; the mean of the `average` best keeps them too. `refine` repeats that
    around the mean found, or around the prior where that is better. `target_weights` are factors of the targets in J, all 1
    by default. Raises ValueError when no mixture keeps all constraints.
    """
    names = sorted(prior)
    groups = constraints(names, caps or {}, minimum or {}, fixed_shares or {})
    prior_D = np.array([prior[name] for name in names], dtype=np.float64)
    rng = np.random.default_rng(seed)

    def mean_of_best(strength_D: np.ndarray, n: int) -> np.ndarray:
        kept_KD, kept_K = np.empty((0, len(names))), np.empty(0)
        for first in range(0, n, BATCH):
            strength_ND = np.tile(strength_D, (min(BATCH, n - first), 1))
            batch_ND = inside(dirichlet(rng, strength_ND), groups)
            kept_KD = np.concatenate([kept_KD, batch_ND])
            kept_K = np.concatenate([kept_K, objective(predictor, batch_ND, target_weights)])
            best_K = np.argsort(kept_K, kind="stable")[:average]
            kept_KD, kept_K = kept_KD[best_K], kept_K[best_K]
        return inside(kept_KD.mean(axis=0, keepdims=True), groups)

    found_1D = mean_of_best(prior_D / prior_D.sum(), n_candidates)
    if refine:
        # with many pools hardly a draw lies near the prior, which may be better than the mean of those that do not
        starts_ND = np.concatenate([found_1D, inside(prior_D[None] / prior_D.sum(), groups)])
        found_1D = starts_ND[[np.argmin(objective(predictor, starts_ND, target_weights))]]
    for strength in NEAR if refine else ():
        # a speck of everything, as a pool of weight 0 could never come back
        nearer_1D = mean_of_best(strength * found_1D[0] + 0.01, max(8 * average, n_candidates // 25))
        before, after = objective(predictor, np.concatenate([found_1D, nearer_1D]), target_weights)
        found_1D = nearer_1D if after < before else found_1D
    return dict(zip(names, found_1D[0].tolist(), strict=True))


def objective(
    predictor: Predictor, weights_ND: np.ndarray, target_weights: Sequence[float] | None = None
) -> np.ndarray:
    """J of each mixture, [N]: the sum over targets of their weight x ln(predicted loss)."""
    log_NL = np.log(np.maximum(predictor.predict(weights_ND), 1e-6))
    return log_NL.sum(axis=1) if target_weights is None else log_NL @ np.asarray(target_weights, dtype=np.float64)


def epoch_caps(tokens: Mapping[str, float], budget: float, readings: Mapping[str, float]) -> dict[str, float]:
    """Weights with which a stage of `budget` tokens reads each pool as often as `readings` says; at most 1."""
    return {name: min(1.0, readings[name] * count / budget) for name, count in tokens.items()}


def constraints(
    names: Sequence[str],
    caps: Mapping[str, float],
    minimum: Mapping[str, float],
    fixed_shares: Mapping[tuple[str, ...], float],
) -> list[Group]:
    """The groups of `fixed_shares`, and one of the other pools with the rest. Raises ValueError when they cannot be kept."""
    named = [name for group in fixed_shares for name in group]
    unknown = sorted({*caps, *minimum, *named} - set(names))
    if unknown:
        raise ValueError(f"constraints of pools that do not exist: {', '.join(unknown)}")
    if len(named) != len(set(named)):
        raise ValueError("a pool is in two groups of fixed_shares")
    others = tuple(name for name in names if name not in named)
    rest = 1.0 - sum(fixed_shares.values())
    found = []
    for group, share in [*fixed_shares.items(), (others, rest)]:
        if not group and abs(share) <= 1e-9:
            continue
        lower = np.array([minimum.get(name, 0.0) for name in group])
        upper = np.array([min(caps.get(name, 1.0), 1.0) for name in group])
        for name, least, most in zip(group, lower, upper, strict=True):
            if not 0 <= least <= most:
                raise ValueError(f"{name} should get at least {least:.4g} of the tokens, but its cap is {most:.4g}")
        what = "the pools" if not fixed_shares else "the other pools" if group is others else " + ".join(group)
        if share < -1e-9 or lower.sum() > share + 1e-9:
            raise ValueError(
                f"{what} must get {lower.sum():.4g} of the tokens at least, but only {max(share, 0):.4g} is theirs"
            )
        if upper.sum() < share - 1e-9:
            raise ValueError(
                f"{what} should get {share:.4g} of the tokens, but their caps allow only {upper.sum():.4g}"
            )
        found.append(Group(np.array([list(names).index(name) for name in group]), max(share, 0.0), lower, upper))
    return found


def inside(weights_ND: np.ndarray, groups: list[Group]) -> np.ndarray:
    """The mixtures moved onto the constraints; proportions within a group stay as far as the bounds allow."""
    moved_ND = np.zeros_like(weights_ND)
    for group in groups:
        moved_ND[:, group.columns] = scale_into(weights_ND[:, group.columns], group.lower, group.upper, group.share)
    return moved_ND
