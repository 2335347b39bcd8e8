"""Learn byte-pair merges, each for the language that is worst off (Foroutan et al. 2025, "Parity-aware BPE").

Plain BPE merges the pair that is most frequent of all, so a language with little text waits long for tokens. Here

    language = argmax_l  tokens of l's measured texts / size of what they say
    merge    = the most frequent pair in the training texts of that language

until the vocabulary is full. The merge is carried out in all languages. What texts say is the same in parallel documents, so
their size is a constant of the language: the caller's `norms`.

Every distinct piece of a language is one row of symbols with two counts: in the training texts, which choose the pairs, and in
the measured ones, which choose the language. Each pair of symbols of a language keeps its count and a list of the pieces that
hold it, and lies in the language's heap under a count that it had; a merge visits the pieces of its pair alone. So learning
costs what all merges change, about 3 x the bytes of the distinct pieces, and memory is bounded by them (some 40 bytes each).
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numba
import numpy as np

from mixture.bpe.patterns import Rules
from mixture.bpe.pretokenize import Tables, next_piece
from mixture.bpe.utf8 import PADDING, load8, load64

MAX_LETTERS = 32  # of one piece: without spaces a piece can be a whole line, and no token shall be one
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
BITS = np.uint64(21)  # of a token's id in the key of a pair
TRAINED, MEASURED = 0, 1  # the counts of a piece
WINDOW, ALPHA = 100, 2.0  # the paper's: of the last WINDOW merges a language has at most ALPHA times its even share


class Pieces:
    """The distinct pieces of a language's texts, and how often each stands in training texts and in measured ones."""

    def __init__(self, tables: Tables, rules: Rules) -> None:
        self.tables, self.rules = tables, rules
        self.slots = np.full(1 << 12, -1, np.int32)
        self.ends = np.zeros(1 << 11, np.int64)  # of piece i: its bytes are data[ends[i]:ends[i + 1]]
        self.counts = np.zeros((1 << 11, 2), np.int64)
        self.data = np.zeros(1 << 14, np.uint8)
        self.n = 0

    def add(self, text: np.ndarray, starts: np.ndarray, kind: int) -> None:
        """Count the pieces of texts: uint8 with PADDING after them, int64 [D+1]. `kind`: TRAINED or MEASURED."""
        most = int(starts[-1] - starts[0])
        self.ends = _room(self.ends, self.n + 1, most + 1)
        self.counts = _room(self.counts, self.n, most)
        self.data = _room(self.data, int(self.ends[self.n]), most + PADDING)
        while len(self.slots) < 2 * (self.n + most):
            self.slots = np.full(2 * len(self.slots), -1, np.int32)
            _enter(self.slots, self.data, self.ends, self.n)
        arrays = self.slots, self.data, self.ends, self.counts
        self.n = _count(text, starts, self.tables, self.rules, *arrays, self.n, kind)


def _room(array: np.ndarray, used: int, more: int) -> np.ndarray:
    """`array` with room for `more` rows behind the `used` ones; they are zero."""
    if used + more <= len(array):
        return array
    larger = np.zeros((max(used + more, 2 * used), *array.shape[1:]), array.dtype)
    larger[:used] = array[:used]
    return larger


@numba.njit
def _hash(at, n):
    h = np.uint64(n)
    for i in range(0, n - 7, 8):
        h = (h ^ load64(at + i)) * GOLDEN
        h ^= h >> np.uint64(32)
    rest = n & 7
    if rest:
        h = (h ^ load64(at + n - rest) & ((np.uint64(1) << np.uint64(8 * rest)) - np.uint64(1))) * GOLDEN
    return np.int64((h ^ h >> np.uint64(31)) & np.uint64(0x7FFFFFFFFFFFFFFF))


@numba.njit(cache=True)
def _enter(slots, data, ends, n):
    base, mask = np.int64(data.ctypes.data), len(slots) - 1
    for i in range(n):
        slot = _hash(base + ends[i], ends[i + 1] - ends[i]) & mask
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = i


@numba.njit(cache=True)
def _count(text, starts, tables, rules, slots, data, ends, counts, n, kind):  # noqa: PLR0917
    base, kept, mask = np.int64(text.ctypes.data), np.int64(data.ctypes.data), len(slots) - 1
    classes, letters = np.int64(tables.classes.ctypes.data), np.int64(tables.letters.ctypes.data)
    for d in range(len(starts) - 1):
        at, end = base + starts[d], base + starts[d + 1]
        while at < end:
            stop = min(next_piece(at, end, classes, letters, rules), end)
            while at < stop:
                after, characters = at + 1, 1
                while after < stop and (load8(after) & 0xC0 == 0x80 or characters < MAX_LETTERS):
                    characters += load8(after) & 0xC0 != 0x80
                    after += 1
                size = after - at
                slot = _hash(at, size) & mask
                while slots[slot] >= 0 and not _equal(kept, ends, slots[slot], at, size):
                    slot = (slot + 1) & mask
                if slots[slot] < 0:
                    slots[slot] = n
                    for i in range(size):
                        data[ends[n] + i] = load8(at + i)
                    ends[n + 1] = ends[n] + size
                    n += 1
                counts[slots[slot], kind] += 1
                at = after
    return n


@numba.njit
def _equal(base, ends, i, at, n):
    if ends[i + 1] - ends[i] != n:
        return False
    start = base + ends[i]
    k = 0
    while k < n and load8(start + k) == load8(at + k):
        k += 1
    return k == n


class Learnt(NamedTuple):
    """The merges in their order."""

    pairs_M2: np.ndarray  # int64: two tokens; below 256 a byte, else 256 + its place in `tokens`
    languages_M: np.ndarray  # int64: for which language each was made
    tokens: list[bytes]  # the new tokens, in the order of their ids from 256 on


def learn(pieces: list[Pieces], norms: np.ndarray, n_tokens: int, alpha: float = ALPHA) -> Learnt:
    """At most `n_tokens` new tokens; fewer where no pair of any language stands twice. `norms` [L]: the size of what the
    measured texts of each language say; 0 for a language that is not measured, whose turn never comes."""
    sizes = [p.ends[1 : p.n + 1] - p.ends[: p.n] for p in pieces]
    starts = np.cumsum(np.concatenate([[0], *sizes]), dtype=np.int64)
    data = np.concatenate([p.data[: p.ends[p.n]] for p in pieces]).astype(np.int32)
    langs = np.repeat(np.arange(len(pieces), dtype=np.int32), [p.n for p in pieces])
    counts = np.concatenate([p.counts[: p.n] for p in pieces])
    pairs_M2, languages_M, text, ends = _learn(data, starts, langs, counts, norms.astype(np.float64), n_tokens, alpha)
    raw = text.tobytes()
    return Learnt(pairs_M2, languages_M, [raw[a:b] for a, b in pairwise(ends[256:])])


@numba.njit
def _slot(slots, keys, key):
    mask = np.uint64(len(slots) - 1)
    slot = (key * GOLDEN) >> np.uint64(24) & mask
    while slots[slot] >= 0 and keys[slots[slot]] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@numba.njit
def _grown(slots, keys, n):
    """The table with room for twice as many rows."""
    if 2 * n < len(slots):
        return slots
    larger = np.full(2 * len(slots), -1, np.int32)
    for row in range(n):
        larger[_slot(larger, keys, keys[row])] = row
    return larger


@numba.njit
def _key(lang, left, right):
    return (np.uint64(lang) << BITS | np.uint64(left)) << BITS | np.uint64(right)


@numba.njit
def _entry(count, row):
    """What a heap holds: the greatest count first, of equals the pair that was seen first."""
    return np.uint64(min(count, 0xFFFFFFFF)) << np.uint64(32) | np.uint64(0xFFFFFFFF - row)


@numba.njit
def _push(heap, start, size, value):
    i = size
    while i > 0 and heap[start + ((i - 1) >> 1)] < value:
        heap[start + i] = heap[start + ((i - 1) >> 1)]
        i = (i - 1) >> 1
    heap[start + i] = value


@numba.njit
def _pop(heap, start, size):
    """Take the top away; the heap has `size` entries before."""
    last, size, i = heap[start + size - 1], size - 1, 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and heap[start + child + 1] > heap[start + child]:
            child += 1
        if heap[start + child] <= last:
            break
        heap[start + i] = heap[start + child]
        i = child
    heap[start + i] = last


@numba.njit
def _best(heap, start, size, counts):
    """The most frequent pair of a heap, -1 when none stands twice, and the size of the heap."""
    while size > 0:
        top = heap[start]
        row = np.int64(0xFFFFFFFF) - np.int64(top & np.uint64(0xFFFFFFFF))
        if counts[row] >= 2 and _entry(counts[row], row) == top:
            return row, size
        _pop(heap, start, size)
        size -= 1
        if counts[row] >= 2:
            _push(heap, start, size, _entry(counts[row], row))
            size += 1
    return np.int64(-1), size


@numba.njit(cache=True)
def _learn(symbols, starts, langs, counts_W2, norms, n_tokens, alpha):  # noqa: PLR0917
    n_langs, n_words = len(norms), len(langs)
    n_events = 3 * len(symbols) + 1  # each merge takes a symbol away and makes at most two new pairs
    keys, counts, heads = np.empty(n_events, np.uint64), np.empty(n_events, np.int64), np.empty(n_events, np.int32)
    words, after = np.empty(n_events, np.int32), np.empty(n_events, np.int32)  # lists of the pieces that hold a pair
    stamps, touched = np.empty(n_events, np.int32), np.empty(len(symbols) * 2 + 1, np.int32)
    slots, rows, nodes = np.full(1 << 16, -1, np.int32), 0, 0
    heap, heap_starts = np.empty(n_events, np.uint64), np.zeros(n_langs + 1, np.int64)
    heap_sizes = np.zeros(n_langs, np.int64)
    sizes, measured = np.empty(n_words, np.int32), np.zeros(n_langs, np.int64)
    for w in range(n_words):
        lang, sizes[w] = langs[w], starts[w + 1] - starts[w]
        measured[lang] += counts_W2[w, MEASURED] * sizes[w]
        heap_starts[lang + 1] += 3 * sizes[w]
        for i in range(starts[w], starts[w + 1] - 1):
            slots = _grown(slots, keys, rows)
            key = _key(lang, symbols[i], symbols[i + 1])
            slot = _slot(slots, keys, key)
            if slots[slot] < 0:
                slots[slot], keys[rows], counts[rows], heads[rows], stamps[rows] = rows, key, 0, -1, -1
                rows += 1
            row = slots[slot]
            counts[row] += counts_W2[w, TRAINED]
            if heads[row] < 0 or words[heads[row]] != w:
                words[nodes], after[nodes], heads[row] = w, heads[row], nodes
                nodes += 1
    for lang in range(n_langs):
        heap_starts[lang + 1] += heap_starts[lang]
    for row in range(rows):
        if counts[row] >= 2:
            lang = np.int64(keys[row] >> (BITS + BITS))
            _push(heap, heap_starts[lang], heap_sizes[lang], _entry(counts[row], row))
            heap_sizes[lang] += 1
    # tokens: their bytes in a row, and a table by content, for two merges may make one string
    text, ends = np.empty(1 << 16, np.uint8), np.zeros(256 + n_tokens + 1, np.int64)
    text[:256], ends[:257] = np.arange(256), np.arange(257)
    bits = 12
    while (1 << bits) < 4 * (n_tokens + 256):
        bits += 1
    names, known = np.full(1 << bits, -1, np.int32), 256
    pairs, languages, n = np.empty((2 * n_tokens + 1, 2), np.int64), np.empty(2 * n_tokens + 1, np.int64), 0
    recent, turns = np.full(WINDOW, -1, np.int64), np.zeros(n_langs, np.int64)
    while known < 256 + n_tokens and n < 2 * n_tokens:
        chosen, row = -1, np.int64(-1)
        for bounded in (True, False):
            while True:
                chosen, worst = -1, -1.0
                most = alpha * WINDOW / max(1, (norms > 0).sum())
                for lang in range(n_langs):
                    cost = measured[lang] / norms[lang] if norms[lang] > 0 else -1.0
                    if cost > worst and not (bounded and turns[lang] >= most):
                        chosen, worst = lang, cost
                if chosen < 0:
                    break
                row, heap_sizes[chosen] = _best(heap, heap_starts[chosen], heap_sizes[chosen], counts)
                if row >= 0:
                    break
                norms[chosen] = 0  # nothing is left to merge for it
            if chosen >= 0:
                break
        if chosen < 0:
            break
        if recent[n % WINDOW] >= 0:
            turns[recent[n % WINDOW]] -= 1
        recent[n % WINDOW] = chosen
        turns[chosen] += 1
        low = (np.uint64(1) << BITS) - np.uint64(1)
        left, right = np.int64(keys[row] >> BITS & low), np.int64(keys[row] & low)
        # the token
        size = ends[left + 1] - ends[left] + ends[right + 1] - ends[right]
        if ends[known] + size + PADDING > len(text):
            larger = np.empty(2 * len(text) + size + PADDING, np.uint8)
            larger[: len(text)] = text
            text = larger
        at = ends[known]
        for part in (left, right):
            for i in range(ends[part], ends[part + 1]):
                text[at] = text[i]
                at += 1
        base = np.int64(text.ctypes.data)
        slot = _hash(base + ends[known], size) & (len(names) - 1)
        while names[slot] >= 0 and not _equal(base, ends, names[slot], base + ends[known], size):
            slot = (slot + 1) & (len(names) - 1)
        if names[slot] < 0:
            names[slot], ends[known + 1] = known, at
            known += 1
        made = np.int64(names[slot])
        pairs[n, 0], pairs[n, 1], languages[n] = left, right, chosen
        # the merge, in all languages
        n_touched = 0
        for lang in range(n_langs):
            row = np.int64(slots[_slot(slots, keys, _key(lang, left, right))])
            if row < 0:
                continue
            node, heads[row] = heads[row], -1
            while node >= 0:
                w = words[node]
                node = after[node]
                start, stop, count = starts[w], starts[w] + sizes[w], counts_W2[w, TRAINED]
                write = start
                i = start
                while i < stop:
                    if i + 1 == stop or symbols[i] != left or symbols[i + 1] != right:
                        symbols[write] = symbols[i]
                        write += 1
                        i += 1
                        continue
                    counts[row] -= count
                    for side in range(2):
                        if side == 0:
                            if write == start:
                                continue
                            old = _key(lang, symbols[write - 1], left)
                            new = _key(lang, symbols[write - 1], made)
                        else:
                            if i + 2 >= stop:
                                continue
                            old, new = _key(lang, right, symbols[i + 2]), _key(lang, made, symbols[i + 2])
                        counts[slots[_slot(slots, keys, old)]] -= count
                        slot = np.int64(_slot(slots, keys, new))
                        if slots[slot] < 0:
                            slots[slot], keys[rows], counts[rows], heads[rows], stamps[rows] = rows, new, 0, -1, -1
                            rows += 1
                        near = np.int64(slots[slot])
                        counts[near] += count
                        if heads[near] < 0 or words[heads[near]] != w:
                            words[nodes], after[nodes], heads[near] = w, heads[near], nodes
                            nodes += 1
                        if stamps[near] != n:
                            stamps[near] = n
                            touched[n_touched] = near
                            n_touched += 1
                        slots = _grown(slots, keys, rows)
                    symbols[write] = made
                    write += 1
                    i += 2
                measured[lang] -= counts_W2[w, MEASURED] * (stop - write)
                sizes[w] = write - start
        for k in range(n_touched):
            row = np.int64(touched[k])
            if counts[row] >= 2:
                lang = np.int64(keys[row] >> (BITS + BITS))
                _push(heap, heap_starts[lang], heap_sizes[lang], _entry(counts[row], row))
                heap_sizes[lang] += 1
        n += 1
    return pairs[:n], languages[:n], text[: ends[known]].copy(), ends[: known + 1].copy()
