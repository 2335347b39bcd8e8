"""Units: what counts as "one word" in text of any script, read straight from Arrow buffers by numba kernels.

A unit is a maximal run of letters, digits and their marks, lower-cased (`\\w` runs, the recipe's tokens), except in
scripts written without spaces between words (Han, kana, Thai, Lao, Khmer, Burmese, Tibetan, ...): there a letter with
the combining marks that follow it is a unit: five are 5 to 8 code points, enough to be rare and few enough to outlive an edit.
Marks never separate (`\\W` cuts Indic and Burmese words at vowel signs), and zero-width characters are as if not there.
"""

from __future__ import annotations

import unicodedata

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

OTHER, SPACE, WORD, LETTER, MARK, IGNORED = range(6)
"""Classes of code points: punctuation and symbols, whitespace, part of a spaced word, a unit alone, mark, no width."""

HAN = 6
"""Kind of a unit that is a Han character (its class is LETTER), as it says more than a letter of an alphabet."""

UNSPACED = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Burmese, with Shan, Mon, Karen
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A00, 0x1AAF),  # Lontara, Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x3005, 0x3007),  # iteration marks and zero of Han
    (0x3021, 0x30FF),  # Hangzhou numerals, hiragana, katakana
    (0x3100, 0x312F),  # bopomofo
    (0x31A0, 0x31FF),  # bopomofo and katakana extensions
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xA000, 0xA4CF),  # Yi
    (0xA980, 0xA9FF),  # Javanese, Burmese extended
    (0xAA60, 0xAADF),  # Burmese extended, Tai Viet
    (0xF900, 0xFAFF),  # Han compatibility
    (0xFF66, 0xFF9F),  # half-width katakana
    (0x1B000, 0x1B16F),  # kana supplement
    (0x20000, 0x3FFFF),  # Han extensions
)
"""Scripts without spaces between words, as ranges of code points (Unicode blocks)."""

SIZE = 0x40000  # planes 0 to 3; what lies above is private, tags and variation selectors


def _tables() -> tuple[np.ndarray, np.ndarray]:
    unspaced = np.zeros(SIZE, bool)
    for first, last in UNSPACED:
        unspaced[first : last + 1] = True
    classes = np.zeros(SIZE, np.uint8)
    lower = np.arange(SIZE, dtype=np.uint32)
    for code in range(SIZE):
        if 0xAC00 <= code <= 0xD7A3:  # Hangul syllables
            classes[code] = WORD
            continue
        character = chr(code)
        category = unicodedata.category(character)
        if category[0] == "L" or category in ("Nl", "No", "Nd"):
            classes[code] = LETTER if unspaced[code] and category != "Nd" else WORD
            small = character.lower()
            if len(small) == 1:
                lower[code] = ord(small)
        elif category[0] == "M":
            classes[code] = MARK
        elif character.isspace():
            classes[code] = SPACE
        elif category == "Cf":
            classes[code] = IGNORED
    return classes, lower


CLASSES, LOWER = _tables()
"""Class and simple lower case of each code point below `SIZE`."""
ASCII_WORD = np.where(CLASSES[:128] == WORD, LOWER[:128], 0).astype(np.uint8)
"""The lower case of ASCII letters and digits, 0 for the other bytes below 128."""

CHUNK = 4096  # units read at a time
SEED = np.uint64(0x2545F4914F6CDD1D)
PRIME = np.uint64(0x9E3779B97F4A7C15)


def text_buffers(text: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """UTF-8 bytes and int64 offsets [N+1] of a string array without a copy of the text; a null is an empty text."""
    if isinstance(text, pa.ChunkedArray):
        text = text.combine_chunks()
    if text.null_count:
        text = pc.fill_null(text, "")
    if not pa.types.is_large_string(text.type):
        text = text.cast(pa.large_string())
    _, offsets, data = text.buffers()
    start = (
        np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
        if len(text)
        else np.zeros(1, np.int64)
    )
    content = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8)
    start.flags.writeable = content.flags.writeable = False  # one numba signature for every input
    return content, start


@numba.njit
def _decode(lead, second, third, fourth):
    """Code point and length of the UTF-8 sequence of these bytes (0 past the end); a broken one gives (0xFFFD, 1).

    Bytes, not the array, are handed over: numba counts references to an array at each call, which costs more than that.
    """
    if 0xE0 <= lead < 0xF0 and second & 0xC0 == 0x80 and third & 0xC0 == 0x80:
        return (lead & 0x0F) << 12 | (second & 0x3F) << 6 | (third & 0x3F), 3
    if 0xC2 <= lead < 0xE0 and second & 0xC0 == 0x80:
        return (lead & 0x1F) << 6 | (second & 0x3F), 2
    if 0xF0 <= lead < 0xF5 and second & 0xC0 == 0x80 and third & 0xC0 == 0x80 and fourth & 0xC0 == 0x80:
        code = (lead & 0x07) << 18 | (second & 0x3F) << 12 | (third & 0x3F) << 6 | (fourth & 0x3F)
        return (code, 4) if code < SIZE else (0xFFFD, 4)
    return (lead, 1) if lead < 0x80 else (0xFFFD, 1)


@numba.njit(inline="always")
def decode(data, i, end):
    """Code point and length of the UTF-8 sequence that begins at byte `i` of a text that goes to `end`."""
    second = data[i + 1] if i + 1 < end else 0
    third = data[i + 2] if i + 2 < end else 0
    fourth = data[i + 3] if i + 3 < end else 0
    return _decode(data[i], second, third, fourth)


@numba.njit
def mix(h):
    """A bijection of 64 bits in which every input bit changes half of the output bits (finaliser of MurmurHash3)."""
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(33))


@numba.njit(cache=True)
def read_units(data, i, end, classes, lower, ascii_word, hashes, kinds):  # noqa: PLR0917
    """Read units from byte `i` until `end` or until `hashes` is full: (how many, the index after the last).

    `hashes` (uint64) and `kinds` (uint8: WORD, LETTER or HAN) get one entry a unit; call again with the index for the rest.
    """
    n = 0
    while i < end and n < len(hashes):
        byte = data[i]
        if byte < 0x80:
            i += 1
            folded = np.uint64(ascii_word[byte])
            if folded == 0:
                continue
            kind = WORD
        else:
            code, size = decode(data, i, end)
            i += size
            kind = classes[code]
            if kind not in (WORD, LETTER):
                continue
            folded = np.uint64(lower[code])
        unit = (SEED ^ folded) * PRIME
        han = 0x3400 <= folded <= 0x9FFF or 0xF900 <= folded <= 0xFAFF or folded >= 0x20000
        while i < end:
            byte = data[i]
            if byte < 0x80:
                folded = np.uint64(ascii_word[byte])
                if folded == 0 or kind == LETTER:
                    break
                i += 1
                unit = (unit ^ folded) * PRIME
            else:
                code, size = decode(data, i, end)
                follows = classes[code]
                if follows == MARK or (follows == WORD and kind == WORD):
                    unit = (unit ^ np.uint64(lower[code])) * PRIME
                elif follows != IGNORED:
                    break
                i += size
        hashes[n] = mix(unit)
        kinds[n] = HAN if han and kind == LETTER else kind
        n += 1
    return n, i


@numba.njit(cache=True)
def _count(data, offsets, classes, lower, ascii_word):
    words = np.zeros(len(offsets) - 1, np.int64)
    letters = np.zeros(len(offsets) - 1, np.int64)
    hashes = np.empty(CHUNK, np.uint64)
    kinds = np.empty(CHUNK, np.uint8)
    for d in range(len(offsets) - 1):
        i, end = offsets[d], offsets[d + 1]
        while i < end:
            n, i = read_units(data, i, end, classes, lower, ascii_word, hashes, kinds)
            spaced = 0
            for kind in kinds[:n]:
                spaced += kind == WORD
            words[d] += spaced
            letters[d] += n - spaced
    return words, letters


def count_units(text: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Per text: the number of spaced words, and of letters in scripts without spaces. Two int64 arrays [N]."""
    data, offsets = text_buffers(text)
    return _count(data, offsets, CLASSES, LOWER, ASCII_WORD)
