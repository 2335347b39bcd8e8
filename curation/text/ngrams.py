"""Repetition of n-grams of characters and of words, counted with open-addressing tables in scratch arrays.

An n-gram of words can only repeat where the (n-1)-grams at its start and one further do, so level n of `word_ngrams` looks
only at those positions: few beyond n = 3 in prose. Its keys are pairs (number of the (n-1)-gram, number of the last word),
which are exact. Character n-grams are known by a 64-bit polynomial hash.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from curation.text.units import mix

BASE = np.uint64(0x9E3779B97F4A7C15)
NEWLINE, SPACE = np.uint32(0x0A), np.uint32(0x20)


@numba.njit(inline="always")
def table_size(n):
    """Slots of a table of n entries: a power of two, at most 3/4 full."""
    size = 16
    while size * 3 < n * 4:
        size *= 2
    return size


@numba.njit(inline="always")
def find(keys, mask, key):
    """Slot of `key`, or the free slot (0) where it belongs."""
    slot = mix(key) & mask
    while keys[slot] != 0 and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@numba.njit(cache=True)
def number(values, n, keys, slots, ids):
    """Number equal uint64 values in order of appearance: `ids[:n]` from 0. Returns how many distinct ones there are.

    `keys` and `slots` are scratch of at least `table_size(n)`.
    """
    size = table_size(n)
    keys[:size] = 0
    mask = np.uint64(size - 1)
    distinct = 0
    for i in range(n):
        key = values[i] if values[i] else np.uint64(1)
        slot = find(keys, mask, key)
        if keys[slot] == 0:
            keys[slot], slots[slot] = key, distinct
            distinct += 1
        ids[i] = slots[slot]
    return distinct


@numba.njit(cache=True)
def char_repetition(codes, n_chars, n, keys, slots, by_count):  # noqa: PLR0917
    """Recipe 2.4 (2): k most frequent of the overlapping n-grams / all, k = min(floor(sqrt(D)), D - S).

    D distinct n-grams, S of them once. A newline counts as a space. `by_count` must be zero; it is left zero.
    """
    total = n_chars - n + 1
    if total <= 0:
        return 0.0
    size = table_size(total)
    if size < 2 * total and 2 * size <= len(keys):  # the scratch is that of the longest text: others get emptier tables
        size *= 2
    keys[:size] = 0
    mask = np.uint64(size - 1)
    power = np.uint64(1)
    for _ in range(n):
        power *= BASE
    distinct = once = 0
    top = 1
    rolling = np.uint64(0)
    for i in range(n_chars):
        rolling = rolling * BASE + np.uint64((SPACE if codes[i] == NEWLINE else codes[i]) + 1)
        if i < n - 1:
            continue
        if i >= n:
            old = codes[i - n]
            rolling -= np.uint64((SPACE if old == NEWLINE else old) + 1) * power
        key = rolling if rolling else np.uint64(1)
        slot = (key ^ (key >> np.uint64(32))) & mask  # a hash already: mixed no further, unlike in `find`
        while keys[slot] != 0 and keys[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        if keys[slot] == 0:
            keys[slot], slots[slot] = key, 1
            distinct += 1
            once += 1
        else:
            slots[slot] += 1
            count = slots[slot]
            if count == 2:
                once -= 1
            else:
                by_count[count - 1] -= 1
            by_count[count] += 1
            top = max(top, count)
    left = min(int(math.sqrt(distinct)), distinct - once)
    covered = 0
    for count in range(top, 1, -1):
        take = min(by_count[count], left)
        covered += take * count
        left -= take
        by_count[count] = 0
    return covered / total


@numba.njit(cache=True)
def word_ngrams(ids, n_words, n_ids, ends, repetition_n, keys, slots, gram, counts, positions, depth, seen, out):  # noqa: PLR0917
    """Repeated word n-grams for n = 1 to max(10, repetition_n); returns SailCraft's repetition ratio for `repetition_n`.

    `ids[:n_words]` are the words by number below `n_ids`, `ends[i]` the characters of the first i words. Written to `out`
    (float64 [11], zero before): for n = 2 to 4 the characters of all occurrences of the most frequent repeated n-gram (of
    equally frequent ones the longest), for n = 5 to 10 the characters of n-grams met before, walking left to right and
    stepping over each one found (Gopher A1.1). The rest is scratch: `keys` and `slots` of `table_size(n_words)`, the others
    of at least `n_words` + 1.
    """
    word_repetition = 0.0
    counts[:n_ids] = 0
    for i in range(n_words):
        gram[i] = ids[i]
        counts[ids[i]] += 1
    active = 0  # positions whose n-gram is repeated, in order
    depth[n_words] = 0
    for i in range(n_words):
        depth[i] = 0
        if counts[ids[i]] > 1:
            depth[i] = 1
            positions[active] = i
            active += 1
    if repetition_n == 1 and n_words:
        word_repetition = active / n_words
    for n in range(2, max(10, repetition_n) + 1):
        candidates = 0
        for a in range(active):
            i = positions[a]
            if i + n <= n_words and depth[i + 1] >= n - 1:
                positions[candidates] = i
                candidates += 1
        size = table_size(candidates)
        keys[:size] = 0
        mask = np.uint64(size - 1)
        distinct = 0
        for a in range(candidates):
            i = positions[a]
            key = np.uint64(gram[i]) << np.uint64(32) | np.uint64(ids[i + n - 1] + 1)
            slot = find(keys, mask, key)
            if keys[slot] == 0:
                keys[slot], slots[slot] = key, distinct
                counts[distinct], seen[distinct] = 0, 0
                distinct += 1
            gram[i] = slots[slot]
            counts[gram[i]] += 1
        active = 0
        for a in range(candidates):
            i = positions[a]
            if counts[gram[i]] > 1:
                depth[i] = n
                positions[active] = i
                active += 1
        if n == repetition_n:
            word_repetition = active / (n_words - n + 1) if n_words >= n else 0.0
        if n <= 4:
            best = best_length = 0
            for a in range(active):
                i = positions[a]
                count, length = counts[gram[i]], ends[i + n] - ends[i]
                if count > best or (count == best and length > best_length):
                    best, best_length = count, length
            out[n] = best * best_length
        elif n <= 10:
            free = 0
            for a in range(active):
                i = positions[a]
                if i < free:
                    continue
                if seen[gram[i]]:
                    out[n] += ends[i + n] - ends[i]
                    free = i + n
                else:
                    seen[gram[i]] = 1
        if active == 0:
            break
    return word_repetition
