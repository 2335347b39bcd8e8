"""The tokens that a draft may propose: every language has its share, whatever its size."""

import numpy as np
import pytest

from train.drafts import vocabulary


def test_worth_is_the_sum_of_shares():
    counts = {"big": np.array([900, 90, 10, 0, 0, 0]), "small": np.array([0, 0, 0, 6, 3, 1])}
    assert vocabulary.balanced(counts, 2).tolist() == [0, 3]
    assert vocabulary.balanced(counts, 3).tolist() == [0, 3, 4]
    assert vocabulary.balanced(counts, 2, always=[5]).tolist() == [0, 5]
    assert vocabulary.coverage(counts, np.array([0, 3])) == {"big": 0.9, "small": 0.6}


def test_equal_worth_goes_by_number_and_a_larger_language_weighs_no_more():
    counts = {"a": np.array([1, 1, 0, 0]), "b": np.array([0, 0, 1000, 1000])}
    assert vocabulary.balanced(counts, 3).tolist() == [0, 1, 2]


def test_balanced_covers_the_worst_language_where_a_count_over_all_does_not():
    """Zipf vocabularies of ten languages, of which the first has 98 % of the text."""
    rng, size = np.random.default_rng(3), 20_000
    worth = 1 / np.arange(1, 2001) ** 1.1
    counts = {}
    for number in range(10):
        of = np.zeros(size, np.int64)
        tokens = 20_000_000 if number == 0 else 40_000
        of[2000 * number : 2000 * number + 2000] = rng.multinomial(tokens, worth / worth.sum())
        counts[str(number)] = of
    chosen = vocabulary.balanced(counts, 2500)
    together = vocabulary.balanced({"all": np.sum(list(counts.values()), axis=0)}, 2500)
    fair, unfair = (vocabulary.coverage(counts, of) for of in (chosen, together))
    assert min(fair.values()) > 0.95 * max(fair.values())
    assert min(unfair.values()) < 0.7 * max(unfair.values())


def test_numbers_are_the_inverse():
    chosen = np.array([2, 5, 7])
    found = vocabulary.numbers(chosen, 9)
    assert found.tolist() == [-1, -1, 0, -1, -1, 1, -1, 2, -1]


def test_counts_are_of_each_language():
    found = vocabulary.count({"b": [np.array([1, 1]), np.array([3])], "a": []}, 4)
    assert {lang: of.tolist() for lang, of in found.items()} == {"a": [0, 0, 0, 0], "b": [0, 2, 0, 1]}


def test_nothing_to_count_and_too_small_a_size_are_said():
    with pytest.raises(ValueError, match="there is none"):
        vocabulary.balanced({"a": np.zeros(4, np.int64)}, 2)
    with pytest.raises(ValueError, match="does not hold the 3 tokens"):
        vocabulary.balanced({"a": np.ones(4, np.int64)}, 2, always=[0, 1, 2])
