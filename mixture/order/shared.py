"""One order of rows for two corpora that have documents in common, so that models trained on them differ by the rest alone.

Two filters keep mostly the same documents. Trained on them in two orders, two models differ by chance more than by what the
filters do. So documents are parted before rows are cut from them: those that both keep, those that one keeps alone. A row is a
window of one of these parts, and a row of what is common stands at the same place in both orders (common random numbers).

Each order reads its two parts in proportion to their tokens, every window as often as another or once more. Where one corpus
has fewer rows of its own than the other, it reads further common ones in their places: both orders have the same length, and so
cost the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mixture.order.permute import derive, permute


class Row(NamedTuple):
    """Window number `rank`, in the order in which a Sampler reads the part, of what is `common` or of what one has alone."""

    common: bool
    rank: int


def orders(common: int, ours: int, other: int, n: int, seed: int) -> tuple[list[Row], list[Row]]:
    """The `n` rows of two corpora of which `common` tokens are in both, and `ours` and `other` in one alone.

    A pure function of its arguments. Raises ValueError where one of the corpora is empty.

    >>> ours, other = orders(common=600, ours=200, other=0, n=8, seed=1)
    >>> sum(a == b for a, b in zip(ours, other)), sorted({*ours} - {*other}), sorted({*other} - {*ours})
    (6, [Row(common=False, rank=0), Row(common=False, rank=1)], [Row(common=True, rank=6), Row(common=True, rank=7)])
    """
    if not common + ours or not common + other:
        raise ValueError("one of the corpora has no tokens")
    both = [round(n * common / (common + own)) for own in (ours, other)]
    shared = min(both)
    place_N = permute(np.arange(n), n, derive(seed, "places")) if n else np.arange(0)
    shared_places, places = np.sort(place_N[:shared]).tolist(), place_N[shared:].tolist()
    found = []
    for of_both in both:
        order = [Row(False, 0)] * n
        for rank, place in enumerate(shared_places):
            order[place] = Row(True, rank)
        further = [Row(True, rank) for rank in range(shared, of_both)]
        for place, row in zip(places, further + [Row(False, rank) for rank in range(n - of_both)], strict=True):
            order[place] = row
        found.append(order)
    return found[0], found[1]
