from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from mixture.order.permute import derive, permute, unpermute


@pytest.mark.parametrize("n", [*range(1, 70), 127, 128, 129, 255, 256, 257, 1000, 4095, 4096, 4097, 65_537])
def test_every_index_is_hit_exactly_once(n):
    for seed in (0, 1, 2**63 - 1):
        out = permute(np.arange(n), n, seed)
        assert out.dtype == np.int64
        np.testing.assert_array_equal(np.sort(out), np.arange(n))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100, 1025, 10**6, 10**12, 2**40 + 1, 2**62 + 3, 2**63 - 1, 2**63])
def test_inverse_and_scalar_path_agree_with_the_array_path(n):
    i = np.random.default_rng(3).integers(0, n, 500, dtype=np.uint64)
    out = permute(i, n, seed=9)
    assert out.min() >= 0 and int(out.max()) < n
    np.testing.assert_array_equal(unpermute(out, n, seed=9), i.astype(np.int64))
    for a, b in zip(i[:50], out[:50], strict=True):
        assert permute(int(a), n, seed=9) == b
        assert unpermute(int(b), n, seed=9) == a


@pytest.mark.parametrize("n", [10**6 + 3, 10**9 + 7, 10**12, 10**12 + 39])
def test_up_to_a_trillion_elements_do_not_collide_in_a_sample(n):
    """Ranges at the begin, in the middle and at the end together: no two of them fall on one, and each leads back."""
    i = np.concatenate([np.arange(start, start + 100_000) for start in (0, n // 2, n - 100_000)])
    out = permute(i, n, seed=5)
    assert len(np.unique(out)) == len(i) and out.min() >= 0 and out.max() < n
    np.testing.assert_array_equal(unpermute(out, n, seed=5), i)


def test_all_orders_of_four_appear_and_none_dominates():
    seen = Counter(tuple(permute(np.arange(4), 4, seed).tolist()) for seed in range(2400))
    assert set(seen) == set(permutations(range(4)))
    assert max(seen.values()) < 250  # 100 each if all were equally likely


def test_the_order_looks_random():
    n = 100_003
    x = permute(np.arange(n), n, seed=11) / n
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 0.015
    assert abs(np.corrcoef(x, np.arange(n))[0, 1]) < 0.015
    counts, _ = np.histogram(x[: n // 10], bins=50, range=(0, 1))  # the first tenth is spread evenly over the range
    expected = (n // 10) / 50
    assert ((counts - expected) ** 2 / expected).sum() < 100  # chi-square, 49 degrees of freedom, p < 1e-4
    fixed = (permute(np.arange(n), n, seed=12) == np.arange(n)).sum()
    assert fixed < 12  # one expected


def test_seeds_give_different_orders():
    a, b = (permute(np.arange(1000), 1000, seed) for seed in (derive(1, "th", 0), derive(1, "th", 1)))
    assert (a == b).sum() < 20
    assert len({derive(s, p, e) for s in range(3) for p in ("th", "lo") for e in range(3)}) == 18
    assert derive(1, "a", "b") != derive(1, "ab", "")


def test_known_values_never_change():
    """A change here silently reorders the data of every run."""
    assert derive(42, "pool", "th", 0) == 4188038800141287008
    assert [permute(i, 10**12, 42) for i in range(3)] == [976408041604, 429766770525, 11234800231]


def test_shape_is_kept_and_empty_is_fine():
    assert permute(np.arange(6).reshape(2, 3), 6, 0).shape == (2, 3)
    assert permute(np.array([], dtype=np.int64), 6, 0).shape == (0,)


@pytest.mark.parametrize(
    ("i", "n"), [(5, 5), (-1, 5), (np.array([0, 5]), 5), (np.array([-1]), 5), (0, 0), (0, 2**63 + 1)]
)
def test_outside_is_an_error(i, n):
    with pytest.raises(ValueError):
        permute(i, n, 0)
