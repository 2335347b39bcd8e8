"""Near-duplicate conversations by MinHash-LSH in one pass, the way datasketch is used for it.

Rows are taken in a given order; one that shares a band key with a row that stays is a copy of it and goes. Bands and rows
are those that make false positives and false negatives at the threshold fewest, P(false positive) and P(false negative)
integrated over the Jaccard similarity (as `datasketch.MinHashLSH` does; Sailor2 §5.1: 128 functions,
threshold 0.8, which gives 9 bands x 13 rows). Shingles and hash functions are `curation.dedup.minhash`'s; with these signatures
datasketch keeps the same rows (tests/equality/test_chat_duplicates_equality.py).

Cost: linear in the text; 72 bytes of keys a row; one sort of the keys of each band.
"""

from __future__ import annotations

import math
from functools import cache

import numba
import numpy as np
import pyarrow as pa

from curation.dedup.minhash import MinHash, band_keys

SHINGLE = 5  # units of a shingle: words, or characters where words are written without spaces


@cache
def bands(threshold: float, num_perm: int = 128) -> MinHash:
    """The bands and rows of fewest errors at `threshold`. Raises ValueError for one that is not within 0 and 1."""
    if not 0 < threshold < 1:
        raise ValueError(
            f"the similarity from which chats count as copies must lie between 0 and 1, not at {threshold}"
        )
    step = 0.001
    below = np.arange(step / 2, threshold, step)
    above = np.arange(threshold + step / 2, 1.0, step)
    best = (math.inf, 0, 0)  # error, bands, rows
    for b in range(1, num_perm + 1):
        for r in range(1, num_perm // b + 1):
            false_positive = (1 - (1 - below**r) ** b).sum() * step
            false_negative = ((1 - above**r) ** b).sum() * step
            error = false_positive + false_negative
            if error < best[0]:
                best = (error, b, r)
    return MinHash(num_perm, best[1], best[2], SHINGLE)


def keys(texts: pa.Array, config: MinHash) -> np.ndarray:
    """Band keys of texts, uint64 [N, bands]; 0 for a text without units, which is a copy of nothing."""
    return band_keys(texts, config)[0]


def copies(keys_NB: np.ndarray, order: np.ndarray) -> np.ndarray:
    """For each row the one that it is a copy of, or -1 where it stays: int64 [N]. `order`: rows from first to last.

    Of several rows that stay and share a key with it, the one that comes first in `order` is named.
    """
    n, n_bands = keys_NB.shape
    codes_NB = np.empty((n, n_bands), np.int32 if n < 2**31 else np.int64)
    for band in range(n_bands):
        distinct, codes = np.unique(keys_NB[:, band], return_inverse=True)
        codes_NB[:, band] = codes - (len(distinct) > 0 and distinct[0] == 0)  # the key 0 becomes -1
    return _first_owner(codes_NB, np.ascontiguousarray(order, np.int64))


@numba.njit(cache=True)
def _first_owner(codes_NB, order):
    n, n_bands = codes_NB.shape
    owner = np.full((n_bands, n), -1, np.int64)  # of each key: the place in `order` of the row that stays
    copy_of = np.full(n, -1, np.int64)
    for place in range(n):
        i = order[place]
        first = n
        for band in range(n_bands):
            code = codes_NB[i, band]
            if code >= 0 and owner[band, code] >= 0:
                first = min(first, owner[band, code])
        if first < n:
            copy_of[i] = order[first]
            continue
        for band in range(n_bands):
            code = codes_NB[i, band]
            if code >= 0:
                owner[band, code] = place
    return copy_of
