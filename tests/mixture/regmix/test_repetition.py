"""Proxies that repeat a scarce pool as the target does find the target's mixture at 1/16 of its tokens; plain ones do not.

A law of loss stands for the proxies: transfer between pools, repeated text worth less and less, overfitting beyond 4 readings.
It is neither the regression's form nor that of the caps.
"""

import itertools

import numpy as np
import pytest

from mixture.regmix import regression, repetition, search
from mixture.regmix.mixtures import sample_mixtures

TARGET, PART = 1e9, 1 / 16
NAMES = "abc"


def problem(seed, pools):
    """Pools of which the last is scarce, and the losses [N, L] of mixtures [N, D] of so many tokens from pools of such sizes."""
    rng = np.random.default_rng([seed, pools])
    others = rng.uniform(0.3, 1.0, pools - 1) * TARGET
    unique_D = np.append(others, rng.uniform(0.01, 0.03) * TARGET)
    teach_DL = np.eye(pools) + rng.uniform(0, 0.05, (pools, pools))
    decay, beta, over = rng.uniform(8, 20), rng.uniform(0.25, 0.35), rng.uniform(0.3, 0.7)

    def losses(weights_ND, sizes_D, tokens):
        read_ND = weights_ND * tokens
        again_ND = np.maximum(read_ND / sizes_D - 1, 0)
        worth_ND = np.minimum(read_ND, sizes_D) + sizes_D * decay * (1 - np.exp(-again_ND / decay))
        excess_NL = 8 * (1 + worth_ND @ teach_DL / 1e5) ** -beta
        return 1.5 + excess_NL * (1 + over * (np.maximum(again_ND - 3, 0) / 20) ** 2 * weights_ND)

    return unique_D, losses


def optimum(unique_D, losses):
    """By trying all mixtures of whole percents."""
    steps = np.arange(0, 101)
    every = [m for m in itertools.product(*[steps] * (len(unique_D) - 1)) if sum(m) <= 100]
    weights_ND = np.array([[*m, 100 - sum(m)] for m in every]) / 100
    return weights_ND[np.log(losses(weights_ND, unique_D, TARGET)).sum(1).argmin()]


def found(seed, unique_D, losses, *, match, runs=64):
    """The mixture that proxies of `PART` of the tokens ask for; their losses are noisy by 0.1 %."""
    tokens = dict(zip(NAMES, unique_D.tolist(), strict=False))
    most = {"most": repetition.bounds(tokens, TARGET)} if match else {}
    sizes_D = unique_D * (repetition.kept(TARGET, TARGET * PART) if match else 1.0)
    weights_ND = sample_mixtures(tokens, runs, seed, **most)
    losses_NL = losses(weights_ND, sizes_D, TARGET * PART)
    losses_NL *= 1 + 1e-3 * np.random.default_rng(seed).standard_normal(losses_NL.shape)
    predictor = regression.fit(weights_ND, losses_NL, "best")
    best = search.best_mixture(predictor, tokens, seed=seed, n_candidates=5000, average=64)
    return np.array(list(best.values()))


@pytest.mark.parametrize(("seed", "pools"), [(0, 2), (1, 2), (1, 3), (3, 3)])
def test_matched_proxies_find_what_the_target_wants(seed, pools):
    unique_D, losses = problem(seed, pools)
    wanted_D = optimum(unique_D, losses)
    matched, plain = (np.abs(found(seed, unique_D, losses, match=m) - wanted_D).max() for m in (True, False))
    assert matched <= 0.05 < plain


def test_a_pool_is_cut_so_that_a_weight_means_the_same_readings():
    part = repetition.kept(target=1e9, proxy=1e6, scale=2.0)
    read = 0.1 * 1e6  # tokens of the small vocabulary at weight 0.1, of a pool that has 2e6 * part tokens of the run's
    assert read / (2e6 * part * 2.0) == pytest.approx(0.1 * 1e9 / 2e6)
    assert repetition.kept(target=1e3, proxy=1e6) == 1.0
    assert repetition.bounds({"en": 900.0, "lo": 100.0}, 10_000) == {"en": 1.0, "lo": pytest.approx(0.24)}
    assert repetition.bounds({"en": 900.0, "lo": 100.0}, 1_000_000)["lo"] == pytest.approx(0.2)  # all too short
    assert repetition.mean_scale({"a": 900, "b": 100}, {"a": 1.0, "b": 2.0}) == pytest.approx(1.25)
