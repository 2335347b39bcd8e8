"""Word lists (stop words, flagged words) as a trie over words, so that an entry of several words matches as a whole.

An entry matches whole words only (SailCraft's substring match condemns innocent words), or in scripts without
spaces, when asked, whole clusters, i.e. any stretch of letters. Of the entries that start at a word the longest counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np

from curation.text.form import one_form
from curation.text.units import mix
from curation.text.words import word_hashes

BASE = np.uint64(0x9E3779B97F4A7C15)


class PhraseTables(NamedTuple):
    """Tries of several lists in one table. Node -1 is no node."""

    keys: np.ndarray  # uint64 [slots], hash of (node, word); 0 = free
    nexts: np.ndarray  # int32 [slots], the node that the word leads to
    entry: np.ndarray  # int32 [nodes], number of the entry that ends here, or -1
    n_entries: int


def phrase_tables(lists: Sequence[Sequence[str] | None], segmented: Sequence[bool]) -> tuple[PhraseTables, np.ndarray]:
    """Tables of the lists and the root node of each, int32 [lists]; the root of None is -1.

    `segmented` says of each list whether its entries are cut into words by dictionary, or into clusters.
    Raises ValueError for an entry without a word.
    """
    edges: dict[tuple[int, int], int] = {}
    entry: list[int] = []
    roots = np.full(len(lists), -1, np.int32)
    n_entries = 0
    for i, phrases in enumerate(lists):
        if phrases is None:
            continue
        roots[i] = len(entry)
        entry.append(-1)
        for phrase in phrases:
            words = word_hashes(one_form(phrase), segmented[i]).tolist()
            if not words:
                raise ValueError(f"{phrase!r} in a word list has no letters")
            node = int(roots[i])
            for word in words:
                if (node, word) not in edges:
                    edges[node, word] = len(entry)
                    entry.append(-1)
                node = edges[node, word]
            if entry[node] < 0:
                entry[node] = n_entries
                n_entries += 1
    size = 1 << max(4, (2 * len(edges)).bit_length())
    keys, nexts = np.zeros(size, np.uint64), np.full(size, -1, np.int32)
    nodes = np.array([node for node, _ in edges], np.int64)
    words = np.array([word for _, word in edges], np.uint64)
    _fill(keys, nexts, nodes, words, np.array(list(edges.values()), np.int32))
    return PhraseTables(keys, nexts, np.array(entry or [-1], np.int32), n_entries), roots


@numba.njit(inline="always")
def _key(node, word):
    key = mix(word + np.uint64(node + 1) * BASE)
    return key if key else np.uint64(1)


@numba.njit(inline="always")
def _slot(keys, key):
    mask = np.uint64(len(keys) - 1)
    slot = key & mask
    while keys[slot] != 0 and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@numba.njit(cache=True)
def _fill(keys, nexts, nodes, words, targets):
    for i in range(len(nodes)):
        key = _key(nodes[i], words[i])
        slot = _slot(keys, key)
        keys[slot], nexts[slot] = key, targets[i]


@numba.njit(inline="always")
def follow(keys, nexts, node, word):
    """The node after `word` at `node`, or -1."""
    return nexts[_slot(keys, _key(node, word))]


@numba.njit(cache=True)
def count_phrases(ids, n_words, first, hash_of_id, keys, nexts, entry, seen, stamp, reach):  # noqa: PLR0917
    """(words inside matched entries or at most `reach` from one, distinct entries matched) among the words `ids[:n_words]`.

    `first[id]` is the node that a word leads to from the root, `hash_of_id` its hash; `seen` (int64 [entries]) remembers the
    entries already met under this `stamp`.
    """
    covered = distinct = 0
    done = 0  # words before this are counted
    i = 0
    while i < n_words:
        node = first[ids[i]]
        found, end = -1, i + 1
        j = i + 1
        while node >= 0:
            if entry[node] >= 0:
                found, end = entry[node], j
            if j >= n_words:
                break
            node = follow(keys, nexts, node, hash_of_id[ids[j]])
            j += 1
        if found >= 0:
            last = min(n_words, end + reach)
            covered += last - max(done, i - reach)
            done = last
            if seen[found] != stamp:
                seen[found] = stamp
                distinct += 1
        i = end
    return covered, distinct
