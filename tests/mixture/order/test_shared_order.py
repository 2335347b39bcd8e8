"""Orders of two corpora with common rows in the same places, against what they promise, on random sizes."""

from collections import Counter

import numpy as np
import pytest

from mixture.order.shared import Row, orders


def cases(n: int) -> list[tuple[int, int, int, int, int]]:
    rng = np.random.default_rng(0)
    found = []
    while len(found) < n:
        common, ours, other = (int(x) for x in rng.integers(0, 5000, 3) * (rng.random(3) > 0.2))
        if common + ours and common + other:
            found.append((common, ours, other, int(rng.integers(0, 400)), int(rng.integers(1 << 40))))
    return found


@pytest.mark.parametrize(("common", "ours", "other", "n", "seed"), cases(200))
def test_orders(common, ours, other, n, seed):
    found = orders(common, ours, other, n, seed)
    for own, order in zip((ours, other), found, strict=True):
        ranks = [sorted(row.rank for row in order if row.common is kind) for kind in (True, False)]
        assert ranks == [list(range(len(one))) for one in ranks]  # each window in its turn, none left out
        assert len(order) == n
        assert abs(len(ranks[0]) - n * common / (common + own)) <= 0.5
    both = [Counter(order) for order in found]
    alike = sum(a == b and a.common for a, b in zip(*found, strict=True))
    assert alike >= sum(min(both[0][row], both[1][row]) for row in both[0] if row.common)
    assert found == orders(common, ours, other, n, seed)
    assert found[::-1] == orders(common, other, ours, n, seed)  # no side is favoured


def test_common_rows_come_in_their_order_and_the_others_anywhere():
    ours, other = orders(common=800, ours=200, other=200, n=1000, seed=3)
    common = [row.rank for row in ours if row.common]
    assert common == sorted(common) and len(common) == 800
    places = np.array([place for place, row in enumerate(ours) if not row.common])
    assert abs(places.mean() - 500) < 60 and [not other[place].common for place in places] == [True] * 200


def test_nothing_in_common_and_all_in_common():
    ours, other = orders(common=0, ours=10, other=99, n=7, seed=1)
    assert set(ours) == set(other) == {Row(False, rank) for rank in range(7)}
    ours, other = orders(common=10, ours=0, other=0, n=7, seed=1)
    assert ours == other == [Row(True, rank) for rank in range(7)]


@pytest.mark.parametrize("sizes", [(0, 0, 5), (0, 5, 0)])
def test_an_empty_corpus_is_said(sizes):
    with pytest.raises(ValueError, match="no tokens"):
        orders(*sizes, n=3, seed=1)
