"""Intervals and agreement against their definitions, solved by other means, and published examples."""

import math
import random

import pytest

from ray_jobs.inspect.statistics import Share, Z, corrected, error_rate, kappa, newcombe, weighted, wilson


@pytest.mark.parametrize("n", [1, 2, 7, 50, 100, 3000])
def test_wilsons_bounds_are_z_standard_errors_from_the_share(n):
    for hits in {0, 1, n // 2, n - 1, n} & set(range(n + 1)):
        share = hits / n
        for bound in wilson(share, n):
            assert 0 <= bound <= 1
            assert abs(share - bound) == pytest.approx(Z * math.sqrt(bound * (1 - bound) / n), abs=1e-9)
        low, high = wilson(share, n)
        assert low <= share <= high and (low < share or hits == 0) and (high > share or hits == n)


@pytest.mark.parametrize(
    ("one", "n", "other", "m", "low", "high"),
    [
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (6, 7, 2, 7, 0.0582, 0.8062),
        (5, 56, 0, 29, -0.0381, 0.1926),
        (0, 10, 0, 20, -0.1611, 0.2775),
    ],
)
def test_newcombes_own_examples(one, n, other, m, low, high):  # noqa: PLR0917
    """Newcombe 1998, table II, method 10."""
    shares = [Share(k / size, *wilson(k / size, size), size, size) for k, size in ((one, n), (other, m))]
    value, *bounds = newcombe(*shares)
    assert value == pytest.approx(one / n - other / m)
    assert bounds == pytest.approx([low, high], abs=5e-5)


def test_weights_stand_for_documents():
    """Weights that are whole numbers are as good as that many rows, but for the interval."""
    values, weights = [1, 0, 1, 0, 0.5], [3, 1, 1, 2, 2]
    many = [v for v, w in zip(values, weights, strict=True) for _ in range(w)]
    found = weighted(values, weights)
    assert found.value == pytest.approx(sum(many) / len(many))
    assert found.n == 5 and found.effective == pytest.approx(81 / 19)
    assert weighted([]) is None
    assert weighted([1, 0, 0]) == weighted([1, 0, 0], [7, 7, 7])


def test_intervals_of_strata_cover_the_truth():
    """Two strata of 900 and 100 documents with other shares, 50 drawn of each: at least 93 of 100 intervals hold the truth."""
    chance, covered, trials = random.Random(3), 0, 600
    truth = 0.9 * 0.1 + 0.1 * 0.8
    for _ in range(trials):
        values = [float(chance.random() < p) for p in (0.1, 0.8) for _ in range(50)]
        share = weighted(values, [18] * 50 + [2] * 50)
        covered += share.low <= truth <= share.high
    assert 0.93 <= covered / trials <= 1


def test_kappa_by_hand():
    table = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert kappa(table) == pytest.approx((0.7 - 0.5) / 0.5)  # Cohen's: p_o 35/50, p_e .5 * .6 + .5 * .4
    assert kappa([("a", "a"), ("b", "b")]) == 1
    assert kappa([("a", "b"), ("b", "a")]) == -1
    assert kappa([]) is None and kappa([("a", "a")] * 3) is None
    chance = random.Random(0)
    assert abs(kappa([(chance.random() < 0.3, chance.random() < 0.6) for _ in range(20_000)])) < 0.02


@pytest.mark.parametrize(("truth", "error"), [(0.02, 0.1), (0.3, 0.1), (0.5, 0.2), (0.9, 0.05)])
def test_a_share_less_the_errors_of_two_people_holds_the_truth(truth, error):
    chance, covered = random.Random(7), 0
    for _ in range(200):
        facts = [chance.random() < truth for _ in range(400)]
        says = [[fact ^ (chance.random() < error) for fact in facts] for _ in range(2)]
        alike = weighted([float(a == b) for a, b in zip(*says, strict=True)][:80])
        value, low, high = corrected(weighted(list(map(float, says[0]))), alike) or (0, 0, 1)
        assert 0 <= low <= value <= high <= 1
        covered += low <= truth <= high
    assert covered >= 190


def test_the_error_rate_is_the_root_of_its_equation():
    for alike in (0.51, 0.7, 0.9, 1.0):
        error = error_rate(alike)
        assert (1 - error) ** 2 + error**2 == pytest.approx(alike) and 0 <= error < 0.5
    assert error_rate(0.4) is None and corrected(weighted([1, 0]), weighted([1, 0])) is None
