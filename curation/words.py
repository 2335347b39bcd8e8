"""Words of a text as the filters count them, by script and without a dictionary (meaning: `curation.signal_schema`).

A run of code points between whitespace is trimmed of special characters at its ends and lower-cased: "Rp1.500," has no letter
at its start but ends "Rp"; "e-mail!" is "e-mail". Every letter of a script without spaces is a word together with the marks
that follow it, wherever it stands: "ภาษา" is four words. Zero-width characters are as if they were not there.
"""

from __future__ import annotations

import numba
import numpy as np

from curation.characters import BITS, IGNORED, MARK, SPACE, SPECIAL, UNSPACED
from curation.units import LOWER, decode, mix

BASE = np.uint64(0x9E3779B97F4A7C15)
START = np.uint64(0x2545F4914F6CDD1D)


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
            second = data[start + 1] if start + 1 < end else 0
            third = data[start + 2] if start + 2 < end else 0
            fourth = data[start + 3] if start + 3 < end else 0
            code, step = decode(lead, second, third, fourth)
            codes[n] = code
            start += step
        n += 1
    return n


@numba.njit(cache=True)
def read_words(codes, n, bits, lower, hashes, lengths):  # noqa: PLR0917
    """Write hash (uint64) and length in characters of each word of `codes[:n]`; returns how many words there are."""
    count = 0
    length, kept_length = 0, 0  # of the word with and without the special characters at its end
    h, kept = START, START
    unspaced = False
    for i in range(n):
        code = codes[i]
        kind = bits[code]
        if kind & IGNORED:
            continue
        starts = kind & UNSPACED or (unspaced and not kind & MARK)
        if kind & SPACE or (length and starts):
            if length:
                hashes[count], lengths[count] = mix(kept), kept_length
                count += 1
            h, length, unspaced = START, 0, False
        if kind & SPECIAL:
            if length:
                h = (h ^ np.uint64(code)) * BASE
                length += 1
        else:
            unspaced = unspaced or kind & UNSPACED != 0
            h = (h ^ np.uint64(lower[code])) * BASE
            length += 1
            kept, kept_length = h, length
    if length:
        hashes[count], lengths[count] = mix(kept), kept_length
        count += 1
    return count


def word_hashes(text: str) -> np.ndarray:
    """Hashes of the words of one short text, uint64 [W]."""
    data = np.frombuffer(text.encode(), np.uint8)
    codes = np.empty(len(data), np.uint32)
    hashes, lengths = np.empty(len(data), np.uint64), np.empty(len(data), np.int32)
    n = decode_text(data, 0, len(data), codes)
    return hashes[: read_words(codes, n, BITS, LOWER, hashes, lengths)].copy()
