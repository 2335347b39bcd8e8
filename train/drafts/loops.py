"""Whether a text goes in circles, as the greedy text of small models soon does."""

from __future__ import annotations

PERIOD, REPEATS, LEAST = 16, 3, 24


def loops(ids: list[int]) -> bool:
    """Whether a text ends with the same `PERIOD` tokens or fewer `REPEATS` times, `LEAST` tokens at least."""
    for period in range(1, PERIOD + 1):
        size = max(LEAST, REPEATS * period)
        if len(ids) >= size and ids[-size + period :] == ids[-size:-period]:
            return True
    return False
