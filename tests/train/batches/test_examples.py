"""Rows of examples: what ends up where, and the order of epochs."""

import numpy as np
import pytest

from train.batches.examples import Example, collate, in_epochs, steps, token_batches, within


def example(ids, scored, name="a"):
    return Example(name, "id", np.array(ids), np.array(scored, bool))


def test_collate_by_hand():
    rows = [[example([5, 6, 7, 8], [0, 0, 1, 1]), example([9, 10], [0, 1])], [example([11, 12, 13], [1, 1, 0])]]
    batch = collate(rows, 5)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 9, 0], [11, 12, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 7, 8, 10, -100], [12, -100, -100, -100, -100]]
    assert batch["doc_ids"].tolist() == [[0, 0, 0, 1, 3], [2, 2, 3, 3, 3]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 0], [0, 1, 0, 1, 2]]
    assert batch["count"].item() == 4 == sum(e.n_scored for row in rows for e in row)


def test_collate_is_as_long_as_the_longest_row():
    assert collate([[example([1, 2], [0, 1])], [example([1, 2, 3, 4], [0, 1, 1, 1])]])["input_ids"].shape == (2, 3)


def test_within_keeps_what_fits_and_says_why_not():
    kept, rejects = within(
        [
            example([1, 2, 3], [0, 1, 1], "fits"),
            example([1, 2, 3, 4], [0, 1, 1, 1], "long"),
            example([1, 2], [1, 0], "none"),
        ],
        2,
    )
    assert [e.id for e in kept] == ["fits"]
    assert [(r["doc_id"], r["rule"]) for r in rejects] == [("long", "too_long"), ("none", "nothing_scored")]
    assert (rejects[0]["value"], rejects[0]["threshold"]) == (3, 2)


def test_token_batches_cover_all_and_stay_within_the_budget():
    rng = np.random.default_rng(0)
    examples = [example(np.zeros(n), np.zeros(n)) for n in rng.integers(1, 50, 100)]
    batches = token_batches(examples, 120)
    assert sorted(i for batch in batches for i in batch) == list(range(100))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(examples[i].positions for i in batch) <= 120
    assert len(batches) < 40


def test_every_epoch_is_another_permutation_of_all_rows():
    first, second = ([in_epochs(10 * epoch + i, 10, seed=3) for i in range(10)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert first == [in_epochs(i, 10, seed=3) for i in range(10)]
    assert first != [in_epochs(i, 10, seed=4) for i in range(10)]


@pytest.mark.parametrize(
    ("n", "epochs", "rows", "expected"), [(10, 1, 4, 3), (10, 2, 4, 5), (1, 1, 8, 1), (8, 3, 8, 3)]
)
def test_steps(n, epochs, rows, expected):
    assert steps(n, epochs, rows) == expected
