import numpy as np
import pytest

from mixture.regmix.box import scale_into


def naive(weights, lower, upper, total):
    """The factor by bisection."""
    low, high = 0.0, 1e15
    for _ in range(400):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(middle * weights, lower, upper).sum() < total else (low, middle)
    return np.clip(high * weights, lower, upper)


@pytest.mark.parametrize("seed", range(30))
def test_the_factor_is_that_of_bisection(seed):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(7, 0.5), 20)
    upper = rng.uniform(0, 0.6, 7)
    lower = upper * rng.uniform(0, 0.5, 7)
    total = float(rng.uniform(lower.sum(), upper.sum()))
    moved = scale_into(weights, lower, upper, total)
    assert (moved >= lower).all()
    assert (moved <= upper).all()
    assert moved.sum(axis=1) == pytest.approx(np.full(20, total), abs=1e-12)
    for row, got in zip(weights, moved, strict=True):
        assert got == pytest.approx(naive(row, lower, upper, total), abs=1e-6)


def test_inside_nothing_moves_and_zeros_fill_only_when_they_must():
    inside = np.array([[0.5, 0.3, 0.2, 0.0]])
    assert scale_into(inside, np.zeros(4), np.ones(4)) == pytest.approx(inside, abs=1e-9)
    full = scale_into(inside, np.zeros(4), np.array([0.4, 0.3, 0.2, 1.0]))
    assert full == pytest.approx(np.array([[0.4, 0.3, 0.2, 0.1]]))
    assert scale_into(np.zeros((1, 2)), np.zeros(2), np.array([0.6, 0.9])).sum() == pytest.approx(1.0)
    assert scale_into(inside, np.zeros(4), np.zeros(4), total=0.0) == pytest.approx(np.zeros((1, 4)))


def test_bounds_that_cannot_be_kept():
    with pytest.raises(ValueError, match=r"they sum to 0 and 0\.9, the total is 1"):
        scale_into(np.ones((1, 3)), np.zeros(3), np.full(3, 0.3))
