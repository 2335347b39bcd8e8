import time

import numpy as np
import pytest

from mixture.regmix.mixtures import STRENGTHS, dirichlet, sample_mixtures

SAILOR2 = {  # billions of tokens, Sailor2 tables 2 and 3
    "vi": 475, "id": 325, "th": 61, "ms": 11, "my": 6.5, "tl": 4.4, "km": 1.7,
    "ceb": 0.5, "lo": 0.5, "jv": 0.3, "war": 0.2, "su": 0.2, "ilo": 0.1,
}  # fmt: skip
PRIORS = {
    "sailor2": SAILOR2,
    "equal": {f"p{i:02}": 1.0 for i in range(17)},
    "two": {"a": 0.9, "b": 0.1},
    "many, where the bounds refuse nearly every draw": {f"p{i:02}": 1.0 for i in range(50)},
    "one that is too small to be drawn": {"a": 1e6, "b": 1e6, "c": 1.0},
    "one that is empty": {"a": 3.0, "b": 2.0, "c": 0.0},
}


@pytest.mark.parametrize("name", PRIORS)
def test_bounds_grain_sums_and_no_mixture_twice(name):
    prior = PRIORS[name]
    mixtures = sample_mixtures(prior, 64, seed=1)
    shares = np.array([prior[pool] for pool in sorted(prior)]) / sum(prior.values())
    assert mixtures.shape == (64, len(prior))
    assert (mixtures <= np.minimum(15 * shares, 1) + 1e-12).all()
    assert (mixtures >= 0).all()
    assert mixtures.sum(axis=1) == pytest.approx(np.ones(64), abs=1e-12)
    units = mixtures / 2e-4
    assert np.abs(units - np.round(units)).max() < 1e-9
    distances = np.abs(mixtures[:, None] - mixtures[None]).sum(axis=2) + np.eye(64)
    assert distances.min() > 1e-4


def test_the_same_seed_gives_the_same_mixtures_whatever_the_order_of_the_dict():
    first = sample_mixtures(SAILOR2, 32, seed=7)
    assert np.array_equal(first, sample_mixtures(dict(reversed(SAILOR2.items())), 32, seed=7))
    assert np.array_equal(first, sample_mixtures({k: v * 1e9 for k, v in SAILOR2.items()}, 32, seed=7))
    assert not np.array_equal(first, sample_mixtures(SAILOR2, 32, seed=8))


def test_draws_scatter_around_the_tempered_prior():
    """Shares of 16 : 9 : 4 : 1, so 4 : 3 : 2 : 1 with temperature 2. Corners count once, hence only about so."""
    prior = {"a": 16, "b": 9, "c": 4, "d": 1}
    mean = sample_mixtures(prior, 2000, seed=0, most=1000.0, oversample=3).mean(axis=0)
    assert mean == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.04)
    natural = sample_mixtures(prior, 2000, seed=0, most=1000.0, oversample=3, temperature=1.0).mean(axis=0)
    assert natural == pytest.approx(np.array([16, 9, 4, 1]) / 30, abs=0.04)


def test_the_moments_of_a_dirichlet_draw():
    """Var of weight i is m (1 - m) / (1 + strength) for its mean m; also where concentrations are tiny."""
    base = np.array([0.7, 0.29, 0.01])
    for strength in (STRENGTHS[0], 1.0, STRENGTHS[-1]):
        draws = dirichlet(np.random.default_rng(3), np.tile(strength * base, (40_000, 1)))
        assert draws.mean(axis=0) == pytest.approx(base, abs=0.01)
        assert draws.var(axis=0) == pytest.approx(base * (1 - base) / (1 + strength), rel=0.06, abs=1e-3)
    tiny = dirichlet(np.random.default_rng(3), np.full((1000, 4), 1e-6))
    assert np.isfinite(tiny).all()
    assert tiny.max(axis=1) == pytest.approx(np.ones(1000))
    assert np.bincount(tiny.argmax(axis=1), minlength=4).min() > 200


def test_what_cannot_be_drawn_is_an_error_at_once():
    begin = time.process_time()
    with pytest.raises(ValueError, match="only 1 different mixtures, 5 are asked for"):
        sample_mixtures({"a": 1.0}, 5, seed=0)
    with pytest.raises(ValueError, match="only 1 different mixtures, 2 are asked for"):
        sample_mixtures({"a": 1.0, "b": 1e-6}, 2, seed=0)
    with pytest.raises(ValueError, match="600 pools are too many"):
        sample_mixtures({str(i): 1.0 for i in range(600)}, 5, seed=0)
    for prior in ({}, {"a": 0.0}, {"a": -1.0, "b": 2.0}, {"a": float("nan")}):
        with pytest.raises(ValueError, match="a prior needs shares"):
            sample_mixtures(prior, 5, seed=0)
    assert time.process_time() - begin < 10
