"""A keyed permutation of range(n) that is computed, not stored: `permute(i, n, seed)` for any n up to 2**63.

A Feistel network over the smallest power of two 2**b >= n: the b bits are split in two halves that take turns in
being XORed with a hash of the other, which is a bijection whatever the hash (Luby and Rackoff 1988). A result outside
range(n) goes through the network again until it falls inside (cycle walking, Black and Rogaway 2002); as 2**b < 2n
that is under two passes on average. Not cryptography: an order that looks random, costs no memory, and can be entered
at any index.
"""

from __future__ import annotations

from functools import lru_cache
from typing import overload

import numpy as np
import xxhash

ROUNDS = 8
MASK64 = (1 << 64) - 1
MULTIPLY = 0xD6E8FEB86659FD93  # xor-shift-multiply finaliser, twice


def derive(seed: int, *parts: str | int) -> int:
    """A 63-bit seed for one use of `seed`, such as `derive(seed, "pool", "th", epoch)`."""
    return xxhash.xxh3_64_intdigest("\n".join(map(str, (seed, *parts))).encode()) >> 1


@overload
def permute(i: int, n: int, seed: int) -> int: ...
@overload
def permute(i: np.ndarray, n: int, seed: int) -> np.ndarray: ...
def permute(i: int | np.ndarray, n: int, seed: int) -> int | np.ndarray:
    """Where the permutation of range(n) that belongs to `seed` sends index `i`.

    `i`: an int, or an integer array of any shape (result: int64, same shape). Raises ValueError outside range(n) or
    for an n that is not in 1..2**63.

    >>> sorted(permute(i, 5, seed=1) for i in range(5))
    [0, 1, 2, 3, 4]
    """
    return _walk(i, n, seed, inverse=False)


def unpermute(i: int | np.ndarray, n: int, seed: int) -> int | np.ndarray:
    """The inverse: `unpermute(permute(i, n, seed), n, seed) == i`."""
    return _walk(i, n, seed, inverse=True)


@lru_cache(maxsize=4096)
def _keys(seed: int) -> tuple[int, ...]:
    return tuple(xxhash.xxh3_64_intdigest(round.to_bytes(1, "little"), seed & MASK64) for round in range(ROUNDS))


def _walk(i: int | np.ndarray, n: int, seed: int, inverse: bool) -> int | np.ndarray:
    if not 1 <= n <= 1 << 63:
        raise ValueError(f"a permutation needs 1 to 2**63 elements, not {n}")
    bits = max(1, (n - 1).bit_length())
    keys = tuple(enumerate(_keys(seed)))
    if inverse:
        keys = keys[::-1]
    if isinstance(i, np.ndarray):
        return _walk_array(i, n, bits, keys)
    if not 0 <= i < n:
        raise ValueError(f"index {i} is outside a permutation of {n} elements")
    i = _network(int(i), bits, keys)
    while i >= n:
        i = _network(i, bits, keys)
    return i


def _network(x: int, bits: int, keys: tuple[tuple[int, int], ...]) -> int:
    high_bits = bits // 2
    low_bits = bits - high_bits
    high_mask, low_mask = (1 << high_bits) - 1, (1 << low_bits) - 1
    high, low = x >> low_bits, x & low_mask
    for round, key in keys:
        h = ((low if round % 2 else high) ^ key) * MULTIPLY & MASK64
        h = (h ^ h >> 32) * MULTIPLY & MASK64
        if round % 2:
            high ^= (h >> 32) & high_mask
        else:
            low ^= (h >> 32) & low_mask
    return high << low_bits | low


def _walk_array(i: np.ndarray, n: int, bits: int, keys: tuple[tuple[int, int], ...]) -> np.ndarray:
    if i.size and (int(i.min()) < 0 or int(i.max()) >= n):
        raise ValueError(f"an index is outside a permutation of {n} elements")
    x = _network_array(i.ravel().astype(np.uint64), bits, keys)
    outside = np.flatnonzero(x >= np.uint64(n))
    while outside.size:
        x[outside] = _network_array(x[outside], bits, keys)
        outside = outside[x[outside] >= np.uint64(n)]
    return x.astype(np.int64).reshape(i.shape)


def _network_array(x: np.ndarray, bits: int, keys: tuple[tuple[int, int], ...]) -> np.ndarray:
    low_bits = bits - bits // 2
    shift, half, multiply = np.uint64(low_bits), np.uint64(32), np.uint64(MULTIPLY)
    high_mask, low_mask = np.uint64((1 << bits // 2) - 1), np.uint64((1 << low_bits) - 1)
    high, low = x >> shift, x & low_mask
    for round, key in keys:
        h = ((low if round % 2 else high) ^ np.uint64(key)) * multiply
        h = ((h ^ h >> half) * multiply) >> half
        if round % 2:
            high ^= h & high_mask
        else:
            low ^= h & low_mask
    return high << shift | low
