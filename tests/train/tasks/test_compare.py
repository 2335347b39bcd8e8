"""Intervals and paired differences: against textbook values, and as often right as they say."""

import numpy as np
import pytest
from scipy import stats

from train.tasks import compare


def test_wilson_and_mcnemar_are_the_textbooks():
    one = compare.mean([1.0] * 8 + [0.0] * 2)
    assert (one.low, one.high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    before, after = [1, 1, 1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 0, 1, 1, 1, 1, 1, 1, 0]
    found = compare.difference(before, after)
    assert found.value == pytest.approx(0.5)
    assert found.p == pytest.approx(stats.binomtest(6, 7).pvalue)


def test_a_model_beside_itself_shows_no_difference():
    rng = np.random.default_rng(1)
    for scores in (rng.integers(0, 2, 50), rng.random(50)):
        one = compare.difference(scores, scores)
        assert (one.value, one.low, one.high, one.certain) == (0, 0, 0, False)
    assert not compare.difference([1.0], [0.0]).certain


def test_intervals_hold_as_often_as_they_say():
    rng = np.random.default_rng(2)
    held, alarms, n = 0, 0, 600
    for _ in range(n):
        skill = rng.beta(2, 2, 80)
        a, b = (rng.random(80) < skill).astype(float), (rng.random(80) < skill).astype(float)
        one = compare.mean(a)
        held += one.low <= 0.5 <= one.high
        alarms += compare.difference(a, b).certain
    assert held / n > 0.92
    assert alarms / n < 0.05


def test_items_of_a_group_are_worth_their_group():
    rng = np.random.default_rng(3)
    held, n, alone = 0, 400, 0
    for _ in range(n):
        of_group = rng.random(20)
        scores = (rng.random((20, 5)) < np.repeat(of_group[:, None], 5, 1)).astype(float).ravel()
        names = [f"{i // 5}" for i in range(100)]
        one, plain = compare.grouped(scores, names), compare.mean(scores)
        held += one.low <= 0.5 <= one.high
        alone += plain.low <= 0.5 <= plain.high
        assert one.value == pytest.approx(plain.value)
    assert held / n > 0.92 > alone / n  # what items alone would say
    assert compare.grouped([0.0, 1.0, 1.0], ["a", "b", "c"]) == compare.mean([0.0, 1.0, 1.0])
    part = rng.random(30)
    of_three = part.reshape(10, 3).mean(1)
    one = compare.grouped(part, [str(i // 3) for i in range(30)])
    reach = stats.t.ppf(0.975, 9) * of_three.std(ddof=1) / np.sqrt(10)
    assert (one.value, one.high) == pytest.approx((of_three.mean(), of_three.mean() + reach))
    assert 0 < compare.grouped([0.0] * 10, ["a"] * 5 + ["b"] * 5).high < 1


def test_differences_of_grouped_items_are_those_of_groups():
    rng = np.random.default_rng(4)
    a, b = rng.random(30), rng.random(30)
    names = [str(i // 3) for i in range(30)]
    of_groups = compare.difference(a.reshape(10, 3).mean(1), b.reshape(10, 3).mean(1))
    found = compare.difference(a, b, names)
    assert (found.value, found.low, found.high) == pytest.approx((of_groups.value, of_groups.low, of_groups.high))
    alone = compare.difference(a, b, list(map(str, range(30))))
    assert alone[:3] == compare.difference(a, b)[:3]
    assert not compare.difference([0.0] * 20, [1.0] * 20, ["one"] * 20).certain
