"""Byte-pair merges of one piece of text: the pair of lowest rank first, the leftmost of equals (Sennrich et al. 2016).

Short pieces keep a row of ranks of which the least is looked for again and again; long ones, and those with dropout, a heap
over a linked list, which is n log n also for a word of a megabyte.

BPE-dropout (Provilkov et al. 2020): each time a merge is due, it is put aside with probability p, and comes back when
another merge was carried out. The steps are those of `tokenizers`, so that the tokens are distributed alike.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from mixture.bpe.utf8 import load8, load32, load64

MAX_IDS, MAX_MERGES = 1 << 20, 1 << 24  # a key of the pair table is both ids and the rank in one word
NONE = 0xFFFFFFFF
SHORT = 96  # bytes of a piece from which on the heap is faster
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)


class Merges(NamedTuple):
    """The merges of a vocabulary as arrays."""

    byte_ids: np.ndarray  # uint32 [256]: id of each byte
    byte_ranks: np.ndarray  # uint32 [65536]: rank of each pair of bytes, NONE without
    pairs: np.ndarray  # uint64 [2^k]: left id << 44 | right id << 24 | rank; open addressing
    shift: np.ndarray  # uint64 [1]: 64 - k
    hints: (
        np.ndarray
    )  # uint64 [2^15]: a bit for the hash of each pair; most pairs have none, and this stays in the cache
    products: np.ndarray  # uint32 [merges]: id that each rank makes


def empty(byte_ids: np.ndarray, n: int) -> Merges:
    """Room for `n` merges. Raises ValueError for more than 2^24, or a byte's id of 2^20 or more."""
    if n >= MAX_MERGES or byte_ids.max() >= MAX_IDS:
        raise ValueError(f"a vocabulary of more than {MAX_IDS:,} tokens")
    bits = max(8, (2 * n).bit_length())
    return Merges(
        byte_ids.astype(np.uint32),
        np.full(1 << 16, NONE, np.uint32),
        np.full(1 << bits, EMPTY, np.uint64),
        np.array([64 - bits], np.uint64),
        np.zeros(1 << 15, np.uint64),
        np.zeros(n, np.uint32),
    )


def build(byte_ids: np.ndarray, pairs_M2: np.ndarray, products_M: np.ndarray) -> Merges:
    """Merges in the order of their rank: ids of both halves [M, 2] and of the result [M]. Raises ValueError as `empty`."""
    merges = empty(byte_ids, len(products_M))
    if len(products_M) and max(pairs_M2.max(), products_M.max()) >= MAX_IDS:
        raise ValueError(f"a vocabulary of more than {MAX_IDS:,} tokens")
    _build(merges, pairs_M2.astype(np.int64), products_M.astype(np.uint32))
    return merges


@numba.njit(cache=True)
def _build(merges, pairs_M2, products_M):
    byte_of = np.full(MAX_IDS, -1, np.int64)
    for byte in range(256):
        byte_of[merges.byte_ids[byte]] = byte
    for rank in range(len(products_M)):
        add(merges, byte_of, pairs_M2[rank, 0], pairs_M2[rank, 1], rank, products_M[rank])


@numba.njit
def add(merges, byte_of, left, right, rank, product):  # noqa: PLR0917
    """Enter one merge; of a pair that is there twice the last counts. `byte_of`: byte of each id, -1 for none."""
    merges.products[rank] = product
    if byte_of[left] >= 0 and byte_of[right] >= 0:
        merges.byte_ranks[byte_of[left] << 8 | byte_of[right]] = rank
    pair = np.uint64(left) << np.uint64(20) | np.uint64(right)
    h = pair * GOLDEN
    merges.hints[h >> np.uint64(49)] |= np.uint64(1) << (h >> np.uint64(43) & np.uint64(63))
    slot = h >> merges.shift[0]
    while merges.pairs[slot] != EMPTY and merges.pairs[slot] >> np.uint64(24) != pair:
        slot = (slot + np.uint64(1)) & np.uint64(len(merges.pairs) - 1)
    merges.pairs[slot] = pair << np.uint64(24) | np.uint64(rank)


@numba.njit
def addresses(merges):
    """The merges as a tuple of numbers, for the functions below: addresses of the arrays, and what finds a slot in `pairs`."""
    return (
        np.int64(merges.byte_ids.ctypes.data),
        np.int64(merges.byte_ranks.ctypes.data),
        np.int64(merges.pairs.ctypes.data),
        np.int64(merges.hints.ctypes.data),
        np.int64(merges.products.ctypes.data),
        merges.shift[0],
        np.uint64(len(merges.pairs) - 1),
    )


@numba.njit
def _at(array, index):
    return np.int64(load32(array + 4 * np.int64(index)))


@numba.njit
def rank_of(left, right, tables):
    """Rank of the merge of two ids, NONE when there is none."""
    _, _, pairs, hints, _, shift, mask = tables
    pair = np.uint64(left) << np.uint64(20) | np.uint64(right)
    h = pair * GOLDEN
    if load64(hints + np.int64(h >> np.uint64(49)) * 8) >> (h >> np.uint64(43) & np.uint64(63)) & np.uint64(1) == 0:
        return NONE
    slot = h >> shift
    while True:
        found = load64(pairs + np.int64(slot) * 8)
        if found >> np.uint64(24) == pair:
            return np.int64(found & np.uint64(0xFFFFFF))
        if found == EMPTY:
            return NONE
        slot = (slot + np.uint64(1)) & mask


@numba.njit
def merge(at, n, tables, out, written, scratch, random):  # noqa: PLR0917
    """Ids of the `n` bytes at an address into `out` from `written` on; the index after them. `scratch`: uint32 [4 SHORT]."""
    if n <= SHORT:
        return merge_short(at, n, tables, out, written, scratch)
    return merge_long(at, n, tables, out, written, 0.0, random)


@numba.njit
def merge_short(at, n, tables, out, written, scratch):  # noqa: PLR0917
    """As `merge`, for pieces of a few bytes: each place keeps the rank of its pair, and the place in the lowest 8 bits."""
    byte_ids, byte_ranks, _, _, products, _, _ = tables
    ids, before, after = SHORT, 2 * SHORT, 3 * SHORT  # where in `scratch`; the keys come first
    left = np.int64(load8(at))
    scratch[ids] = _at(byte_ids, left)
    for i in range(1, n):
        right = np.int64(load8(at + i))
        scratch[ids + i] = _at(byte_ids, right)
        scratch[i - 1] = min(_at(byte_ranks, left << 8 | right) << 8 | (i - 1), NONE)
        scratch[before + i], scratch[after + i - 1] = i - 1, i
        left = right
    scratch[after + n - 1] = n
    while True:
        best = np.uint32(NONE)
        for i in range(n - 1):
            best = min(best, scratch[i])
        if best == NONE:
            break
        place = np.int64(best) & 0xFF
        made = _at(products, np.int64(best) >> 8)
        dead = np.int64(scratch[after + place])
        right = np.int64(scratch[after + dead])
        scratch[ids + place], scratch[after + place] = made, right
        scratch[dead] = scratch[place] = NONE
        if right < n:
            scratch[before + right] = place
            scratch[place] = min(rank_of(made, scratch[ids + right], tables) << 8 | place, NONE)
        if place > 0:
            left = np.int64(scratch[before + place])
            scratch[left] = min(rank_of(scratch[ids + left], made, tables) << 8 | left, NONE)
    place = np.int64(0)
    while place < n:
        out[written] = scratch[ids + place]
        written += 1
        place = np.int64(scratch[after + place])
    return written


@numba.njit
def merge_long(at, n, tables, out, written, dropout, random):  # noqa: PLR0917
    """As `merge`, for any length. `dropout`: probability, 0 for none; `random`: uint64 [1], the state of its numbers."""
    byte_ids, byte_ranks, _, _, products, _, _ = tables
    ids, before, after = np.empty(n, np.uint32), np.empty(n, np.int32), np.empty(n, np.int32)
    heap, size = np.empty(3 * n + 8, np.uint64), 0  # rank << 32 | position
    aside, n_aside = np.empty(3 * n + 8 if dropout > 0 else 0, np.uint64), 0
    for i in range(n):
        ids[i], before[i], after[i] = _at(byte_ids, load8(at + i)), i - 1, i + 1
    after[n - 1] = -1
    for i in range(n - 1):
        rank = _at(byte_ranks, np.int64(load8(at + i)) << 8 | np.int64(load8(at + i + 1)))
        if rank != NONE:
            size = _push(heap, size, np.uint64(rank) << np.uint64(32) | np.uint64(i))
    while size > 0:
        top, size = _pop(heap, size)
        if dropout > 0:
            if _uniform(random) < dropout:
                aside[n_aside] = top
                n_aside += 1
                continue
            for k in range(n_aside):
                size = _push(heap, size, aside[k])
            n_aside = 0
        place = np.int64(top & np.uint64(0xFFFFFFFF))
        right = after[place]
        if right == -1 or ids[place] == NONE:
            continue
        rank = np.int64(top >> np.uint64(32))
        if rank_of(ids[place], ids[right], tables) != rank:
            continue  # one of both has grown since
        ids[place], ids[right] = _at(products, rank), NONE
        after[place] = after[right]
        if after[place] >= 0:
            before[after[place]] = place
            rank_after = rank_of(ids[place], ids[after[place]], tables)
            if rank_after != NONE:
                size = _push(heap, size, np.uint64(rank_after) << np.uint64(32) | np.uint64(place))
        if before[place] >= 0:
            rank_before = rank_of(ids[before[place]], ids[place], tables)
            if rank_before != NONE:
                size = _push(heap, size, np.uint64(rank_before) << np.uint64(32) | np.uint64(before[place]))
    place = np.int64(0)
    while place != -1:
        out[written] = ids[place]
        written += 1
        place = after[place]
    return written


@numba.njit
def _push(heap, size, value):
    i = size
    while i > 0 and heap[(i - 1) >> 1] > value:
        heap[i] = heap[(i - 1) >> 1]
        i = (i - 1) >> 1
    heap[i] = value
    return size + 1


@numba.njit
def _pop(heap, size):
    top, last = heap[0], heap[size - 1]
    size -= 1
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= last:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = last
    return top, size


@numba.njit
def _uniform(random):
    """A number in [0, 1) and the next state (SplitMix64, Steele et al. 2014)."""
    random[0] += GOLDEN
    z = random[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.float64((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
