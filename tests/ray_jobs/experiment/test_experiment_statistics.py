"""Differences of two arms, beside scipy, and by simulation: how often nothing is called something, and what intervals hold."""

import math

import numpy as np
import pytest
from scipy import stats

from ray_jobs.experiment.statistics import LEAST, Difference, difference

TRIALS = 600
# of 600 trials at 95 % fewer than 551 hits are seen in 1.2 % of runs, so in one of these cases now and then; the seed is fixed
FEWEST = 551


def arm(scores_SI) -> dict:
    return {seed: {f"item {i}": float(x) for i, x in enumerate(row)} for seed, row in enumerate(scores_SI)}


def drawn(rng, shape, kind) -> np.ndarray:
    """Of mean 0 and variance 1."""
    if kind == "heavy":
        return rng.standard_t(4, shape) / np.sqrt(2)
    return rng.exponential(size=shape) - 1 if kind == "skewed" else rng.normal(size=shape)


def pair(rng, shape, spread, effect=0.0, kind="normal") -> tuple[dict, dict]:
    """Two arms on hard and easy items. `spread`: of the difference, over (seeds, items, what is left)."""
    (seeds, items), (of_seed, of_item, rest) = shape, spread
    easy_I = drawn(rng, items, kind)
    other_SI = easy_I + rng.normal(size=(seeds, 1)) + drawn(rng, (seeds, items), kind)
    moved_SI = of_seed * rng.normal(size=(seeds, 1)) + of_item * drawn(rng, items, kind)
    return arm(other_SI + effect + moved_SI + rest * drawn(rng, (seeds, items), kind)), arm(other_SI)


@pytest.mark.parametrize("items", [2, 10, 137])
def test_one_seed_is_the_paired_t_test(items):
    rng = np.random.default_rng(items)
    a_N, b_N = rng.normal(size=(2, items))
    found = difference(arm([a_N]), arm([b_N]))
    expected = stats.ttest_rel(a_N, b_N).confidence_interval()
    assert found.value == pytest.approx(np.mean(a_N - b_N))
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert (found.seeds, found.items) == (1, items)


@pytest.mark.parametrize("seeds", [2, 3, 5, 12])
def test_items_that_move_together_are_the_t_test_over_seeds(seeds):
    rng = np.random.default_rng(seeds)
    moved_S = rng.normal(size=seeds)
    other_SI = rng.normal(size=(seeds, 40))
    found = difference(arm(other_SI + moved_S[:, None]), arm(other_SI))
    expected = stats.ttest_1samp(moved_S, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_two_sources_of_error_add_as_squares():
    """Each source by itself beside scipy, from its means."""
    rng = np.random.default_rng(0)
    d_SI = rng.normal(size=(4, 30)) + rng.normal(size=(4, 1))
    found = difference(arm(d_SI), arm(np.zeros((4, 30))))
    halves = [np.ptp(stats.ttest_1samp(means, 0).confidence_interval()) / 2 for means in (d_SI.mean(1), d_SI.mean(0))]
    assert (found.high - found.low) / 2 == pytest.approx(math.hypot(*halves))


def test_groups_are_the_t_test_over_their_means():
    """Groups of one size; items of a group that are copies add nothing."""
    rng = np.random.default_rng(1)
    of_group = rng.normal(size=25)
    d_I = np.repeat(of_group, 4)
    groups = {f"item {i}": f"passage {i // 4}" for i in range(100)}
    found = difference(arm([d_I]), arm([np.zeros(100)]), groups)
    expected = stats.ttest_1samp(of_group, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    alone = difference(arm([d_I]), arm([np.zeros(100)]))
    assert found.high - found.low > 1.9 * (alone.high - alone.low)


SPREADS = {
    "seeds": (1.0, 0.1, 0.1),
    "items": (0.0, 1.0, 0.3),
    "rest": (0.0, 0.0, 1.0),
    "even": (0.2, 1.0, 1.0),
}


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize(("seeds", "items"), [(2, 10), (2, 150), (3, 10), (3, 500), (5, 10), (5, 50)])
def test_intervals_hold_the_truth_and_nothing_is_not_called_something(seeds, items, spread):
    """Seeds and items are both drawn anew; the true difference is 0.3, and that of the null is 0."""
    rng = np.random.default_rng([seeds, items, len(spread)])
    trials = TRIALS if items < 500 else TRIALS // 3
    held = shown = 0
    for trial in range(trials):
        kind = ("normal", "heavy")[trial % 2]
        found = difference(*pair(rng, (seeds, items), SPREADS[spread], 0.3, kind))
        held += found.low <= 0.3 <= found.high
        shown += difference(*pair(rng, (seeds, items), SPREADS[spread], 0.0, kind)).shown
    assert held >= FEWEST * trials / TRIALS
    assert shown <= (TRIALS - FEWEST) * trials / TRIALS


@pytest.mark.parametrize("items", [10, 50, 500])
def test_one_seed_covers_what_these_models_do_and_shows_nothing(items):
    """Over other items, that is; and with an effect of the seed the interval misses, which is why nothing is shown."""
    rng = np.random.default_rng(items)
    trials = TRIALS if items < 500 else TRIALS // 3
    held = fooled = 0
    for _ in range(trials):
        found = difference(*pair(rng, (1, items), (0.0, 1.0, 1.0), 0.3))
        held += found.low <= 0.3 <= found.high
        seeded = difference(*pair(rng, (1, items), (1.0, 1.0, 1.0)))
        assert not found.shown and not seeded.shown
        fooled += seeded.apart
    assert held >= FEWEST * trials / TRIALS
    assert fooled > 0.2 * trials


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("items", [10, 60, 400])
def test_right_and_wrong_answers_of_arms_alike(seeds, items):
    """Scores of 0 and 1: the chance of a right answer is the item's, moved by the seed for all items together."""
    rng = np.random.default_rng([seeds, items])
    shown = 0
    for _ in range(300):
        ease_I = rng.normal(size=items)
        chance_ASI = 1 / (1 + np.exp(-ease_I - 0.3 * rng.normal(size=(2, seeds, 1))))
        ours, other = (rng.random((seeds, items)) < chance_ASI[side] for side in (0, 1))
        shown += difference(arm(ours), arm(other)).shown
    assert shown <= 0.06 * 300


@pytest.mark.parametrize("seeds", [1, 3])
def test_items_that_share_a_passage(seeds):
    """Four questions a passage, moved together: with groups the interval holds, without it is too narrow."""
    rng = np.random.default_rng(seeds)
    groups = {f"item {i}": str(i // 4) for i in range(80)}
    held = alone = 0
    for _ in range(TRIALS):
        d_SI = np.repeat(rng.normal(size=20), 4) + 0.3 * rng.normal(size=(seeds, 80))
        arms = arm(d_SI), arm(np.zeros_like(d_SI))
        with_groups, without = difference(*arms, groups), difference(*arms)
        held += with_groups.low <= 0 <= with_groups.high
        alone += without.low <= 0 <= without.high
    assert held >= FEWEST
    assert alone < 0.85 * TRIALS


def test_an_arm_beside_itself_and_beside_a_constant():
    rng = np.random.default_rng(0)
    one = arm(rng.normal(size=(3, 12)))
    assert difference(one, one) == Difference(0.0, 0.0, 0.0, False, 3, 12)
    shifted = {seed: {item: score + 0.25 for item, score in scores.items()} for seed, scores in one.items()}
    found = difference(shifted, one)
    assert found.value == pytest.approx(0.25) and found.shown and found.verdict == "difference shown"
    assert difference(one, shifted).value == -found.value


def test_only_what_both_arms_have_counts():
    ours = {42: {"a": 1.0, "b": 2.0, "only ours": 50.0}, 43: {"a": 1.0, "b": 3.0}, 99: {"a": 7.0}}
    other = {42: {"a": 0.0, "b": 0.0}, 43: {"b": 1.0, "a": 1.0}, 98: {"a": 0.0}}
    found = difference(ours, other)
    assert (found.value, found.seeds, found.items) == (1.25, 2, 2)


def test_few_items_show_nothing():
    many = arm(np.ones((3, LEAST)) + np.linspace(0, 0.01, LEAST))
    zero = arm(np.zeros((3, LEAST)))
    assert difference(many, zero).shown
    assert not difference({seed: dict(list(row.items())[1:]) for seed, row in many.items()}, zero).shown
    single = difference(arm([[1.0], [2.0]]), arm([[0.0], [0.0]]))
    assert single.value == 1.5 and math.isnan(single.low) and single.verdict == "no difference shown"


def test_a_level_for_many_differences_is_wider():
    rng = np.random.default_rng(2)
    arms = pair(rng, (3, 20), SPREADS["even"])
    plain, strict = difference(*arms), difference(*arms, level=1 - 0.05 / 10)
    assert strict.low < plain.low < plain.high < strict.high


@pytest.mark.parametrize(
    ("ours", "other", "said"),
    [
        ({}, {42: {"a": 1.0}}, "no seed in common"),
        ({42: {"a": 1.0}}, {43: {"a": 1.0}}, "no seed in common"),
        ({42: {"a": 1.0}}, {42: {"b": 1.0}}, "no item in common"),
        ({1: {"a": 1.0}, 2: {"b": 1.0}}, {1: {"a": 1.0}, 2: {"b": 1.0}}, "no item in common"),
        ({42: {"a": float("nan")}}, {42: {"a": 1.0}}, "not a finite number"),
    ],
)
def test_what_cannot_be_compared_is_said(ours, other, said):
    with pytest.raises(ValueError, match=said):
        difference(ours, other)
