"""Masking of personal data: e-mail addresses, telephone numbers, public IP addresses and national ids become fixed tokens.

`<email>`, `<phone>`, `<ip>`, `<id>`: one visible token a kind, so that a model learns that something was taken out and not
to write plausible addresses of its own (FineWeb puts in made-up ones), and so that they can be counted.

One pass over the bytes finds the places that could hold any (an `@`, seven digits with at most three separators between
two, three dots or two colons among digits); only those places are decoded and tried against `curation.signals.pii_patterns`. A
document without such places costs the pass alone, and keeps its bytes.
"""

from __future__ import annotations

from collections.abc import Collection

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.signals.pii_patterns import (
    ABROAD_REGEX,
    EMAIL,
    IPV4,
    IPV6,
    KINDS,
    NAMED_IP,
    NAMED_OTHERWISE,
    NAMED_PHONE,
    PLAIN,
    VERSION,
    abroad,
    is_email,
    is_public_ip,
    patterns,
)
from curation.text.units import SIZE, decode, text_buffers

COUNTS = pa.struct([(kind, pa.int32()) for kind in KINDS])
"""Type of the column `pii`: how many of each kind were masked in a document."""

Span = tuple[int, int, str]

BEFORE_BYTES, AFTER_BYTES = 120, 16  # of a number that its patterns look at; words of 3-byte letters stand before it
EMAIL_BEFORE, EMAIL_AFTER = 72, 160
NAME_CHARS = 48  # before a number in which the word that names it must stand
MIN_DIGITS, MAX_GAP = 7, 3

_NOTHING, _DIGIT, _SEPARATOR = range(3)
_AT, _NUMBER, _DOTTED, _COLONS = 1, 2, 4, 8  # what was seen in a window


def _classes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = np.zeros(SIZE, np.uint8)
    for code, plain in [*((c, chr(c)) for c in range(0x80)), *PLAIN.items()]:
        if code < SIZE:
            table[code] = _DIGIT if plain.isdigit() else _SEPARATOR if plain in " .()-+" else _NOTHING
    opens, pairs = np.zeros(256, np.bool_), np.zeros((256, 64), np.bool_)
    for code in [*np.flatnonzero(table == _DIGIT).tolist(), 0x40, 0x3A, 0xFF20]:
        raw = chr(code).encode()
        opens[raw[0]] = True
        pairs[raw[0], raw[1] & 0x3F if len(raw) > 1 else slice(None)] = True
    return table, opens, pairs


CLASSES, OPENS, PAIRS = _classes()
"""Class of each code point; whether a byte, and with the low bits of the next byte, can begin a character at which something
starts: a digit, an `@` or a colon."""

HEX = np.array([chr(c) in "0123456789abcdefABCDEF" for c in range(256)])


def mask(batch: pa.RecordBatch, kinds: Collection[str] = KINDS) -> pa.RecordBatch:
    """The batch (with `text` and `lang`) with personal data of `kinds` masked, and a column `pii` of type `COUNTS`.

    A null text stays null. Raises ValueError for an unknown kind.
    """
    wanted = known(kinds)
    texts, langs = batch["text"], batch["lang"]
    spans = find(texts, langs.to_pylist(), wanted)
    counts = {kind: np.zeros(batch.num_rows, np.int32) for kind in KINDS}
    for row, found in spans.items():
        for _, _, kind in found:
            counts[kind][row] += 1
    column = pa.StructArray.from_arrays([pa.array(counts[kind]) for kind in KINDS], fields=list(COUNTS))
    if spans:
        place = batch.schema.get_field_index("text")
        batch = batch.set_column(place, batch.schema.field(place), _replace(texts, spans))
    return batch.append_column("pii", column)


def known(kinds: Collection[str]) -> tuple[str, ...]:
    """The kinds in the order of `KINDS`. Raises ValueError for one that is none."""
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise ValueError(f"filter.mask_pii: there is no kind {unknown[0]!r}; the kinds are {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in kinds)


def find(texts: pa.Array, langs: list[str | None], kinds: tuple[str, ...] = KINDS) -> dict[int, list[Span]]:
    """Spans (first byte, byte after the last, kind) of personal data in each text that has any, in order, not overlapping."""
    data, offsets = text_buffers(texts)
    windows = _windows(data, offsets, CLASSES, OPENS, PAIRS, HEX)
    raw = data.data
    found: dict[int, list[Span]] = {}
    for row, start, end, seen in zip(*(column.tolist() for column in windows), strict=True):
        text = bytes(raw[start:end]).decode("utf-8", "replace").translate(PLAIN)
        if spans := _in_window(text, seen, langs[row], kinds):
            base = start - int(offsets[row])
            source = bytes(raw[start:end]).decode("utf-8", "replace")
            for first, last, kind in spans:
                at = base + len(source[:first].encode())
                found.setdefault(row, []).append((at, at + len(source[first:last].encode()), kind))
    return found


def _in_window(text: str, seen: int, lang: str | None, kinds: tuple[str, ...]) -> list[Span]:
    """Spans of characters in one window; where two overlap, the kind tried first has it."""
    spans: list[Span] = []

    def take(first: int, last: int, kind: str) -> None:
        if all(last <= a or first >= b for a, b, _ in spans):
            spans.append((first, last, kind))

    if seen & _AT and "email" in kinds:
        for match in EMAIL.finditer(text):
            if is_email(match[0]):
                take(*match.span(), "email")
    if seen & _DOTTED and "ip" in kinds:
        for match in IPV4.finditer(text):
            before = text[: match.start()]
            sure = sum(int(octet) > 9 for octet in match[0].split(".")) > 1 or NAMED_IP.search(before)
            if sure and not VERSION.search(before) and is_public_ip(match[0]):
                take(*match.span(), "ip")
    if seen & _COLONS and "ip" in kinds:
        for match in IPV6.finditer(text):
            if is_public_ip(match[0]):
                take(*match.span(), "ip")
    if seen & _NUMBER:
        if "phone" in kinds and ("+" in text or "00" in text):
            for match in ABROAD_REGEX.finditer(text):
                if size := abroad(match[0]):
                    take(match.start(), match.start() + size, "phone")
        any_of_them, all_patterns = patterns(lang, kinds)
        tried = all_patterns if any_of_them.search(text) else ()
        for pattern in (*tried, NAMED_PHONE) if "phone" in kinds else tried:
            for match in pattern.regex.finditer(text):
                before = text[max(0, match.start() - NAME_CHARS) : match.start()]
                if pattern.after is not None and not pattern.after.search(before):
                    continue
                bare = "".join(c for c in match[0] if c.isalnum() or c == "/")
                if pattern.check is not None and not pattern.check(match[0] if pattern.kind == "phone" else bare):
                    continue
                if not NAMED_OTHERWISE.search(before):
                    take(*match.span(), pattern.kind)
    return sorted(spans)


def _replace(texts: pa.Array, spans: dict[int, list[Span]]) -> pa.Array:
    data, offsets = text_buffers(texts)
    raw = data.data
    pieces: list[bytes | memoryview] = []
    ends = np.zeros(len(texts) + 1, np.int64)
    done = int(offsets[0])
    for row in sorted(spans):
        for first, last, kind in spans[row]:
            start = int(offsets[row])
            pieces += [raw[done : start + first], f"<{kind}>".encode()]
            done = start + last
    pieces.append(raw[done : int(offsets[-1])])
    shrunk = np.zeros(len(texts), np.int64)
    for row, found in spans.items():
        shrunk[row] = sum(last - first - len(kind) - 2 for first, last, kind in found)
    ends[1:] = np.cumsum(np.diff(offsets) - shrunk)
    total = b"".join(pieces)
    assert ends[-1] == len(total), "the pieces and the offsets must agree"
    masked = pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(total))
    if texts.null_count:
        masked = pc.if_else(texts.is_null(), pa.scalar(None, pa.large_string()), masked)
    return masked.cast(texts.type)


@numba.njit(inline="always")
def _whole(data, at, start, end):
    """The nearest start of a character at or before `at`, within the text."""
    at = min(max(at, start), end)
    while start < at < end and data[at] & 0xC0 == 0x80:
        at -= 1
    return at


@numba.njit(cache=True)
def _windows(data, offsets, classes, opens, pairs, hexadecimal):  # noqa: PLR0917
    """Places to look at: (row, first byte, byte after the last, what was seen), windows that meet joined into one."""
    room, n = 256, 0
    rows, starts = np.empty(room, np.int64), np.empty(room, np.int64)
    ends, seen = np.empty(room, np.int64), np.empty(room, np.int64)
    for d in range(len(offsets) - 1):
        i, first, end = offsets[d], offsets[d], offsets[d + 1]
        digits = dots = gap = 0  # of the number that is being read
        run = last = known = first  # where it began and had its last digit; until where colons were counted
        after_bracket = False
        while i <= end:
            if digits == 0:
                while i < end and not (opens[data[i]] and (i + 1 >= end or pairs[data[i], data[i + 1] & 0x3F])):
                    i += 1
            code, step, kind = np.int64(0), 1, np.uint8(_NOTHING)
            if i < end:
                byte = data[i]
                code = np.int64(byte)
                if byte >= 0x80:
                    wide, step = decode(data, i, end)
                    code = np.int64(wide)
                kind = classes[code]
            what, low, high = 0, end, first
            if kind == _DIGIT:
                if digits == 0:
                    run, dots = i, 0
                    after_bracket = i > first and (data[i - 1] == 0x29 or (i > first + 1 and data[i - 2] == 0x29))
                digits += 1
                gap, last = 0, i + step
            elif digits:
                gap += 1
                dots += code == 0x2E
                if kind != _SEPARATOR or gap > MAX_GAP:
                    if digits >= MIN_DIGITS or (digits == 6 and after_bracket):
                        what |= _NUMBER
                    if dots >= 3:
                        what |= _DOTTED
                    if what:
                        low, high = run - BEFORE_BYTES, last + AFTER_BYTES
                    digits = 0
            if code == 0x40 or code == 0xFF20:  # noqa: PLR1714 (numba compiles a membership test to a slower loop)
                what |= _AT
                low, high = min(low, i - EMAIL_BEFORE), max(high, i + EMAIL_AFTER)
            elif code == 0x3A and i >= known:
                left, known, colons = i, i, 0
                while left > first and hexadecimal[data[left - 1]]:
                    left -= 1
                while known < end and (data[known] == 0x3A or hexadecimal[data[known]]):
                    colons += data[known] == 0x3A
                    known += 1
                if colons >= 2 and known - left > 4:
                    what |= _COLONS
                    low, high = min(low, left - 4), max(high, known + 4)
            if what:
                low, high = _whole(data, low, first, end), _whole(data, high, first, end)
                if n and rows[n - 1] == d and low <= ends[n - 1]:
                    starts[n - 1], ends[n - 1] = min(low, starts[n - 1]), max(high, ends[n - 1])
                    seen[n - 1] |= what
                else:
                    if n == room:
                        room *= 2
                        rows, starts = _grown(rows, room), _grown(starts, room)
                        ends, seen = _grown(ends, room), _grown(seen, room)
                    rows[n], starts[n], ends[n], seen[n] = d, low, high, what
                    n += 1
            i += step
    return rows[:n], starts[:n], ends[:n], seen[:n]


@numba.njit
def _grown(values, room):
    larger = np.empty(room, values.dtype)
    larger[: len(values)] = values
    return larger
