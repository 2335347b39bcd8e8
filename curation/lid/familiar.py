"""How much of what comes later in a text its beginning has shown, without a model: cheap evidence that the language stays.

A text in one language keeps its function words and endings, so that about half of the 4-grams of its letters come again; of
two languages, even close ones, that is seldom more than a third. Of scripts without spaces three letters are compared, and of
Han single characters.
"""

from __future__ import annotations

import numba
import numpy as np
import pyarrow as pa

from curation.lid.ngrams import FOLD, HAN, LATIN_ADDITIONAL, PRIME, SEPARATOR, SKIPPED, THAI
from curation.text.units import decode, text_buffers

BITS = 16  # of the hashes of what was seen
LETTER_BITS = np.uint64(16)
TO_HASH = np.uint64(64 - BITS)


def familiar(texts: pa.Array, head_chars: int, pieces: int, piece_bytes: int) -> np.ndarray:
    """Share of the 4-grams (trigrams, Han characters) at `pieces` places at equal distances behind the first `head_chars`
    characters of each text that stand in these too: float64 [N], 0 where there is nothing behind."""
    return _familiar(*text_buffers(texts), FOLD, head_chars, pieces, piece_bytes)


@numba.njit
def _next(h, letter):
    """The last letters, 16 bits each, after one more: what separates words is one letter too."""
    if letter >= HAN:
        return np.uint64(letter)
    if THAI <= letter < LATIN_ADDITIONAL:
        return ((h & np.uint64(0xFFFFFFFF)) << LETTER_BITS) | np.uint64(letter)
    return (h << LETTER_BITS) | np.uint64(letter & 0xFFFF)


@numba.njit(cache=True)
def _familiar(data, offsets, fold, head_chars, pieces, piece_bytes):  # noqa: PLR0917
    share = np.zeros(len(offsets) - 1)
    seen_in = np.full(1 << BITS, -1, np.int64)
    for d in range(len(share)):
        i, end, h, chars = offsets[d], offsets[d + 1], np.uint64(0), 0
        while i < end and chars < head_chars:
            code, size = decode(data, i, end)
            i += size
            chars += 1
            letter = fold[code]
            if letter > SKIPPED or (letter == SEPARATOR and h & np.uint64(0xFFFF)):
                h = _next(h, letter)
                seen_in[(h * PRIME) >> TO_HASH] = d
        step = (end - i) // pieces
        letters = seen = 0
        for k in range(pieces):
            at, h, n = i + k * step, np.uint64(0), 0
            stop = min(at + piece_bytes, end)
            while at < stop:
                code, size = decode(data, at, end)
                at += size
                letter = fold[code]
                if letter > SKIPPED or (letter == SEPARATOR and h & np.uint64(0xFFFF)):
                    h = _next(h, letter)
                    n += 1
                    if n > 3:
                        letters += 1
                        seen += seen_in[(h * PRIME) >> TO_HASH] == d
        share[d] = seen / letters if letters else 0.0
    return share
