"""Ranges of characters cut out of texts: the copies that `curation.dedup.substring` finds.

They are cut at word boundaries: at most `TRIM` characters at each end stay, so that no word, and no letter with its marks, is
torn; the two sides get a space (or a newline) between them where the copy had one and they have none.
"""

from __future__ import annotations

import numba
import numpy as np
import pyarrow as pa

from curation.dedup.substring import code_at, spans
from curation.text.units import CLASSES, IGNORED, MARK, SPACE, WORD, text_buffers

TRIM = 30


def cut(
    text: pa.Array | pa.ChunkedArray, rows: np.ndarray, start: np.ndarray, stop: np.ndarray
) -> tuple[pa.Array, np.ndarray]:
    """Texts without the characters start to stop of each row; ranges in any order, which may overlap.

    Returns (string array [N], number of characters that went int64 [N]); a text without a range comes back byte for byte.
    """
    data, offsets = text_buffers(text)
    order = np.lexsort((stop, start, rows))
    rows, start, stop = _merged(rows[order], start[order].astype(np.int64), stop[order].astype(np.int64))
    start, stop = spans(data, offsets, rows, start, stop)
    out = np.empty(int(offsets[-1] - offsets[0]) + 1, np.uint8)
    out_offsets = np.zeros(len(offsets), np.int64)
    removed = np.zeros(len(offsets) - 1, np.int64)
    _cut(data, offsets, rows, start, stop, CLASSES, out, out_offsets, removed)
    buffers = [None, pa.py_buffer(out_offsets), pa.py_buffer(out[: out_offsets[-1]])]
    return pa.Array.from_buffers(pa.large_string(), len(removed), buffers), removed


def _merged(rows: np.ndarray, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted ranges, joined where they overlap or touch."""
    if not len(rows):
        return rows, start, stop
    n = _merge(rows, start, stop)
    return rows[:n], start[:n], stop[:n]


@numba.njit(cache=True)
def _merge(rows, start, stop):
    n = 0
    for r in range(1, len(rows)):
        if rows[r] == rows[n] and start[r] <= stop[n]:
            stop[n] = max(stop[n], stop[r])
        else:
            n += 1
            rows[n], start[n], stop[n] = rows[r], start[r], stop[r]
    return n + 1


@numba.njit(cache=True)
def _joined(before, here):
    """Whether a character of class `here` belongs to the word or letter of the one before it."""
    if here in (MARK, IGNORED):
        return True
    return here == WORD and before in (WORD, MARK, IGNORED)


@numba.njit(cache=True)
def _before(data, i, begin):
    """Byte where the character that ends before byte `i` begins."""
    j = i - 1
    while j > begin and i - j < 4 and data[j] & 0xC0 == 0x80:
        j -= 1
    return j


@numba.njit(cache=True)
def _class(data, i, end, classes):
    code, size = code_at(data, i, end)
    return classes[code - np.uint64(1)], size


@numba.njit(cache=True)
def _trimmed(data, begin, end, first, last, classes):  # noqa: PLR0917
    """The range of bytes first to last of a text begin to end, moved to word boundaries."""
    if first > begin:
        i = first
        kind, _ = _class(data, _before(data, i, begin), end, classes)
        for _ in range(TRIM + 1):
            if i >= last:
                return last, last
            here, size = _class(data, i, end, classes)
            if not _joined(kind, here):
                first = i
                break
            kind = here
            i += size
    if last < end:
        i = last
        here, _ = _class(data, i, end, classes)
        for _ in range(TRIM + 1):
            if i <= first:
                return first, first
            before = _before(data, i, begin)
            kind, _ = _class(data, before, end, classes)
            if not _joined(kind, here):
                last = i
                break
            here = kind
            i = before
    return first, last


@numba.njit(cache=True)
def _is_space(data, i, end, classes):
    return _class(data, i, end, classes)[0] == SPACE


@numba.njit(cache=True)
def _cut(data, offsets, rows, start, stop, classes, out, out_offsets, removed):  # noqa: PLR0917
    at, r = 0, 0
    for d in range(len(offsets) - 1):
        i, end = offsets[d], offsets[d + 1]
        origin = at
        while r < len(rows) and rows[r] == d:
            first, last = _trimmed(data, offsets[d], end, start[r], stop[r], classes)
            r += 1
            if first >= last:
                continue
            while i < first:
                out[at] = data[i]
                i += 1
                at += 1
            gap = 0
            while i < last:
                kind, size = _class(data, i, end, classes)
                if data[i] == 10:
                    gap = 10
                elif kind == SPACE and gap == 0:
                    gap = 32
                i += size
                removed[d] += 1
            i = last
            apart = at == origin or i == end or _is_space(data, i, end, classes)
            if gap and not apart and not _is_space(out, _before(out, at, origin), at, classes):
                out[at] = gap
                at += 1
        while i < end:
            out[at] = data[i]
            i += 1
            at += 1
        out_offsets[d + 1] = at
