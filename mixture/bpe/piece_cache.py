"""The tokens of pieces of text that were seen before: a hash table with a bound, for numba kernels.

Words repeat, so that most pieces are merged once and then looked up. A row of four words (one half cache line) holds a piece
of at most 15 bytes itself and up to three tokens of it; longer pieces and more tokens lie in two buffers that the row
points into. Keys are compared in full: a collision of hashes costs time, never a wrong token. When the table is three
quarters full, or a buffer is, everything is forgotten: the frequent pieces are back within milliseconds.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from mixture.bpe.utf8 import load8, load64

ROWS = 1 << 18
LONG_BYTES, LONG_IDS = 12 << 20, 4 << 20  # of the two buffers: with the rows 36 MB in all
LONGEST = 255  # bytes of a piece that is kept
INLINE = 15
LONG = np.uint64(0xFF) << np.uint64(56)


class Cache(NamedTuple):
    rows: np.ndarray  # uint64 [ROWS, 4]: key, key, count | id << 32, id | id << 32; an empty row has count 0
    bytes: np.ndarray  # uint8: pieces longer than INLINE
    ids: np.ndarray  # uint32: tokens of pieces with more than three
    used: np.ndarray  # int64 [3]: rows, bytes, ids in use


def empty() -> Cache:
    return Cache(
        np.zeros((ROWS, 4), np.uint64),
        np.zeros(LONG_BYTES, np.uint8),
        np.zeros(LONG_IDS, np.uint32),
        np.zeros(3, np.int64),
    )


@numba.njit
def key_of(at, n):
    """Two words that say which piece the `n` bytes at an address are: exactly for up to INLINE bytes, else its hash."""
    if n <= 8:
        low = load64(at) & (np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - 8 * n))
        return low, np.uint64(n) << np.uint64(56)
    if n <= INLINE:
        high = load64(at + 8) & ((np.uint64(1) << np.uint64(8 * (n - 8))) - np.uint64(1))
        return load64(at), high | np.uint64(n) << np.uint64(56)
    h = np.uint64(n)
    for i in range(0, n - 8, 8):
        h = (h ^ load64(at + i)) * np.uint64(0x9FB21C651E98DF25)
        h ^= h >> np.uint64(32)
    h = (h ^ load64(at + n - 8)) * np.uint64(0x9FB21C651E98DF25)
    return h ^ h >> np.uint64(29), LONG | np.uint64(n)


@numba.njit
def find(cache, low, high, at, n):
    """The row of a piece, or the empty one where it belongs."""
    rows = cache.rows
    h = (low ^ high * np.uint64(0xC2B2AE3D27D4EB4F)) * np.uint64(0x9E3779B97F4A7C15)
    row = np.int64(h >> np.uint64(46))  # ROWS = 2^18
    long = n > INLINE
    while rows[row, 2] != 0:
        if rows[row, 0] == low:
            if not long:
                if rows[row, 1] == high:
                    return row
            elif rows[row, 1] & LONG == LONG and rows[row, 1] & np.uint64(0xFF) == np.uint64(n):
                start = np.int64(rows[row, 1] >> np.uint64(8) & np.uint64(0xFFFFFFFFFF))
                i = 0
                while i < n and cache.bytes[start + i] == load8(at + i):
                    i += 1
                if i == n:
                    return row
        row = (row + 1) & (ROWS - 1)
    return row


@numba.njit
def recall(cache, row, out, written):
    """Write the tokens of a full row into `out`; the index after them."""
    third, fourth = cache.rows[row, 2], cache.rows[row, 3]
    count = np.int64(third & np.uint64(0xFF))
    if count <= 3:
        out[written] = third >> np.uint64(32)
        out[written + 1] = fourth & np.uint64(0xFFFFFFFF)
        out[written + 2] = fourth >> np.uint64(32)
        return written + count
    start = np.int64(fourth)
    for i in range(count):
        out[written + i] = cache.ids[start + i]
    return written + count


@numba.njit
def remember(cache, row, low, high, at, n, out, start, stop):  # noqa: PLR0917
    """Keep out[start:stop] as the tokens of a piece in the row that `find` gave. False when there is no room."""
    rows, used, count = cache.rows, cache.used, stop - start
    if used[0] * 4 >= ROWS * 3 or used[1] + n > LONG_BYTES or used[2] + count > LONG_IDS:
        return False
    if n > INLINE:
        high |= np.uint64(used[1]) << np.uint64(8)
        for i in range(n):
            cache.bytes[used[1] + i] = load8(at + i)
        used[1] += n
    second, fourth = np.uint64(0), np.uint64(0)
    if count <= 3:
        second = np.uint64(out[start])
        if count > 1:
            fourth = np.uint64(out[start + 1])
        if count > 2:
            fourth |= np.uint64(out[start + 2]) << np.uint64(32)
    else:
        fourth = np.uint64(used[2])
        for i in range(count):
            cache.ids[used[2] + i] = out[start + i]
        used[2] += count
    rows[row, 0], rows[row, 1] = low, high
    rows[row, 2], rows[row, 3] = np.uint64(count) | second << np.uint64(32), fourth
    used[0] += 1
    return True


@numba.njit
def forget(cache):
    cache.rows[:] = 0
    cache.used[:] = 0
