"""Exact repeats of at least L characters: one copy stays, the others are cut out of their documents.

What is cut, exactly. Documents are ordered by length (longest first, then smallest id), places in them by that order and
then by offset. A window is a place and the L characters that begin there. A window is a *repeat* when the same L
characters begin at an earlier place: in an earlier document, or in the same one at least L characters before. The
characters in any window that is a repeat are copies. Nothing in that depends on how the corpus is split; a dictionary of
all windows, filled in order, finds the same (tests/curation/dedup/test_substring.py does). Every character that goes stands
at an earlier place too, and following those places ends at one that stays: one copy of all text is kept.

How it is found without a suffix array of the corpus (Lee et al. 2022 need one). Winnowing (Schleimer
et al. 2003): of the hashes of the k-grams of a window the smallest is its anchor, so equal windows have equal anchors,
and the windows of a text share few of them: one for about (L - k) / 2 characters. A repeat can only be among windows
whose anchor occurs twice in the corpus. For those anchors alone, the text around them (at most 2 L - k characters)
travels to where all of the same anchor meet; windows are then looked up by a rolling hash in the order of documents and
compared byte by byte. So a wrong hash costs time, never text, and the cost is linear however often something repeats.

What is found is cut by `curation.dedup.cut`.
"""

from __future__ import annotations

import numba
import numpy as np
import pyarrow as pa

from curation.text.units import PRIME, decode, mix, text_buffers

SMALLEST_KGRAM = 8


def kgram(min_chars: int) -> int:
    """Characters of an anchor: long enough to be rare, short enough for few anchors."""
    return max(SMALLEST_KGRAM, 4 * min_chars // 10)


def anchors(text: pa.Array | pa.ChunkedArray, min_chars: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Anchors of texts in order: (row int64, first window int32, number of windows int32, hash uint64), [A] each.

    Windows of `min_chars` characters that begin at the characters first, first + 1, ... have that anchor. A text of
    fewer characters has none.
    """
    data, offsets = text_buffers(text)
    longest = int(np.diff(offsets).max(initial=0))
    scratch = np.empty(longest, np.uint32), np.empty(longest, np.uint64), np.empty(longest, np.int32)
    capacity = int(offsets[-1] - offsets[0]) // 8 + 1024
    while True:
        rows, hashes = np.empty(capacity, np.int64), np.empty(capacity, np.uint64)
        first, windows = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
        n = _anchors(data, offsets, min_chars, kgram(min_chars), *scratch, rows, first, windows, hashes)
        if n <= capacity:
            return rows[:n], first[:n], windows[:n], hashes[:n]
        capacity = n


def contexts(
    text: pa.Array | pa.ChunkedArray, min_chars: int, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, pa.Array]:
    """The text around the anchors in `wanted` (sorted uint64): (row, first window, windows, hash, text), [C] each.

    The text, large_binary, is that of all windows of the anchor: `windows - 1 + min_chars` characters.
    """
    rows, first, windows, hashes = anchors(text, min_chars)
    at = np.searchsorted(wanted, hashes)
    here = np.flatnonzero(wanted[np.minimum(at, len(wanted) - 1)] == hashes) if len(wanted) else np.zeros(0, np.int64)
    rows, first, windows, hashes = rows[here], first[here], windows[here], hashes[here]
    data, offsets = text_buffers(text)
    start, stop = spans(data, offsets, rows, first, first + windows - 1 + min_chars)
    out_offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(stop - start, out=out_offsets[1:])
    out = np.empty(out_offsets[-1], np.uint8)
    _gather(data, start, out, out_offsets)
    buffers = [None, pa.py_buffer(out_offsets), pa.py_buffer(out)]
    return rows, first, windows, hashes, pa.Array.from_buffers(pa.large_binary(), len(rows), buffers)


def repeats(  # noqa: PLR0917
    anchor: np.ndarray, document: np.ndarray, first: np.ndarray, windows: np.ndarray, text: pa.Array, min_chars: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Copies among contexts that are sorted by (anchor, order of documents, first window).

    `document` (int64) is equal for contexts of one document. Returns (context, start, stop, source), int64 [R] each:
    characters start to stop of the document of that context are a copy of what context `source` has. Ranges overlap.
    """
    data, offsets = text_buffers(text.cast(pa.large_binary()).view(pa.large_string()))
    capacity = max(1024, len(anchor))
    while True:
        at, start, stop, source = (np.empty(capacity, np.int64) for _ in range(4))
        n = _repeats(data, offsets, anchor, document, first, windows, min_chars, at, start, stop, source)
        if n <= capacity:
            return at[:n], start[:n], stop[:n], source[:n]
        capacity = n


def copies(text: pa.Array | pa.ChunkedArray, order: np.ndarray, min_chars: int) -> tuple[np.ndarray, ...]:
    """Copies in texts that fit in memory: (row, start, stop, row of the source), int64 each; ranges may overlap.

    `order` is the place of each text in the order of documents, int64 [N]."""
    found, count = np.unique(anchors(text, min_chars)[3], return_counts=True)
    row, first, windows, anchor, context = contexts(text, min_chars, found[count > 1])
    sort = np.lexsort((first, order[row], anchor))
    row, first = row[sort], first[sort]
    at, start, stop, source = repeats(anchor[sort], row, first, windows[sort], context.take(pa.array(sort)), min_chars)
    return row[at], start, stop, row[source]


@numba.njit(cache=True)
def _anchors(data, offsets, length, k, codes, hashes, queue, rows, firsts, counts, values):  # noqa: PLR0917
    """Fill rows, firsts, counts, values as far as they reach; returns how many anchors there are."""
    power = np.uint64(1)
    for _ in range(k):
        power *= PRIME
    width = length - k  # an anchor lies at most so far after the beginning of its window
    found = 0
    for d in range(len(offsets) - 1):
        i, end = offsets[d], offsets[d + 1]
        n = 0
        while i < end:
            byte = data[i]
            if byte < 0x80:
                codes[n] = byte
                i += 1
            else:
                code, size = decode(data, i, end)
                codes[n] = code
                i += size
            n += 1
        if n < length:
            continue
        rolling = np.uint64(0)
        for j in range(k - 1):
            rolling = rolling * PRIME + np.uint64(codes[j]) + np.uint64(1)
        head, tail = 0, 0  # queue[head:tail]: k-grams that may still be the smallest, hashes rising
        current, first = -1, 0
        for j in range(n - k + 1):  # the k-gram at j; the window that ends with it begins at j - width
            rolling = rolling * PRIME + np.uint64(codes[j + k - 1]) + np.uint64(1)
            if j:
                rolling -= (np.uint64(codes[j - 1]) + np.uint64(1)) * power
            value = mix(rolling)
            hashes[j] = value
            while tail > head and hashes[queue[tail - 1]] >= value:
                tail -= 1
            queue[tail] = j
            tail += 1
            window = j - width
            if window < 0:
                continue
            while queue[head] < window:
                head += 1
            best = queue[head]
            # among equal hashes the one that is already taken stays, else a run of one letter would take them all
            if current < window or hashes[best] < hashes[current]:
                if current >= 0:
                    if found < len(rows):
                        rows[found], firsts[found] = d, first
                        counts[found], values[found] = window - first, hashes[current]
                    found += 1
                current, first = best, window
        if found < len(rows):
            rows[found], firsts[found] = d, first
            counts[found], values[found] = n - length + 1 - first, hashes[current]
        found += 1
    return found


@numba.njit(cache=True)
def _size(data, i, end):
    """Bytes of the character at byte `i`."""
    byte = data[i]
    if byte < 0x80:
        return 1
    return decode(data, i, end)[1]


@numba.njit(cache=True)
def spans(data, offsets, rows, start, stop):
    """Bytes where characters start and stop of the rows lie; both rise within a row."""
    first, last = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    row = -1
    i = at = j = after = end = 0
    for r in range(len(rows)):
        if rows[r] != row:
            row = rows[r]
            i = j = offsets[row]
            at = after = 0
            end = offsets[row + 1]
        while at < start[r] and i < end:
            i += _size(data, i, end)
            at += 1
        if j < i:
            j, after = i, at
        while after < stop[r] and j < end:
            j += _size(data, j, end)
            after += 1
        first[r], last[r] = i, j
    return first, last


@numba.njit(cache=True)
def _gather(data, start, out, out_offsets):
    for r in range(len(start)):
        shift = start[r] - out_offsets[r]
        for i in range(out_offsets[r], out_offsets[r + 1]):
            out[i] = data[i + shift]


@numba.njit(cache=True)
def code_at(data, i, end):
    """Code point, and one more, of the character at byte `i`, and its bytes: so that no character hashes to 0."""
    code, size = decode(data, i, end)
    return np.uint64(code) + np.uint64(1), size


@numba.njit(cache=True)
def _repeats(data, offsets, anchor, document, first, windows, length, out_context, out_start, out_stop, out_source):  # noqa: PLR0917
    n = len(anchor)
    power = np.uint64(1)
    for _ in range(length):
        power *= PRIME
    most = 0
    total = 0
    for c in range(n):
        total = windows[c] if c == 0 or anchor[c] != anchor[c - 1] else total + windows[c]
        most = max(most, total)
    capacity = 16
    while capacity < 2 * most:
        capacity *= 2
    slot_hash = np.empty(capacity, np.uint64)
    slot_context = np.full(capacity, -1, np.int64)  # of the first window with these characters
    slot_byte = np.empty(capacity, np.int64)
    slot_first = np.empty(capacity, np.int64)
    found = 0
    begin = 0
    while begin < n:
        after = begin
        total = 0
        while after < n and anchor[after] == anchor[begin]:
            total += windows[after]
            after += 1
        if after == begin + 1:
            begin = after
            continue
        size = 16
        while size < 2 * total:
            size *= 2
        slot_context[:size] = -1
        mask = np.uint64(size - 1)
        for c in range(begin, after):
            i = j = offsets[c]  # bytes of the window: data[i:j]
            end = offsets[c + 1]
            rolling = np.uint64(0)
            for _ in range(length):
                code, step = code_at(data, j, end)
                rolling = rolling * PRIME + code
                j += step
            run_start, run_stop, run_source = -1, -1, -1
            match_byte, step = -1, 0  # where the copy of the window before begins, and bytes of its first character
            for w in range(windows[c]):
                last = j
                if w:
                    code, step = code_at(data, i, end)
                    rolling = rolling * PRIME - code * power
                    i += step
                    code, entered = code_at(data, j, end)
                    rolling += code
                    j += entered
                hashed = mix(rolling)
                slot = hashed & mask
                known = np.int64(-1)
                while slot_context[slot] >= 0:
                    if slot_hash[slot] == hashed:
                        other = slot_byte[slot]
                        # the window before was the same there: only the last character is new
                        at = last - i if match_byte >= 0 and other == match_byte + step else 0
                        limit = j - i
                        same = other + limit <= offsets[slot_context[slot] + 1]
                        while same and at < limit:
                            same = data[i + at] == data[other + at]
                            at += 1
                        if same:
                            known = np.int64(slot)
                            break
                    slot = (slot + np.uint64(1)) & mask
                place = first[c] + w
                match_byte = -1
                repeat = False
                if known < 0:
                    slot_hash[slot], slot_context[slot] = hashed, c
                    slot_byte[slot], slot_first[slot] = i, place
                else:
                    match_byte = slot_byte[known]
                    other_document = document[slot_context[known]]
                    repeat = other_document != document[c] or place - slot_first[known] >= length
                if repeat:
                    if run_stop < 0:
                        run_start, run_source = place, slot_context[known]
                    run_stop = place + length
                if run_stop >= 0 and (not repeat or w == windows[c] - 1):
                    if found < len(out_context):
                        out_context[found], out_start[found] = c, run_start
                        out_stop[found], out_source[found] = run_stop, run_source
                    found += 1
                    run_stop = -1
        begin = after
    return found
