"""MinHash signatures and LSH band keys of texts, computed on Arrow buffers without building one string.

A document is its set of shingles: hashes of n consecutive units (`curation.text.units`). For each of P hash functions the
signature keeps the smallest value over the set, and P(minima equal) = Jaccard(A, B) (Broder 1997). A function is a linear
permutation of 32 bits, h -> a h + b mod 2^32 with a odd, of well-mixed shingle hashes: 2.4 times as fast as multiply-shift
of 64 bits, and the estimate's error is binomial as it should be (tests/equality). Each band of r rows is folded to one 64-bit
key, and documents with a key in common are candidates: P(candidate) = 1 - (1 - J^r)^b.
Recipe section 2.6: 5-grams, 256 functions, 25 bands x 10 rows: half of the pairs of J = 0.70 collide, 64 % of J = 0.725.
A document with fewer units than n has one shingle of all of them; one without units has none and never matches.

Five words are far more text than five letters of Thai, so a Jaccard similarity means less editing in Indonesian than in Thai.
With `ngram` 0 a shingle is as much text in every script: `LEVEL` units of the kind that most of the document is in. It spans
3 words: of a document in which a share e of the words was edited, about q = (1 - e)^3 of the shingles are left, and
J = q / (2 - q).

Cost: per shingle P multiply-add-min, 8 shingles at a time so that minima stay in vector registers; memory O(P).
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import pyarrow as pa

from curation.text.form import in_one_form
from curation.text.units import (
    ASCII_WORD,
    CHUNK,
    CLASSES,
    HAN,
    LETTER,
    LOWER,
    PRIME,
    WORD,
    mix,
    read_units,
    text_buffers,
)

BLOCK = 8
LEVEL = {WORD: 3, LETTER: 7, HAN: 4}
"""Units of a shingle that spans 3 words, by the kind of most of a text: a word is 3.7 letters or 1.6 Han characters."""
WORDS_OF_LEVEL = 3
# What a unit of each kind counts when the kind of a document is asked.
PART_OF_WORD = np.array([0, 0, 222, 60, 0, 0, 139])
MARGIN = 1.5  # a document of n words has e n edits in the mean: so many times as many in few documents
bits = np.uint32  # numba widens sums to 64 bits; cut back at once, they stay 32 bits wide in the vector registers
EMPTY = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True)
class MinHash:
    """`bands` x `rows` of the `num_perm` functions are used; raises ValueError when there are too few. `ngram` 0 is `LEVEL`."""

    num_perm: int = 256
    bands: int = 25
    rows: int = 10
    ngram: int = 5
    seed: int = 42

    def __post_init__(self):
        if min(self.num_perm, self.bands, self.rows, self.ngram + 1) < 1:
            raise ValueError("num_perm, bands and rows must be at least 1, ngram at least 0")
        if self.bands * self.rows > self.num_perm:
            raise ValueError(
                f"{self.bands} bands x {self.rows} rows need more than num_perm = {self.num_perm} functions"
            )

    def collision(self, jaccard: float) -> float:
        """Probability that a pair of this Jaccard similarity shares a band key."""
        return 1 - (1 - jaccard**self.rows) ** self.bands


def at_edit_share(share: float, num_perm: int = 256) -> tuple[float, int, int]:
    """(Jaccard threshold, bands, rows) with shingles of `LEVEL` that find copies with this share of their words edited.

    The threshold is what `MARGIN` times as many edits leave; a pair at it is a candidate with probability 0.9 or more.

    >>> at_edit_share(0.05)
    (0.6549, 42, 6)
    """
    left = (1 - MARGIN * share) ** WORDS_OF_LEVEL
    threshold = round(left / (2 - left), 4)
    rows = max(
        (r for r in range(1, num_perm + 1) if 1 - (1 - threshold**r) ** (num_perm // r) >= 0.9),
        default=1,
    )
    return threshold, num_perm // rows, rows


def functions(num_perm: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Odd multipliers and addends of the hash functions, uint32 [P] each. Functions of a smaller P are its prefix."""
    values = _draw(2 * num_perm, np.uint64(seed))
    values = (values >> np.uint64(32)).astype(np.uint32)
    return values[0::2] | np.uint32(1), values[1::2].copy()


def signatures(text: pa.Array | pa.ChunkedArray, num_perm: int = 256, seed: int = 42, ngram: int = 5) -> np.ndarray:
    """Minima of each text, uint32 [N, P]. A text without units has all bits set."""
    data, offsets = text_buffers(in_one_form(text))
    multiply, add = functions(num_perm, seed)
    ngrams = _ngrams(data, offsets, ngram)
    minima = np.full((len(offsets) - 1, num_perm), EMPTY, np.uint32)
    _signatures(data, offsets, CLASSES, LOWER, ASCII_WORD, multiply, add, ngrams, minima)
    return minima


def shingle_sets(text: pa.Array | pa.ChunkedArray, ngram: int = 5) -> list[np.ndarray]:
    """The shingles of each text as sorted distinct hashes, uint64; none for a text without units."""
    data, offsets = text_buffers(in_one_form(text))
    out = np.empty(int(offsets[-1] - offsets[0]), np.uint64)
    stops = _shingles(data, offsets, CLASSES, LOWER, ASCII_WORD, _ngrams(data, offsets, ngram), out)
    return [np.unique(one) for one in np.split(out[: stops[-1]] if len(stops) else out[:0], stops[:-1])][: len(stops)]


def _ngrams(data: np.ndarray, offsets: np.ndarray, ngram: int) -> np.ndarray:
    """Units of a shingle of each text, int64 [N]."""
    if ngram:
        return np.full(len(offsets) - 1, ngram)
    level = np.array([LEVEL[kind] for kind in (WORD, LETTER, HAN)])
    return level[_kind_of_most(data, offsets, CLASSES, LOWER, ASCII_WORD, PART_OF_WORD, np.array([WORD, LETTER, HAN]))]


def fold_bands(minima: np.ndarray, config: MinHash) -> tuple[np.ndarray, np.ndarray]:
    """Band keys of signatures: (keys uint64 [N, bands], valid bool [N]); texts without units have keys 0, not valid."""
    return _fold(minima, config.bands, config.rows)


def band_keys(text: pa.Array | pa.ChunkedArray, config: MinHash) -> tuple[np.ndarray, np.ndarray]:
    """Band keys of texts: (keys uint64 [N, bands], valid bool [N]). Texts that share a key in a band are candidates."""
    return fold_bands(signatures(text, config.num_perm, config.seed, config.ngram), config)


def jaccard_estimate(sig_a: np.ndarray, sig_b: np.ndarray) -> np.ndarray:
    """Estimated Jaccard similarity, float64 [...], of signatures [..., P] of the same functions.

    Signatures may be cut to their low bits (uint8 or uint16): the share of chance matches 2^-bits is then taken out
    (b-bit minwise hashing, Li and König 2010). Standard error about sqrt(J (1 - J) / P).
    """
    chance = 2.0 ** (-8 * sig_a.dtype.itemsize)
    equal = (sig_a == sig_b).mean(axis=-1)
    return np.maximum(0.0, (equal - chance) / (1 - chance))


@numba.njit(cache=True)
def _draw(n, seed):
    """SplitMix64 (Steele et al. 2014) from a state made of the seed."""
    values = np.empty(n, np.uint64)
    state = mix(seed + PRIME)
    for i in range(n):
        state += PRIME
        values[i] = mix(state)
    return values


@numba.njit(cache=True)
def _kind_of_most(data, offsets, classes, lower, ascii_word, part_of_word, kinds_asked):  # noqa: PLR0917
    """Which of `kinds_asked` most of each text is in; the first where there is no unit."""
    out = np.zeros(len(offsets) - 1, np.int64)
    units, kinds = np.empty(CHUNK, np.uint64), np.empty(CHUNK, np.uint8)
    for d in range(len(out)):
        sums = np.zeros(len(part_of_word), np.int64)
        i, end = offsets[d], offsets[d + 1]
        while i < end:
            n, i = read_units(data, i, end, classes, lower, ascii_word, units, kinds)
            for kind in kinds[:n]:
                sums[kind] += part_of_word[kind]
        out[d] = np.argmax(sums[kinds_asked])
    return out


@numba.njit(cache=True)
def _lower_minima(minima, multiply, add, shingles, n):
    """Lower `minima` by the first `n` shingles, a multiple of BLOCK."""
    for j in range(0, n, BLOCK):
        h0, h1, h2, h3 = shingles[j], shingles[j + 1], shingles[j + 2], shingles[j + 3]
        h4, h5, h6, h7 = shingles[j + 4], shingles[j + 5], shingles[j + 6], shingles[j + 7]
        for p in range(len(minima)):
            a, b = multiply[p], add[p]
            low = min(bits(h0 * a + b), bits(h1 * a + b), bits(h2 * a + b), bits(h3 * a + b))
            high = min(bits(h4 * a + b), bits(h5 * a + b), bits(h6 * a + b), bits(h7 * a + b))
            minima[p] = min(minima[p], low, high)


@numba.njit
def _power(n):
    power = np.uint64(1)
    for _ in range(n):
        power *= PRIME
    return power


@numba.njit(cache=True)
def _signatures(data, offsets, classes, lower, ascii_word, multiply, add, ngrams, minima):  # noqa: PLR0917
    units = np.empty(CHUNK, np.uint64)
    kinds = np.empty(CHUNK, np.uint8)
    shingles = np.empty(CHUNK + BLOCK, np.uint32)
    window = np.empty(max(1, ngrams.max()) if len(ngrams) else 1, np.uint64)  # hashes of the last n units, a ring
    for d in range(len(offsets) - 1):
        i, end, ngram = offsets[d], offsets[d + 1], ngrams[d]
        power = _power(ngram)
        window[:] = 0
        rolling = np.uint64(0)  # sum of hash(unit) PRIME^age over the window
        seen, slot = 0, 0
        while i < end:
            n, i = read_units(data, i, end, classes, lower, ascii_word, units, kinds)
            filled = 0
            for k in range(n):
                rolling = rolling * PRIME + units[k] - window[slot] * power
                window[slot] = units[k]
                slot = slot + 1 if slot + 1 < ngram else 0
                seen += 1
                if seen >= ngram:
                    shingles[filled] = mix(rolling) >> np.uint64(32)
                    filled += 1
            if i >= end and 0 < seen < ngram:
                shingles[0] = mix(rolling) >> np.uint64(32)
                filled = 1
            while filled % BLOCK:  # a shingle twice changes no minimum
                shingles[filled] = shingles[0]
                filled += 1
            _lower_minima(minima[d], multiply, add, shingles, filled)


@numba.njit(cache=True)
def _shingles(data, offsets, classes, lower, ascii_word, ngrams, out):  # noqa: PLR0917
    """Hashes of all shingles, of which `_signatures` takes the upper half; returns where each text's end."""
    units = np.empty(CHUNK, np.uint64)
    kinds = np.empty(CHUNK, np.uint8)
    window = np.empty(max(1, ngrams.max()) if len(ngrams) else 1, np.uint64)
    stops = np.zeros(len(offsets) - 1, np.int64)
    filled = 0
    for d in range(len(offsets) - 1):
        i, end, ngram = offsets[d], offsets[d + 1], ngrams[d]
        power = _power(ngram)
        window[:] = 0
        rolling = np.uint64(0)
        seen, slot = 0, 0
        while i < end:
            n, i = read_units(data, i, end, classes, lower, ascii_word, units, kinds)
            for k in range(n):
                rolling = rolling * PRIME + units[k] - window[slot] * power
                window[slot] = units[k]
                slot = slot + 1 if slot + 1 < ngram else 0
                seen += 1
                if seen >= ngram:
                    out[filled] = mix(rolling)
                    filled += 1
        if 0 < seen < ngram:
            out[filled] = mix(rolling)
            filled += 1
        stops[d] = filled
    return stops


@numba.njit(cache=True)
def _fold(minima, bands, rows):
    n = len(minima)
    keys = np.zeros((n, bands), np.uint64)
    valid = np.zeros(n, np.bool_)
    for d in range(n):
        for p in range(minima.shape[1]):
            if minima[d, p] != EMPTY:
                valid[d] = True
                break
        if valid[d]:
            for band in range(bands):
                key = np.uint64(band + 1) * PRIME
                for row in range(rows):
                    key = mix(key ^ np.uint64(minima[d, band * rows + row])) + PRIME
                keys[d, band] = key
    return keys, valid
