"""Character n-grams and words, and a linear model over them: what language identification reads of a text.

A text is words: runs of letters and their marks, lower-cased, accents of Latin letters folded where only the accent is
added (`kowé` is `kowe`; Vietnamese keeps its own letters). Digits, punctuation and what holds them apart separate.
Features of a word are its n-grams of 1 to 5 characters, a boundary counting as a character. Each is a hash of `bits`
bits, a row of the weights (the hashing trick; Weinberger et al. 2009, and fastText's subwords). The whole word, where
scripts write spaces between words, is a row of a table of its own that no other word shares (open addressing; the upper 32
bits of the hash say whose the row is): n-grams say what a language's words look like, and close languages look the same.

A passage is one or more lines with at least `PASSAGE_LETTERS` letters: the unit of the vote of mixed pages. Its score
for class c is the sum of weights[row, c] over its n-grams and of words[row, c] over its words, in integers, so that it does
not depend on their order.
"""

from __future__ import annotations

import unicodedata

import numba
import numpy as np

from curation.text.units import CLASSES, IGNORED, LETTER, LOWER, MARK, WORD, decode

LONGEST_NGRAM = 5
MAX_WORD = 30  # characters of a run that are read as one word; what follows is the next (scripts without spaces)
PASSAGE_LETTERS = 60
SEPARATOR, SKIPPED, BOUNDARY = 0, 1, 2
"""What `FOLD` says of a code point that is no letter, or as if not there; and the character at the ends of a word."""

THAI, LATIN_ADDITIONAL, HAN = 0x0E00, 0x1E00, 0x2E80
"""First code points of scripts; those from Thai on have no spaces or none of our languages, but for the Latin of Vietnamese."""

ACCENTS = "\u0300\u0301\u0302\u0303\u0304\u0308"
NEWLINE = 10
PRIME = np.uint64(0x9E3779B97F4A7C15)
SEED = np.uint64(0x14650FB0739D0383)
MIX = np.uint64(0xBF58476D1CE4E5B9)
OWNED = np.uint64(1 << 32)  # makes the upper half of a hash not 0, which is nobody


def _fold() -> np.ndarray:
    fold = np.zeros(len(CLASSES), np.uint32)
    for code in np.flatnonzero(np.isin(CLASSES, (WORD, LETTER, MARK))).tolist():
        if 0xAC00 <= code <= 0xD7A3 or unicodedata.category(chr(code))[0] in "LM":
            fold[code] = LOWER[code]
    fold[CLASSES == IGNORED] = SKIPPED
    for code in range(0xC0, 0x180):
        parts = unicodedata.normalize("NFD", chr(code))
        if len(parts) == 2 and parts[0].isascii() and parts[1] in ACCENTS:
            fold[code] = ord(parts[0].lower())
    for accent in ACCENTS:
        fold[ord(accent)] = SKIPPED
    return fold


FOLD = _fold()
"""uint32 `[0x40000]`: the folded letter of a code point, `SEPARATOR` or `SKIPPED`."""


@numba.njit(inline="always")
def _spread(h):
    h ^= h >> np.uint64(29)
    h *= MIX
    return h ^ (h >> np.uint64(32))


@numba.njit
def word_ngrams(word, length, mask, out, n):
    """Append the n-grams of `word[1:length+1]`, which has `BOUNDARY` at 0 and length+1, to `out` at `n`: the new n."""
    for first in range(length + 2):
        h = SEED
        for last in range(first, min(first + LONGEST_NGRAM, length + 2)):
            h = (h ^ np.uint64(word[last])) * PRIME
            if last > first or word[first] != BOUNDARY:
                out[n] = _spread(h) & mask
                n += 1
    return n


@numba.njit
def word_hash(word, length):
    """64 bits of `word[1:length+1]`, never 0; 0 for a run of a script without spaces, which is no word."""
    if THAI <= word[1] < LATIN_ADDITIONAL or word[1] >= HAN:
        return np.uint64(0)
    h = SEED
    for i in range(1, length + 1):
        h = (h ^ np.uint64(word[i])) * PRIME
    return _spread(h) | OWNED


@numba.njit
def slot(h, owners):
    """Where the word of this hash is, or where it would be put: the next row from its own on that is its own or nobody's."""
    mask, owner = len(owners) - 1, np.uint32(h >> np.uint64(32))
    row = np.int64(h & np.uint64(mask))
    while owners[row] and owners[row] != owner:
        row = (row + 1) & mask
    return row


@numba.njit(cache=True)
def claim(hashes, bits):
    """Rows of words given by hashes uint64 [W], W < 2^bits: (owners uint32 [2^bits], rows int64 [W])."""
    owners = np.zeros(1 << bits, np.uint32)
    rows = np.empty(len(hashes), np.int64)
    for i in range(len(hashes)):
        rows[i] = slot(hashes[i], owners)
        owners[rows[i]] = hashes[i] >> np.uint64(32)
    return owners, rows


MOST_NGRAMS = (MAX_WORD + 2) * LONGEST_NGRAM


@numba.njit
def _next_word(data, i, end, fold, word):
    """Read the next word of `data[i:end]` to `word[1:length+1]`: (the place behind it, its length, 0 where there is none)."""
    length = 0
    while i < end:
        code, size = decode(data, i, end)
        letter = fold[code]
        i += size
        if letter > SKIPPED:
            length += 1
            word[length] = letter
        if length and (letter == SEPARATOR or length == MAX_WORD):
            break
    return i, length


@numba.njit(cache=True)
def _read(data, offsets, fold, mask, pointers, ids):  # noqa: PLR0917
    """Fill `pointers`, and `ids` unless it is empty, with the n-grams of each text."""
    word = np.empty(MAX_WORD + 2, np.uint32)
    word[0] = BOUNDARY
    ngrams = np.empty(MOST_NGRAMS, np.uint32)
    n = 0
    for d in range(len(offsets) - 1):
        i, length = _next_word(data, offsets[d], offsets[d + 1], fold, word)
        while length:
            word[length + 1] = BOUNDARY
            count = word_ngrams(word, length, mask, ngrams, 0)
            if len(ids):
                ids[n : n + count] = ngrams[:count]
            n += count
            i, length = _next_word(data, i, offsets[d + 1], fold, word)
        pointers[d + 1] = n


def text_ngrams(data: np.ndarray, offsets: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """N-grams of texts given as UTF-8 bytes and offsets [N+1]: (pointers int64 [N+1], ids uint32 [F])."""
    pointers = np.zeros(len(offsets), np.int64)
    mask = np.uint64((1 << bits) - 1)
    _read(data, offsets, FOLD, mask, pointers, np.empty(0, np.uint32))
    ids = np.empty(max(1, pointers[-1]), np.uint32)
    _read(data, offsets, FOLD, mask, pointers, ids)
    return pointers, ids[: pointers[-1]]


@numba.njit(cache=True)
def _read_words(data, offsets, fold, texts, hashes):
    """Fill `texts` and `hashes` unless they are empty: how many words there are."""
    word = np.empty(MAX_WORD + 2, np.uint32)
    n = 0
    for d in range(len(offsets) - 1):
        i, length = _next_word(data, offsets[d], offsets[d + 1], fold, word)
        while length:
            h = word_hash(word, length)
            if h and len(hashes):
                texts[n], hashes[n] = d, h
            n += h != 0
            i, length = _next_word(data, i, offsets[d + 1], fold, word)
    return n


def text_words(data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Words of texts given as UTF-8 bytes and offsets [N+1]: (number of the text int64 [W], hash uint64 [W])."""
    n = _read_words(data, offsets, FOLD, np.empty(0, np.int64), np.empty(0, np.uint64))
    texts, hashes = np.empty(n, np.int64), np.empty(n, np.uint64)
    if n:
        _read_words(data, offsets, FOLD, texts, hashes)
    return texts, hashes


@numba.njit(cache=True)
def passage_scores(data, offsets, fold, max_chars, weights, owners, words, sums, features, letters, owner):  # noqa: PLR0917
    """Score the passages of the first `max_chars` characters of each text: how many passages there are in all.

    weights: int16 [2^bits, C], owners: uint32 [2^b], words: int16 [2^b, C]. Filled for passage p: sums int32 [P, C],
    features int32 [P] (the number of n-grams), letters int32 [P], owner int32 [P] (the text). A text whose letters do not
    fill a passage has one; one without letters none.
    """
    mask = np.uint64(len(weights) - 1)
    width = weights.shape[1]
    word = np.empty(MAX_WORD + 2, np.uint32)
    word[0] = BOUNDARY
    rows = np.empty(MOST_NGRAMS, np.uint32)
    total = np.zeros(width, np.int32)
    p = 0
    for d in range(len(offsets) - 1):
        i, end, length, chars = offsets[d], offsets[d + 1], 0, 0
        first = p
        n = seen = 0
        total[:] = 0
        while i <= end:
            letter = np.uint32(SEPARATOR)
            code = NEWLINE
            if i < end and chars < max_chars:
                code, size = decode(data, i, end)
                letter = fold[code]
                i += size
                chars += 1
            else:
                i = end + 1
            if letter > SKIPPED:
                length += 1
                word[length] = letter
                seen += 1
            if length and (letter == SEPARATOR or length == MAX_WORD):
                word[length + 1] = BOUNDARY
                count = word_ngrams(word, length, mask, rows, 0)
                for k in range(count):
                    row = weights[rows[k]]
                    for c in range(width):
                        total[c] += row[c]
                h = word_hash(word, length)
                if h:
                    row = words[slot(h, owners)]  # zeros where nobody owns it
                    for c in range(width):
                        total[c] += row[c]
                n += count
                length = 0
            last = i > end
            if n and code == NEWLINE and (seen >= PASSAGE_LETTERS or last):
                if last and seen < PASSAGE_LETTERS and p > first:  # a short rest belongs to the passage before
                    p -= 1
                    n += features[p]
                    seen += letters[p]
                    for c in range(width):
                        total[c] += sums[p, c]
                sums[p] = total
                features[p], letters[p], owner[p] = n, seen, d
                p += 1
                n = seen = 0
                total[:] = 0
    return p
