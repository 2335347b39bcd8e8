"""Agreement of judges against Cohen's own formula and known draws."""

import random

import numpy as np
import pytest

from train.scores.agreement import VERDICTS, agreement


def cohen(pairs, distance):
    """1 - observed / expected disagreement, pair by pair."""
    seen = sum(distance(a, b) for a, b in pairs) / len(pairs)
    chance = sum(distance(a, b) for a, _ in pairs for _, b in pairs) / len(pairs) ** 2
    return 1 - seen / chance


def sign(x):
    return (x > 0) - (x < 0)


def test_kappa_is_cohens():
    rng = random.Random(1)
    for _ in range(40):
        pairs = [(rng.choice(VERDICTS), rng.choice(VERDICTS)) for _ in range(rng.randint(20, 60))]
        found = agreement([a for a, _ in pairs], [b for _, b in pairs])
        assert found.pairs == len(pairs)
        assert found.alike.value == pytest.approx(np.mean([sign(a) == sign(b) for a, b in pairs]))
        assert found.kappa.value == pytest.approx(cohen([(sign(a), sign(b)) for a, b in pairs], lambda a, b: a != b))
        assert found.weighted.value == pytest.approx(cohen(pairs, lambda a, b: abs(a - b)))
        for one in (found.alike, found.kappa, found.weighted):
            assert one.low <= one.value <= one.high


def test_full_agreement_of_few_pairs_is_not_sure():
    found = agreement([1.0, -1.0, 0.5, 0.0] * 2, [1.0, -1.0, 0.5, 0.0] * 2)
    assert found.kappa.value == found.weighted.value == found.alike.value == 1
    assert found.kappa.low < 0.9 and found.alike.low < 0.9
    opposite = agreement([1.0, -1.0] * 5, [-1.0, 1.0] * 5)
    assert opposite.kappa.value == -1 and opposite.alike.value == 0


def test_where_a_judge_says_one_thing_there_is_no_kappa():
    found = agreement([1.0] * 5, [1.0, 0.5, 1.0, -1.0, 0.0])
    assert found.kappa is None and found.weighted is None and found.alike.value == 0.6
    slight = agreement([1.0, 0.5, 1.0], [0.5, 1.0, 1.0])  # both always better, but not always as much
    assert slight.kappa is None and slight.weighted is not None and slight.alike.value == 1
    assert agreement([], []) is None


def test_intervals_hold_the_truth():
    """Of two judges who agree in a share of pairs and else each say what they like."""
    rng = np.random.default_rng(2)
    words, often = np.array([-1.0, 0.0, 1.0]), np.array([0.5, 0.2, 0.3])
    for share in (0.3, 0.95):
        for n in (10, 40):
            held = []
            for _ in range(300):
                a, other = rng.choice(words, (2, n), p=often)
                b = np.where(rng.random(n) < share, a, other)
                if (found := agreement(a.tolist(), b.tolist())) and found.kappa:
                    held.append(found.kappa.low - 1e-9 <= share <= found.kappa.high + 1e-9)
            assert np.mean(held) > 0.9, (share, n)  # resampled pairs: 0.29 at 0.95 and ten
