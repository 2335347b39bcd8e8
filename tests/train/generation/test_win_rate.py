"""Win rates by hand, the length rule, and a length-controlled rate that finds what a biased judge hides."""

import numpy as np
import pytest

from train.generation import win_rate


def test_outcomes_of_verdicts_and_rewards():
    assert win_rate.outcomes([1, 0.5, 0, -0.5, -1]).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert win_rate.by_reward(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])).tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(
    ("verdict", "longer", "expected"),
    [(0.5, 500, 0.5), (0.5, 501, 0), (1, 900, 1), (-0.5, 900, -0.5), (-0.5, -501, 0), (-1, -900, -1), (0, 900, 0)],
)
def test_a_slight_win_by_a_much_longer_answer_is_a_tie(verdict, longer, expected):
    answer, baseline = "a" * (1000 + longer), "b" * 1000
    assert win_rate.with_length_rule(verdict, answer, baseline) == expected


def test_length_control_finds_the_rate_at_equal_lengths():
    rng = np.random.default_rng(0)
    longer = rng.normal(300, 400, 20_000)  # a wordy model
    logit = -0.4 + 2.0 * np.tanh(longer / longer.std())  # a judge that likes length
    outcome = (rng.random(20_000) < 1 / (1 + np.exp(-logit))).astype(float)
    assert outcome.mean() > 0.55
    assert win_rate.length_controlled(outcome, longer) == pytest.approx(1 / (1 + np.exp(0.4)), abs=0.015)


def test_length_control_without_a_bias_changes_little():
    rng = np.random.default_rng(1)
    outcome = rng.choice([0.0, 0.25, 0.5, 0.75, 1.0], 4000, p=[0.1, 0.1, 0.2, 0.2, 0.4])
    assert win_rate.length_controlled(outcome, rng.normal(100, 50, 4000)) == pytest.approx(outcome.mean(), abs=0.03)


def test_length_control_is_symmetric():
    rng = np.random.default_rng(2)
    outcome, longer = rng.random(50), rng.normal(20, 80, 50)
    other = win_rate.length_controlled(1 - outcome, -longer)
    assert win_rate.length_controlled(outcome, longer) == pytest.approx(1 - other, abs=1e-9)


@pytest.mark.parametrize("longer", [np.zeros(20), np.full(20, 7.0), np.arange(20.0)])
def test_length_control_of_wins_alone_stays_finite(longer):
    assert 0.9 < win_rate.length_controlled(np.ones(20), longer) < 1


def test_by_language():
    assert win_rate.by_language(np.array([1.0, 0.0, 0.5]), ["th", "lo", "th"]) == {"lo": 0.0, "th": 0.75}
    assert np.isnan(win_rate.length_controlled(np.array([]), np.array([])))
