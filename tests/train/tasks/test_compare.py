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
