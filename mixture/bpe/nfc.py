"""Unicode normalisation form C of a batch of texts, in one pass over its bytes (UAX #15).

Nearly all text is in NFC already: the pass only looks for a character that decomposes, a mark out of canonical order, or a
pair that composes (the quick check of UAX #15, §9, with the "maybe" cases looked up). Only from the starter before such a
place to the next safe starter is text decomposed, ordered and composed. Burmese needs it often: asat before dot below is
typed as often as the canonical order.

Decompositions, orders and compositions are asked of the `tokenizers` library once a process: its Unicode version is older than
Python's, and its tokens are the ones to equal. Python's tables only say what to ask.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import NamedTuple

import numba
import numpy as np
from tokenizers import normalizers

from mixture.bpe.pretokenize import ASSIGNABLE
from mixture.bpe.utf8 import CODES, PADDING, load8, load64, symbol

ORDER, MAYBE, NO = 63, 64, 128  # of `Tables.info`: the mark's canonical order, composes with what precedes, decomposes
HIGH_BITS = 0x8080808080808080
S_BASE, L_BASE, V_BASE, T_BASE = 0xAC00, 0x1100, 0x1161, 0x11A7  # Hangul: Unicode Standard §3.12
L_COUNT, V_COUNT, T_COUNT = 19, 21, 28
MOST = 4  # code points that one decomposes into, and more than the three bytes that one byte of text can become


class Tables(NamedTuple):
    """What is needed to normalise. Arrays by code point, then the look-ups."""

    info: np.ndarray  # uint8 [CODES]
    start: np.ndarray  # int32 [CODES]: of its decomposition in `parts`, -1 without
    parts: np.ndarray  # int32: length and code points of each decomposition
    pairs: np.ndarray  # int64 [2^k, 2]: (first << 21 | second, composed); open addressing, -1 where empty


@functools.cache
def tables() -> Tables:
    info, start = np.zeros(CODES, np.uint8), np.full(CODES, -1, np.int32)
    every = [chr(code) for codes in ASSIGNABLE for code in codes if not S_BASE <= code < S_BASE + 11172]
    orders = _orders([c for c in every if unicodedata.combining(c)])
    for char, order in orders.items():
        info[ord(char)] = order
    candidates = [c for c in every if unicodedata.normalize("NFD", c) != c]
    parts: list[int] = []
    for char, parted, same in zip(candidates, _each("NFD", candidates), _each("NFC", candidates), strict=True):
        if parted != char:
            start[ord(char)] = len(parts)
            parts += [len(parted), *map(ord, parted)]
        info[ord(char)] |= NO * (same != char)
    two = [c for c in candidates if len(unicodedata.decomposition(c).split()) == 2]
    halves = ["".join(chr(int(code, 16)) for code in unicodedata.decomposition(c).split()) for c in two]
    composed = [(h, c) for h, c, n in zip(halves, two, _each("NFC", halves), strict=True) if n == c]
    pairs = np.full((4096, 2), -1, np.int64)
    for half, char in composed:
        first, second = map(ord, half)
        info[second] |= MAYBE
        key = first << 21 | second
        slot = _slot(key)
        while pairs[slot, 0] >= 0:
            slot = (slot + 1) % len(pairs)
        pairs[slot] = key, ord(char)
    info[V_BASE : V_BASE + V_COUNT] = info[T_BASE + 1 : T_BASE + T_COUNT] = MAYBE
    return Tables(info, start, np.array(parts, np.int32), pairs)


def _each(form: str, texts: list[str]) -> list[str]:
    return getattr(normalizers, form)().normalize_str("\n".join(texts)).split("\n")


def _orders(marks: list[str]) -> dict[str, int]:
    """Rank of each mark's combining class among all classes, 1 the lowest, for the marks that the library knows."""
    classes = sorted({unicodedata.combining(c) for c in marks})
    last = next(c for c in marks if unicodedata.combining(c) == classes[-1])
    lone = [c for c in marks if len(unicodedata.normalize("NFD", c)) == 1]
    swapped = _each("NFD", [last + c for c in lone])
    known = {c for c, text in zip(lone, swapped, strict=True) if text == c + last}
    known |= {c for c in marks if unicodedata.combining(c) == classes[-1] or c not in lone}
    return {c: 1 + classes.index(unicodedata.combining(c)) for c in marks if c in known}


def text(value: str) -> str:
    """One text in NFC."""
    return normalizers.NFC().normalize_str(value)


def normalise(data: np.ndarray, offsets: np.ndarray, form: Tables | None) -> tuple[np.ndarray, np.ndarray]:
    """Texts (uint8 bytes, int64 offsets [D+1]) in NFC, or as they are without `form`; `PADDING` bytes after the last one."""
    first, size = offsets[0], offsets[-1] - offsets[0]
    padded = np.zeros(size + PADDING, np.uint8)
    padded[:size] = data[first : first + size]
    return _normalise(padded, offsets - first, form) if form else (padded, offsets - first)


@numba.njit
def _slot(key):
    return (key * 0x9E3779B1 >> 17) & 4095


@numba.njit
def _compose(first, second, pairs):
    """The code point that two compose to, -1 for none."""
    if L_BASE <= first < L_BASE + L_COUNT and V_BASE <= second < V_BASE + V_COUNT:
        return S_BASE + ((first - L_BASE) * V_COUNT + second - V_BASE) * T_COUNT
    if S_BASE <= first < S_BASE + 11172 and (first - S_BASE) % T_COUNT == 0 and T_BASE < second < T_BASE + T_COUNT:
        return first + second - T_BASE
    key = first << 21 | second
    slot = _slot(key)
    while pairs[slot, 0] >= 0:
        if pairs[slot, 0] == key:
            return pairs[slot, 1]
        slot = (slot + 1) % len(pairs)
    return np.int64(-1)


@numba.njit(cache=True)
def _normalise(source, offsets, form):
    info, pairs = form.info.ctypes.data, form.pairs
    base = np.int64(source.ctypes.data)
    out, ends, changed = source, np.zeros(len(offsets), np.int64), False
    copied, written = 0, 0  # bytes of `source` that are done, and of `out`
    for d in range(len(offsets) - 1):
        at, end = base + offsets[d], base + offsets[d + 1]
        starter, safe, order = np.int64(-1), at, 0
        while at < end:
            if at + 8 <= end and load64(at) & np.uint64(HIGH_BITS) == 0:
                at += 8
                starter, safe, order = np.int64(load8(at - 1)), at - 1, 0
                continue
            code, length = symbol(at)
            about = np.int64(load8(np.int64(info) + code))
            if about == 0:
                starter, safe, order = code, at, 0
                at += length
                continue
            mark = about & ORDER
            wrong = about & NO != 0 or (mark != 0 and order > mark)
            if not wrong and about & MAYBE != 0 and starter >= 0:  # with the starter, or the letter that it is made of
                wrong = _compose(starter, code, pairs) >= 0 or form.start[starter] >= 0
            if not wrong:
                if mark == 0:
                    starter = code
                order = int(mark)
                at += length
                continue
            while at < end:  # to the next character that nothing before it can change
                code, length = symbol(at)
                if load8(np.int64(info) + code) == 0:
                    break
                at += length
            at = min(at, end)
            if not changed:
                out, changed = np.empty(len(source) * 3, np.uint8), True
            n = safe - base - copied
            out[written : written + n] = source[copied : copied + n]
            written = _rewrite(safe, at, form, out, written + n)
            copied = at - base
            order = 0
        ends[d + 1] = written + offsets[d + 1] - copied
    if not changed:
        return source, offsets
    n = len(source) - copied
    out[written : written + n] = source[copied:]
    return out, ends


@numba.njit
def _rewrite(at, end, form, out, written):
    """NFC of the text between two addresses into `out` from `written` on; the index after it."""
    codes = np.empty((end - at) * MOST, np.int64)
    n = 0
    while at < end:
        code, length = symbol(at)
        at += length
        index = code - S_BASE
        if 0 <= index < 11172:
            codes[n], codes[n + 1] = L_BASE + index // (V_COUNT * T_COUNT), V_BASE + index // T_COUNT % V_COUNT
            n += 2
            if index % T_COUNT:
                codes[n] = T_BASE + index % T_COUNT
                n += 1
        elif form.start[code] < 0:
            codes[n] = code
            n += 1
        else:
            start = form.start[code]
            for k in range(form.parts[start]):
                codes[n] = form.parts[start + 1 + k]
                n += 1
    orders = np.empty(n, np.uint8)
    for k in range(n):
        orders[k] = form.info[codes[k]] & ORDER
    start = 0
    while start < n:  # marks between two starters, in canonical order; equal ones keep theirs
        stop = start
        while stop < n and orders[stop] != 0:
            stop += 1
        if stop - start > 1:
            _sort(codes, orders, start, stop)
        start = stop + 1
    kept, starter, last = 0, -1, 0  # `last`: order of the mark kept last after the starter, 0 when none
    for k in range(n):
        composed = np.int64(-1)
        if starter >= 0 and (last < orders[k] or (last == 0 and kept == starter + 1)):
            composed = _compose(codes[starter], codes[k], form.pairs)
        if composed >= 0:
            codes[starter] = composed
            continue
        codes[kept] = codes[k]
        if orders[k] == 0:
            starter = kept
        last = orders[k]
        kept += 1
    for k in range(kept):
        written = _write(codes[k], out, written)
    return written


@numba.njit
def _sort(codes, orders, start, stop):
    """Marks by their order, equal ones as they were: by insertion, and a long run by counting."""
    if stop - start <= 32:
        for k in range(start + 1, stop):
            code, order, i = codes[k], orders[k], k
            while i > start and orders[i - 1] > order:
                codes[i], orders[i] = codes[i - 1], orders[i - 1]
                i -= 1
            codes[i], orders[i] = code, order
        return
    old_codes, old_orders, i = codes[start:stop].copy(), orders[start:stop].copy(), start
    for order in range(1, ORDER + 1):
        for k in range(len(old_codes)):
            if old_orders[k] == order:
                codes[i], orders[i] = old_codes[k], order
                i += 1


@numba.njit
def _write(code, out, at):
    if code < 0x80:
        out[at] = code
        return at + 1
    if code < 0x800:
        out[at] = 0xC0 | code >> 6
        out[at + 1] = 0x80 | code & 0x3F
        return at + 2
    if code < 0x10000:
        out[at] = 0xE0 | code >> 12
        out[at + 1] = 0x80 | code >> 6 & 0x3F
        out[at + 2] = 0x80 | code & 0x3F
        return at + 3
    out[at] = 0xF0 | code >> 18
    out[at + 1] = 0x80 | code >> 12 & 0x3F
    out[at + 2] = 0x80 | code >> 6 & 0x3F
    out[at + 3] = 0x80 | code & 0x3F
    return at + 4
