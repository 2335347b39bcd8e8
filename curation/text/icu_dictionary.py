"""ICU's word lists for scripts without spaces (Thai, Lao, Khmer, Burmese, Han and kana) as one trie for numba kernels.

PySpark brings ICU for Java; its jar holds ICU's dictionaries, which are read there at run time and never copied. Formats:
ICU's `dictionarydata.h` (header, transform of Thai to Burmese letters to bytes), `bytestrie.h` and `ucharstrie.h` (tries of
bytes or UTF-16 units; a value in cjdict is the word's cost, -ln of its frequency scaled to a byte). Decoding all five takes
about 0.3 s and is done once per process.

The trie is a double array: unit t = base(s) + symbol(code) is the child of node s when check(t) = s. One uint64 a unit:
base in bits 40 to 63, check in bits 16 to 39, and cost + 1 of the word that ends there in bits 0 to 15.
"""

from __future__ import annotations

import importlib.metadata
import struct
import zipfile
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa

from curation.text.form import one_form, suspects
from curation.text.units import SIZE

FOLDER = "com/ibm/icu/impl/data/icudata/brkitr"
FILES = ("thaidict", "laodict", "khmerdict", "burmesedict", "cjdict")
_TRANSFORM_TYPE, _TRANSFORM_OFFSET, _OFFSET_MASK = 0x7F000000, 0x01000000, 0x1FFFFF
_MAX_WORD = 60  # so that the lengths of all words that start somewhere fit into one uint64; ICU's longest has 33


class Trie(NamedTuple):
    """The double array. `units` is empty when there are no dictionaries."""

    units: np.ndarray  # uint64 [slots]
    symbol: np.ndarray  # uint16 [0x40000], of each code point; 0 for those in no word


def jar() -> Path | None:
    """ICU's jar in the installed PySpark, or None.

    Found through the distribution: a worker of Spark imports `pyspark` from a zip file, which has no jars beside it.
    """
    try:
        folder = importlib.metadata.distribution("pyspark").locate_file("pyspark/jars")
    except importlib.metadata.PackageNotFoundError:
        return None
    return next(iter(sorted(Path(str(folder)).glob("icu4j-*.jar"))), None)


def source() -> str | None:
    """Name of what segments words, for manifests: "icu4j-78.3", or None when letters stand for words."""
    found = jar()
    return found.stem if found else None


@cache
def trie() -> Trie:
    """All dictionaries in one trie (their letters are disjoint), empty without the jar. Kept for the process."""
    found = jar()
    if found is None:
        return Trie(np.zeros(0, np.uint64), np.zeros(SIZE, np.uint16))
    with zipfile.ZipFile(found) as archive:
        return build([_with_forms(*words(archive.read(f"{FOLDER}/{name}.dict"))) for name in FILES])


def _with_forms(codes: np.ndarray, offsets: np.ndarray, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The words of a dictionary with those that it does not spell in the one form (one in forty in Khmer) in both spellings."""
    text = codes.astype("<u4").tobytes().decode("utf-32-le")
    spelled = pa.array([text[start:stop] for start, stop in pairwise(offsets.tolist())], pa.string())
    rows = np.flatnonzero(suspects(spelled)).tolist()
    cost_of = dict(zip(spelled.to_pylist(), costs.tolist(), strict=True)) if rows else {}
    missing = {one: costs[row] for row in rows if (one := one_form(spelled[row].as_py())) not in cost_of and one}
    if not missing:
        return codes, offsets, costs
    every = sorted((cost_of | missing).items())
    ends = np.cumsum([0, *(len(word) for word, _ in every)], dtype=offsets.dtype)
    codes = np.frombuffer("".join(word for word, _ in every).encode("utf-32-le"), "<u4").astype(codes.dtype)
    return codes, ends, np.array([cost for _, cost in every], costs.dtype)


def words(file: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Words of one dictionary file: code points uint32, offsets int64 [W+1], costs int32 [W] (0 where there are none).

    Raises ValueError when the file is no ICU dictionary.
    """
    header = struct.unpack(">H", file[:2])[0]
    if file[2:4] != b"\xda\x27" or file[12:16] != b"Dict":
        raise ValueError("not an ICU dictionary")
    order = ">" if file[8] else "<"  # isBigEndian
    header = struct.unpack(f"{order}H", file[:2])[0]
    start, _, _, end, kind, transform = struct.unpack(f"{order}6i", file[header : header + 24])
    content = file[header + start : header + end]
    wide = bool(kind & 7)
    size = len(content) // 2 * 2 if wide else len(content)
    units = np.frombuffer(content[:size], f"{order}u2" if wide else "u1").astype(np.int64)
    offset = transform & _OFFSET_MASK if transform & _TRANSFORM_TYPE == _TRANSFORM_OFFSET else 0
    capacity = 1 << 20
    while True:
        text, ends, values = np.zeros(capacity, np.uint32), np.zeros(capacity, np.int64), np.zeros(capacity, np.int32)
        n = _expand(units, wide, offset, text, ends, values)
        if n >= 0:
            return text[: ends[n - 1]], np.concatenate([[0], ends[:n]]), values[:n]
        capacity *= 2


@numba.njit(inline="always")
def _value(units, at, lead, wide):
    """(Value that `lead` begins, index after it), `lead` without its flag of a final value."""
    if wide:
        if lead < 0x4000:
            return lead, at
        if lead < 0x7FFF:
            return (lead - 0x4000) << 16 | units[at], at + 1
        return units[at] << 16 | units[at + 1], at + 2
    if lead < 0x51:
        return lead - 0x10, at
    if lead < 0x6C:
        return (lead - 0x51) << 8 | units[at], at + 1
    if lead < 0x7E:
        return (lead - 0x6C) << 16 | units[at] << 8 | units[at + 1], at + 2
    if lead == 0x7E:
        return units[at] << 16 | units[at + 1] << 8 | units[at + 2], at + 3
    return units[at] << 24 | units[at + 1] << 16 | units[at + 2] << 8 | units[at + 3], at + 4


@numba.njit(inline="always")
def _delta(units, at, wide):
    """(Distance to jump, index that it counts from)."""
    delta = units[at]
    at += 1
    if wide:
        if delta < 0xFC00:
            return delta, at
        if delta < 0xFFFF:
            return (delta - 0xFC00) << 16 | units[at], at + 1
        return units[at] << 16 | units[at + 1], at + 2
    if delta < 0xC0:
        return delta, at
    if delta < 0xF0:
        return (delta - 0xC0) << 8 | units[at], at + 1
    if delta < 0xFE:
        return (delta - 0xF0) << 16 | units[at] << 8 | units[at + 1], at + 2
    if delta == 0xFE:
        return units[at] << 16 | units[at + 1] << 8 | units[at + 2], at + 3
    return units[at] << 24 | units[at + 1] << 16 | units[at + 2] << 8 | units[at + 3], at + 4


@numba.njit(cache=True)
def _expand(units, wide, offset, text, ends, values):  # noqa: PLR0917
    """Write all words of a BytesTrie or, when `wide`, a UCharsTrie, words with a common start side by side.

    Returns how many, or -1 when the arrays are too small.
    """
    linear, least_value = (0x30, 0x40) if wide else (0x10, 0x20)
    path = np.zeros(256, np.int64)
    stack = np.zeros((4096, 4), np.int64)  # index, depth, branches left at this index (0: a node), unit that led here
    top = 1
    stack[0, 3] = -1
    count = written = 0
    while top:
        top -= 1
        at, depth, branches, unit = stack[top]
        if unit >= 0:
            path[depth - 1] = unit
        while branches == 0:
            lead = units[at]
            at += 1
            if lead >= least_value:
                final = lead & (0x8000 if wide else 1) != 0
                if wide and not final:
                    if lead < 0x4040:
                        value = (lead >> 6) - 1
                    elif lead < 0x7FC0:
                        value = ((lead & 0x7FC0) - 0x4040) << 10 | units[at]
                        at += 1
                    else:
                        value = units[at] << 16 | units[at + 1]
                        at += 2
                else:
                    value, at = _value(units, at, lead & 0x7FFF if wide else lead >> 1, wide)
                if written + depth > len(text) or count >= len(ends):
                    return -1
                high = 0
                for i in range(depth):
                    code = path[i]
                    if not wide and offset:
                        code = 0x200D if code == 0xFF else 0x200C if code == 0xFE else code + offset
                    if 0xD800 <= code < 0xDC00:
                        high = code
                        continue
                    if 0xDC00 <= code < 0xE000:
                        code = 0x10000 + ((high - 0xD800) << 10) + code - 0xDC00
                    text[written] = code
                    written += 1
                ends[count], values[count] = written, value
                count += 1
                if final:
                    break
                if not wide:
                    continue
                lead &= 0x3F
            if lead >= linear:
                for _ in range(lead - linear + 1):
                    path[depth] = units[at]
                    depth += 1
                    at += 1
                continue
            branches = lead
            if branches == 0:
                branches = units[at]
                at += 1
            branches += 1
        if branches == 0:
            continue
        while branches > 5:
            delta, after = _delta(units, at + 1, wide)
            stack[top] = after + delta, depth, branches >> 1, -1
            top += 1
            at, branches = after, branches - (branches >> 1)
        while branches > 1:
            unit, lead = units[at], units[at + 1]
            if lead & (0x8000 if wide else 1):
                # A final value: `_value` of a node that is nothing else.
                stack[top] = at + 1, depth + 1, 0, unit
                _, at = _value(units, at + 2, lead & 0x7FFF if wide else lead >> 1, wide)
            else:
                delta, at = _value(units, at + 2, lead if wide else lead >> 1, wide)
                stack[top] = at + delta, depth + 1, 0, unit
            top += 1
            branches -= 1
        stack[top] = at + 1, depth + 1, 0, units[at]
        top += 1
    return count


def build(lists: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Trie:
    """The trie of several word lists as `words` gives them, whose letters are disjoint."""
    used = np.zeros(SIZE, bool)
    for text, _, _ in lists:
        used[text[text < SIZE]] = True
    symbol = np.where(used, np.cumsum(used), 0).astype(np.uint16)
    text = np.concatenate([text for text, _, _ in lists])
    lengths = np.concatenate([np.diff(offsets) for _, offsets, _ in lists])
    assert lengths.max() <= _MAX_WORD
    assert text.max() < SIZE
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = np.concatenate([values for _, _, values in lists])
    # Roots of the lists have no letter in common but their words are one after the other: each list is one group.
    capacity = 2 * len(text) + 4 * int(symbol.max()) + 16
    units = np.zeros(capacity, np.uint64)
    size = _fill(symbol[text].astype(np.int64), offsets, values, units)
    return Trie(units[:size].copy(), symbol)


@numba.njit(inline="always")
def _unit(base, check, value):
    return np.uint64(base) << np.uint64(40) | np.uint64(check) << np.uint64(16) | np.uint64(value)


@numba.njit(cache=True)
def _fill(symbols, offsets, values, units):
    """Fill `units` depth first; returns how many of them are in use. Node 0 is the root."""
    n_symbols = symbols.max() + 1
    taken = np.zeros(len(units), np.bool_)
    taken[0] = True
    children, first_word = np.empty(n_symbols, np.int64), np.empty(n_symbols + 1, np.int64)
    stack = np.empty((n_symbols + 4096, 4), np.int64)  # node, its check, first word, word after the last
    depth_of = np.empty(n_symbols + 4096, np.int64)
    top, used = 1, 1
    stack[0] = 0, 0, 0, len(values)
    depth_of[0] = 0
    one_free, many_free = n_symbols, n_symbols  # where to look for room for one child, and for several
    while top:
        top -= 1
        node, check, low, high = stack[top]
        depth = depth_of[top]
        value = 0
        if offsets[low + 1] - offsets[low] == depth:
            value = values[low] + 1
            low += 1
        n = 0
        for word in range(low, high):
            symbol = symbols[offsets[word] + depth]
            if n == 0 or children[n - 1] != symbol:
                children[n], first_word[n] = symbol, word
                n += 1
        first_word[n] = high
        base = 0
        if n == 1:
            while taken[one_free]:
                one_free += 1
            base = one_free - children[0]
        elif n:
            slot = many_free
            while True:
                base = slot - children[0]
                assert base + n_symbols < len(units)
                fits = True
                for c in range(n):
                    if taken[base + children[c]]:
                        fits = False
                        break
                if fits:
                    break
                slot += 1
            if slot - many_free > 64:
                many_free = slot - 32  # too full before it to be worth looking at again
        units[node] = _unit(base, check, value)
        for c in range(n):
            slot = base + children[c]
            taken[slot] = True
            used = max(used, slot + 1)
            stack[top] = slot, node, first_word[c], first_word[c + 1]
            depth_of[top] = depth + 1
            top += 1
    return min(len(units), used + n_symbols)
