"""Words of text without spaces, as ICU's word break iterator finds them, by its dictionaries (`curation.text.icu_dictionary`).

Thai, Lao, Khmer, Burmese: maximal matching that looks three words ahead; what is in no dictionary is joined up to the next
likely start of a known word. Han and kana: the cheapest sequence of words, each at its cost in the dictionary, a character
that is none at the highest cost, katakana runs at a cost by length. Source: ICU 78, `dictbe.cpp` (`ThaiBreakEngine`,
`LaoBreakEngine`, `KhmerBreakEngine`, `BurmeseBreakEngine`, `CjkBreakEngine`); unlike it, a text is read as it is, not in NFKC.

Cost: every position is looked up in the trie at most once.
"""

from __future__ import annotations

import unicodedata

import numba
import numpy as np

from curation.text.units import SIZE

THAI, LAO, KHMER, BURMESE, HAN = range(1, 6)
CLASS, BEGIN, END, COMBINING, KATAKANA = 7, 8, 16, 32, 64
"""Bits: number of the dictionary; may begin and may end an unknown word; combining mark; katakana."""

_LETTERS = {  # code points that ICU hands to each dictionary; those without a category are left out
    THAI: ((0x0E01, 0x0E3A), (0x0E40, 0x0E4E)),
    LAO: ((0x0E81, 0x0EBD), (0x0EC0, 0x0ECE), (0x0EDC, 0x0EDF)),
    KHMER: ((0x1780, 0x17D3), (0x17D7, 0x17D7), (0x17DC, 0x17DD)),
    BURMESE: (
        (0x1000, 0x103F),
        (0x1050, 0x108F),
        (0x109A, 0x109F),
        (0xA9E0, 0xA9EF),
        (0xA9FA, 0xA9FE),
        (0xAA60, 0xAA7F),
    ),
    HAN: (
        *((0x3005, 0x3007), (0x3021, 0x3029), (0x3031, 0x3035), (0x3038, 0x303B), (0x3041, 0x3096), (0x309D, 0x309F)),
        *((0x30A1, 0x30FA), (0x30FC, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF)),
        *((0xFF66, 0xFF9F), (0x1B000, 0x1B16F), (0x20000, 0x3FFFF)),
    ),
}
_BEGIN = (
    (0x0E01, 0x0E2E),
    (0x0E40, 0x0E44),
    (0x0E81, 0x0EAE),
    (0x0EDC, 0x0EDD),
    (0x0EC0, 0x0EC4),
    (0x1780, 0x17B3),
    (0x1000, 0x102A),
)
_NO_END = ((0x0E31, 0x0E31), (0x0E40, 0x0E44), (0x0EC0, 0x0EC4), (0x17D2, 0x17D2))
_KATAKANA = ((0x30A1, 0x30FA), (0x30FC, 0x30FE), (0xFF66, 0xFF9F))


def _properties() -> np.ndarray:
    table = np.zeros(SIZE, np.uint8)
    for number, ranges in _LETTERS.items():
        for first, last in ranges:
            for code in range(first, last + 1):
                category = unicodedata.category(chr(code))
                if category != "Cn":
                    table[code] = number | END | (COMBINING if category[0] == "M" else 0)
    for ranges, bit in ((_BEGIN, BEGIN), (_KATAKANA, KATAKANA)):
        for first, last in ranges:
            table[first : last + 1] |= np.where(table[first : last + 1] > 0, bit, 0).astype(np.uint8)
    for first, last in _NO_END:
        table[first : last + 1] &= ~np.uint8(END)
    return table


PROPERTIES = _properties()
"""Of each code point below 0x40000; 0 for those of no dictionary."""

PAIYANNOI, MAIYAMOK = 0x0E2F, 0x0E46  # Thai: abbreviation and repetition of the word before
COMBINE_BELOW = (
    3  # an unknown stretch joins the word before when that is shorter, and shares no longer start with a word
)
THAI_LEAST_RUN = (
    4  # shorter Thai runs are one word, as in ICU for Java; ICU for C asks for one more, in all four scripts
)
SEEN, LONG_START = np.uint64(1 << 63), np.uint64(1 << 62)
LENGTHS = np.uint64((1 << 62) - 1)
UNKNOWN_COST, MAX_WORD, MAX_KATAKANA = 255, 20, 20
KATAKANA_COST = np.array([8192, 984, 408, 240, 204, 252, 300, 372, 480] + [8192] * 11, np.int64)
UNREACHED = np.uint64(0xFFFFFFFFFFFFFFFF)


@numba.njit(inline="always")
def _candidates(codes, at, end, units, symbol, memo):  # noqa: PLR0917
    """Bit L is set when a word of L characters starts at `at`. `memo[at]` keeps it, with SEEN and LONG_START."""
    known = memo[at]
    if known & SEEN:
        return known & LENGTHS
    node, unit = np.uint64(0), units[0]
    mask, length, i = np.uint64(0), np.uint64(0), at
    while i < end:
        child = (unit >> np.uint64(40)) + np.uint64(symbol[codes[i]])
        length += np.uint64(1)
        unit = units[child]
        if (unit >> np.uint64(16)) & np.uint64(0xFFFFFF) != node:
            break
        node = child
        if unit & np.uint64(0xFFFF):
            mask |= np.uint64(1) << length
            if unit >> np.uint64(40) == 0:
                break
        i += 1
    memo[at] = mask | SEEN | (LONG_START if length >= COMBINE_BELOW else np.uint64(0))
    return mask


@numba.njit(inline="always")
def _longest(mask):
    """Number of the highest bit of `mask`, which is not 0."""
    length = 0
    for step in (32, 16, 8, 4, 2, 1):
        if mask >> np.uint64(step):
            mask >>= np.uint64(step)
            length += step
    return length


@numba.njit(inline="always")
def _best_length(codes, at, end, units, symbol, memo, first):  # noqa: PLR0917
    """Of the words at `at` (bits of `first`), the length of the longest one that two more words follow.

    Without such one: of the shortest that one word follows, and else of the longest. A word that ends the run will do.
    """
    best = _longest(first)
    if at + best >= end:
        return best
    while first:
        length = _longest(first)
        second = _candidates(codes, at + length, end, units, symbol, memo)
        if second:
            best = length
            if at + length + _longest(second) >= end:
                return best
            while second:
                step = _longest(second)
                if _candidates(codes, at + length + step, end, units, symbol, memo):
                    return best
                second ^= np.uint64(1) << np.uint64(step)
        first ^= np.uint64(1) << np.uint64(length)
    return best


@numba.njit(cache=True)
def maximal_matching(codes, start, end, properties, units, symbol, memo, cuts):  # noqa: PLR0917
    """Write the end of each word of the Thai, Lao, Khmer or Burmese run `codes[start:end]` to `cuts`; returns how many.

    `memo` is scratch, uint64, indexed like `codes`.
    """
    if end - start < THAI_LEAST_RUN and properties[codes[start]] & CLASS == THAI:
        cuts[0] = end
        return 1
    memo[start:end] = 0
    n = 0
    at = start
    while at < end:
        length = 0
        mask = _candidates(codes, at, end, units, symbol, memo)
        if mask:
            length = _best_length(codes, at, end, units, symbol, memo, mask)
        after = at + length
        if after < end and length < COMBINE_BELOW:
            unknown = _candidates(codes, after, end, units, symbol, memo) == 0
            if unknown and (length == 0 or memo[after] & LONG_START == 0):
                after += 1
                while after < end:
                    likely = properties[codes[after - 1]] & END and properties[codes[after]] & BEGIN
                    if likely and _candidates(codes, after, end, units, symbol, memo):
                        break
                    after += 1
        while after < end and properties[codes[after]] & COMBINING:
            after += 1
        suffix = after < end and codes[after] in (PAIYANNOI, MAIYAMOK)
        if suffix and _candidates(codes, after, end, units, symbol, memo) == 0:
            if codes[after] == PAIYANNOI and codes[after - 1] not in (PAIYANNOI, MAIYAMOK):
                after += 1
            if after < end and codes[after] == MAIYAMOK and codes[after - 1] != MAIYAMOK:
                after += 1
        cuts[n] = after
        n += 1
        at = after
    return n


@numba.njit(cache=True)
def cheapest_words(codes, start, end, properties, units, symbol, memo, previous, cuts):  # noqa: PLR0917
    """Write the end of each word of the run `codes[start:end]` of Han and kana to `cuts`; returns how many.

    `memo` (uint64) and `previous` (int32) are scratch of one more than `end`.
    """
    memo[start] = 0
    memo[start + 1 : end + 1] = UNREACHED
    after_katakana = False
    for at in range(start, end):
        cost = memo[at]
        node, unit = np.uint64(0), units[0]
        i, alone = at, False
        while i < end and i < at + MAX_WORD:
            child = (unit >> np.uint64(40)) + np.uint64(symbol[codes[i]])
            unit = units[child]
            if (unit >> np.uint64(16)) & np.uint64(0xFFFFFF) != node:
                break
            node = child
            i += 1
            value = unit & np.uint64(0xFFFF)
            if value:
                alone = alone or i == at + 1
                total = cost + value - np.uint64(1)
                if total < memo[i]:
                    memo[i], previous[i] = total, at
                if unit >> np.uint64(40) == 0:
                    break
        if not alone and cost + np.uint64(UNKNOWN_COST) < memo[at + 1]:
            memo[at + 1], previous[at + 1] = cost + np.uint64(UNKNOWN_COST), at
        katakana = properties[codes[at]] & KATAKANA != 0
        if katakana and not after_katakana:
            j = at + 1
            while j < end and j - at < MAX_KATAKANA and properties[codes[j]] & KATAKANA:
                j += 1
            if j - at < MAX_KATAKANA:
                total = cost + np.uint64(KATAKANA_COST[j - at])
                if total < memo[j]:
                    memo[j], previous[j] = total, at
        after_katakana = katakana
    n = 0
    at = end
    while at > start:
        cuts[n] = at
        n += 1
        at = previous[at]
    for i in range(n // 2):
        cuts[i], cuts[n - 1 - i] = cuts[n - 1 - i], cuts[i]
    return n
