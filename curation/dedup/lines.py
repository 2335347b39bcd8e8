"""Lines that come back all over a crawl: menus, cookie notices, licences of a theme.

Recipe section 2.1: in each bucket of 10 M documents, lines seen more than 5 times are dropped, every copy of them. A
line is stripped and its runs of whitespace become one space; then it is a 64-bit hash. Lines under `min_chars`
characters are skipped: "Oleh:" or "1." repeat in honest text. The hash of a document's id says its bucket, so the
result does not depend on how documents are split over files. Occurrences are counted: six times in one document are six.
"""

from __future__ import annotations

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from curation.text.form import in_one_form
from curation.text.units import CLASSES, IGNORED, PRIME, SEED, SPACE, count_units, decode, mix, text_buffers

LETTERS_PER_WORD = 3
"""In scripts without spaces, letters (marks not counted) that are taken for one word."""


def buckets(doc_ids: list[str], n_buckets: int) -> np.ndarray:
    """Bucket of each document, int64 [N], by the hash of its id."""
    hashes = np.array([xxhash.xxh3_64_intdigest(doc_id.encode()) for doc_id in doc_ids], np.uint64)
    return (hashes % np.uint64(n_buckets)).astype(np.int64)


def line_hashes(text: pa.Array | pa.ChunkedArray, min_chars: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of lines of at least `min_chars` characters, in order: (row of the text int64 [L], hash uint64 [L])."""
    data, offsets = text_buffers(in_one_form(text))
    total = np.count_nonzero(data[offsets[0] : offsets[-1]] == 10) + len(offsets) - 1
    rows, hashes = np.empty(total, np.int64), np.empty(total, np.uint64)
    n = _line_hashes(data, offsets, CLASSES, min_chars, rows, hashes)
    return rows[:n], hashes[:n]


def remove_lines(
    text: pa.Array | pa.ChunkedArray, bucket: np.ndarray, frequent: dict[int, np.ndarray], min_chars: int
) -> tuple[pa.Array, np.ndarray]:
    """Texts without the lines whose hash is in `frequent[bucket]` (sorted uint64).

    Returns (string array [N], number of lines removed int64 [N]); a text in one form that loses none comes back byte
    for byte, a null as an empty text.
    """
    if isinstance(text, pa.ChunkedArray):
        text = text.combine_chunks()
    if text.null_count:
        text = pc.fill_null(text, "")
    text = in_one_form(text)
    removed = np.zeros(len(text), np.int64)
    rows, hashes = line_hashes(text, min_chars) if frequent else (removed[:0], removed[:0])
    lose = np.zeros(len(text), bool)
    for one in set(np.unique(bucket).tolist()) & set(frequent):
        here = bucket[rows] == one
        lose[rows[here][np.isin(hashes[here], frequent[one])]] = True
    if not lose.any():
        return text, removed
    at = np.flatnonzero(lose)
    shorter, removed[at] = _shorter(text.take(pa.array(at)), bucket[at], frequent, min_chars)
    return pc.replace_with_mask(text, pa.array(lose), shorter.cast(text.type)), removed


def _shorter(
    text: pa.Array, bucket: np.ndarray, frequent: dict[int, np.ndarray], min_chars: int
) -> tuple[pa.Array, np.ndarray]:
    data, offsets = text_buffers(text)
    out = np.empty(int(offsets[-1] - offsets[0]), np.uint8)
    out_offsets = np.zeros(len(offsets), np.int64)
    removed = np.zeros(len(offsets) - 1, np.int64)
    empty = np.zeros(0, np.uint64)
    for row in range(len(removed)):
        hashes = frequent.get(int(bucket[row]), empty)
        out_offsets[row + 1], removed[row] = _remove(
            data, offsets[row], offsets[row + 1], CLASSES, min_chars, hashes, out, out_offsets[row]
        )
    buffers = [None, pa.py_buffer(out_offsets), pa.py_buffer(out[: out_offsets[-1]])]
    return pa.Array.from_buffers(pa.large_string(), len(removed), buffers), removed


def count_words(text: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Words of each text, int64 [N]: spaced ones, and one per `LETTERS_PER_WORD` letters in scripts without spaces."""
    words, letters = count_units(text)
    return words + letters // LETTERS_PER_WORD


@numba.njit(cache=True)
def _line(data, i, end, classes):
    """Hash, characters and end (index of the newline, or `end`) of the line that starts at byte `i`."""
    hashed = SEED
    characters = 0
    space = False
    while i < end and data[i] != 10:
        code, size = decode(data, i, end)
        i += size
        kind = classes[code]
        if kind == SPACE:
            space = True
        elif kind != IGNORED:
            if space and characters:
                hashed = (hashed ^ np.uint64(32)) * PRIME
                characters += 1
            space = False
            hashed = (hashed ^ np.uint64(code)) * PRIME
            characters += 1
    return mix(hashed), characters, i


@numba.njit(cache=True)
def _line_hashes(data, offsets, classes, min_chars, rows, hashes):  # noqa: PLR0917
    n = 0
    for d in range(len(offsets) - 1):
        i, end = offsets[d], offsets[d + 1]
        while i < end:
            hashed, characters, i = _line(data, i, end, classes)
            i += 1
            if characters >= min_chars:
                rows[n] = d
                hashes[n] = hashed
                n += 1
    return n


@numba.njit(cache=True)
def _remove(data, i, end, classes, min_chars, frequent, out, at):  # noqa: PLR0917
    """Copy the lines of data[i:end] that stay to `out` from index `at`: (index after the copy, lines left out)."""
    begin, removed = at, 0
    while i < end:
        hashed, characters, stop = _line(data, i, end, classes)
        k = np.searchsorted(frequent, hashed)
        if characters >= min_chars and k < len(frequent) and frequent[k] == hashed:
            removed += 1
        else:
            stop_copy = min(stop + 1, end)  # with its newline
            for j in range(i, stop_copy):
                out[at] = data[j]
                at += 1
        i = stop + 1
    if removed and at > begin and out[at - 1] == 10 and data[end - 1] != 10:
        at -= 1  # the last line went: no newline at the end where there was none
    return at, removed
