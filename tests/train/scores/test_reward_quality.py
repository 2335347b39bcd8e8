"""Accuracy, calibration and length bias by hand."""

import numpy as np
import pytest

from train.scores import reward_quality as quality


def test_accuracy_counts_ties_as_half():
    assert quality.accuracy(np.array([1.0, 0.0, 1.0, 2.0]) - np.array([0.0, 1.0, 1.0, 1.0])) == 0.625


def test_wilsons_interval():
    assert quality.interval(0.5, 27) == pytest.approx((0.3235, 0.6765), abs=1e-4)
    assert quality.interval(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_reliability_by_hand():
    """sigmoid(log 2) = 2/3, sigmoid(log 9) = 0.9."""
    margins = np.log([2, 2, 1 / 2, 1 / 2, 9, 9, 9, 1 / 9])
    low, high = quality.reliability(margins, bins=2)
    assert low == {"confidence": pytest.approx(2 / 3), "accuracy": 0.5, "pairs": 4}
    assert high == {"confidence": pytest.approx(0.9), "accuracy": 0.75, "pairs": 4}
    assert quality.calibration_error(margins, bins=2) == pytest.approx((1 / 6 + 0.15) / 2)


def test_a_calibrated_model_has_a_small_error_and_an_overconfident_one_a_large():
    rng = np.random.default_rng(0)
    margins = rng.normal(scale=2, size=20_000)
    chosen = rng.random(20_000) < 1 / (1 + np.exp(-margins))
    signed = np.where(chosen, margins, -margins)
    assert quality.calibration_error(signed) < 0.01
    assert quality.calibration_error(5 * signed) > 0.1


def test_length_bias_of_a_model_that_only_likes_length():
    chosen, rejected = np.array([10, 5, 30, 7, 9]), np.array([5, 10, 3, 7, 12])
    bias = quality.length_bias(np.log(chosen), np.log(rejected), chosen, rejected)
    assert bias["correlation"] == pytest.approx(1.0)
    assert (bias["accuracy_longer_chosen"], bias["accuracy_longer_rejected"]) == (1.0, 0.0)
    assert bias["accuracy_of_longer"] == pytest.approx(0.5)


def test_length_bias_where_it_cannot_be_told():
    same = np.array([4, 4])
    found = quality.length_bias(np.array([1.0, 2.0]), np.array([0.0, 0.0]), same, same)
    assert found == {
        "correlation": None,
        "accuracy_longer_chosen": None,
        "accuracy_longer_rejected": None,
        "accuracy_of_longer": 0.5,
    }
