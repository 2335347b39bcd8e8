"""Words of a text as the filters count them, by script (meaning: `curation.policy.signal_schema`).

A run of code points between whitespace is trimmed of special characters at its ends and lower-cased: "Rp1.500," has no letter
at its start but ends "Rp"; "e-mail!" is "e-mail". Zero-width characters are as if they were not there. A stretch of Thai, Lao,
Khmer, Burmese, Han or kana, wherever it stands, is cut into words by dictionary (`curation.text.segment`), a zero-width character
being an end there, as writers of Khmer mean it. In other scripts without spaces, and without dictionaries, every letter with the
marks that follow it, a *cluster*, is a word.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from curation.text.characters import BITS, IGNORED, MARK, SPACE, SPECIAL, UNSPACED
from curation.text.icu_dictionary import Trie, trie
from curation.text.segment import CLASS, HAN, PROPERTIES, cheapest_words, maximal_matching
from curation.text.units import LOWER, decode, mix

BASE = np.uint64(0x9E3779B97F4A7C15)
START = np.uint64(0x2545F4914F6CDD1D)


class Alphabet(NamedTuple):
    """The tables that say what a word is."""

    bits: np.ndarray  # of `curation.text.characters`
    lower: np.ndarray  # simple lower case
    properties: np.ndarray  # of `curation.text.segment`
    units: np.ndarray  # of `curation.text.icu_dictionary.Trie`; empty: clusters
    symbol: np.ndarray


def alphabet(segmented: bool = True) -> Alphabet:
    """Tables for words by dictionary or, when not `segmented` or without dictionaries, by cluster."""
    units, symbol = trie() if segmented else Trie(np.zeros(0, np.uint64), np.zeros(1, np.uint16))
    return Alphabet(BITS, LOWER, PROPERTIES, units, symbol)


@numba.njit(cache=True)
def decode_text(data, start, end, codes):
    """Write the code points of UTF-8 `data[start:end]` to `codes` (uint32, all below 0x40000); returns how many."""
    n = 0
    while start < end:
        lead = data[start]
        if lead < 0x80:
            codes[n] = lead
            start += 1
        else:
            code, step = decode(data, start, end)
            codes[n] = code
            start += step
        n += 1
    return n


@numba.njit(cache=True)
def read_words(codes, n, alphabet, memo, previous, cuts, hashes, lengths, spans=None):  # noqa: PLR0917
    """Write hash (uint64) and length in characters of each word of `codes[:n]`.

    Returns how many words there are, and whether a dictionary cut any of them. `memo` (uint64), `previous` and `cuts` (int32)
    are scratch of `n` + 1. `spans`, int32 [words, 2], gets the first index and the index after the last of each.
    """
    bits, lower = alphabet.bits, alphabet.lower
    dictionaries = len(alphabet.units) > 0
    count = 0
    length, kept_length = 0, 0  # of the word with and without the special characters at its end
    first, last = 0, 0
    h, kept = START, START
    unspaced = cut = False
    i = 0
    while i < n:
        code = codes[i]
        kind = bits[code]
        i += 1
        if kind & IGNORED:
            continue
        starts = kind & UNSPACED or (unspaced and not kind & MARK)
        if kind & SPACE or (length and starts):
            if length:
                hashes[count], lengths[count] = mix(kept), kept_length
                if spans is not None:
                    spans[count] = first, last
                count += 1
            h, length, unspaced = START, 0, False
        if kind & SPECIAL:
            if length:
                h = (h ^ np.uint64(code)) * BASE
                length += 1
            continue
        if dictionaries and kind & UNSPACED:
            script = alphabet.properties[code] & CLASS
            if script:
                cut = True
                start, end = i - 1, i
                while end < n and alphabet.properties[codes[end]] & CLASS == script:
                    end += 1
                if script == HAN:
                    n_cuts = cheapest_words(
                        codes, start, end, alphabet.properties, alphabet.units, alphabet.symbol, memo, previous, cuts
                    )
                else:
                    n_cuts = maximal_matching(
                        codes, start, end, alphabet.properties, alphabet.units, alphabet.symbol, memo, cuts
                    )
                for c in range(n_cuts):
                    if length:
                        hashes[count], lengths[count] = mix(h), length
                        if spans is not None:
                            spans[count] = first, last
                        count += 1
                    h = START
                    for j in range(start, cuts[c]):
                        h = (h ^ np.uint64(lower[codes[j]])) * BASE
                    length = cuts[c] - start
                    first, last = start, cuts[c]
                    start = last
                kept, kept_length, unspaced, i = h, length, True, end
                continue
        unspaced = unspaced or kind & UNSPACED != 0
        if not length:
            first = i - 1
        h = (h ^ np.uint64(lower[code])) * BASE
        length += 1
        kept, kept_length, last = h, length, i
    if length:
        hashes[count], lengths[count] = mix(kept), kept_length
        if spans is not None:
            spans[count] = first, last
        count += 1
    return count, cut


def word_hashes(text: str, segmented: bool = True) -> np.ndarray:
    """Hashes of the words of one short text, or of its clusters, uint64 [W]."""
    return _read(text, segmented)[0]


def split_words(text: str, segmented: bool = True) -> list[str]:
    """The words of one text as strings, lower-cased, without zero-width characters: for people, not for kernels."""
    _, codes, spans = _read(text, segmented)
    return ["".join(chr(LOWER[code]) for code in codes[a:b] if not BITS[code] & IGNORED) for a, b in spans.tolist()]


def _read(text: str, segmented: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = np.frombuffer(text.encode(), np.uint8)
    size = len(data) + 1
    codes, hashes, lengths = np.empty(size, np.uint32), np.empty(size, np.uint64), np.empty(size, np.int32)
    memo, previous, cuts = np.empty(size, np.uint64), np.empty(size, np.int32), np.empty(size, np.int32)
    spans = np.empty((size, 2), np.int32)
    n = decode_text(data, 0, len(data), codes)
    count, _ = read_words(codes, n, alphabet(segmented), memo, previous, cuts, hashes, lengths, spans)
    return hashes[:count].copy(), codes[:n], spans[:count]
