"""Read subtitles into documents: `window_lines` lines of a film, or of a file of lines, after one another (Sailor2, section 3.1).

A document has the next lines, or with `step_lines` below `window_lines` some of those before too. What is left at the end of
a file and is less than half a window goes to the window before it. The ledger has `empty` for a file in which nobody speaks,
`record_too_large`, and `bad_record` for what is broken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

import pyarrow as pa

from cluster import storage
from curation.extract.encoding import decode
from curation.schema import Limits, batches, drop, file_name, raw
from curation.sources import archives
from curation.sources.containers import BROKEN, BYTES, unpacked
from curation.sources.lines import lines as lines_of
from curation.subtitles import lines

SNIFFED = 1 << 16  # bytes
TOGETHER = 1000  # lines of a long file that are decoded together


def read_subtitles(
    path: str,
    *,
    source: str,
    licence: str = "",
    language: str = "",
    window_lines: int = 100,
    step_lines: int | None = None,
    limits: Limits | None = None,
    name: str | None = None,
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """One file, packed or not, or the files of a zip or tar archive, as pairs of (`RAW` batch, ledger batch). `language` is that
    of all of them; `name` tells the file from the others of its source."""
    limits = limits or Limits()
    columns = {"source": source, "licence": licence, "content_type": "text/plain", "lang_hint": language}

    def rows() -> Iterator[dict]:
        with storage.opened(path) as file:
            for member, opened in archives.members(file):
                shown = "/".join(filter(None, (name or file_name(path), member)))
                record_id = f"{source}:{'/'.join(filter(None, (name or path, member)))}"
                if isinstance(opened, str):
                    yield drop("bad_record", record_id=record_id, detail=f"{shown}: {opened}")
                    continue
                empty = True
                for row in _film(opened, shown, record_id, limits, size=window_lines, step=step_lines or window_lines):
                    empty = False
                    yield row if "rule" in row else raw(**row, **columns)
                if empty:
                    yield drop("empty", record_id=record_id, value=0, threshold=1, detail=shown)

    yield from batches(rows(), limits)


def windows(found: Iterable[str], size: int, step: int) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line from 0 on, lines) of each window. Every line is in one."""
    held: list[str] = []
    begin = 0
    for line in found:
        held.append(line)
        if len(held) >= size + max(1, min(step, size // 2)):
            yield begin, held[:size]
            held, begin = held[step:], begin + step
    if held:
        yield begin, held


def _film(opened: BinaryIO, shown: str, record_id: str, limits: Limits, *, size: int, step: int) -> Iterator[dict]:
    """What `raw` takes of each window of one file, and ledger rows."""
    troubles: list[str] = []
    for number, one in windows(_spoken(opened, limits, troubles), size, step):
        text = "\n".join(one)
        identity = {"record_id": f"{record_id}:{number + 1}", "url": ""}
        if (n_bytes := len(text.encode())) > limits.max_record_bytes:
            yield drop("record_too_large", **identity, value=n_bytes, threshold=limits.max_record_bytes)
        else:
            yield {**identity, "source_id": f"{shown}:{number + 1}", "text": text}
    for number, trouble in enumerate(troubles):
        rule = "record_too_large" if trouble == TOO_LARGE else "bad_record"
        threshold = limits.max_record_bytes if trouble == TOO_LARGE else None
        yield drop(rule, record_id=f"{record_id}:trouble {number}", threshold=threshold, detail=f"{shown}: {trouble}")


TOO_LARGE = "it has more bytes than a record may have"


def _spoken(opened: BinaryIO, limits: Limits, troubles: list[str]) -> Iterator[str]:
    """The clean lines of a file; what is wrong with it is added to `troubles`."""
    begin = _begin(opened)
    form = lines.kind(decode(begin)) if begin else "plain"
    if form == "plain":
        yield from lines.clean(_plain(opened, limits, troubles))
        return
    held = bytearray()
    for event, value in _events(opened, troubles):
        if event in BYTES:
            held += value
        if len(held) > limits.max_record_bytes:
            troubles.append(TOO_LARGE)
            return
    try:
        yield from lines.spoken(decode(bytes(held)), form)
    except ValueError as problem:
        troubles.append(str(problem))


def _begin(opened: BinaryIO) -> bytes:
    begin = b""
    for event, value in _events(opened, []):
        begin += value if event in BYTES else b""
        if len(begin) >= SNIFFED:
            break
    opened.seek(0)
    return begin[:SNIFFED]


def _events(opened: BinaryIO, troubles: list[str]) -> Iterator[tuple]:
    """What `unpacked` gives; that a member of an archive is broken ends it."""
    try:
        for event, value in unpacked(opened):
            if event == BROKEN:
                troubles.append(str(value))
            yield event, value
    except archives.BROKEN_ARCHIVE as problem:
        if archives.of_storage(problem):
            raise
        troubles.append(f"{type(problem).__name__}: {problem}")


def _plain(opened: BinaryIO, limits: Limits, troubles: list[str]) -> Iterator[str]:
    """The lines of a file that may be of any length, decoded some together: one that is not UTF-8 shows its encoding in many."""
    held: list[bytes] = []
    try:
        for line, n_bytes in lines_of(opened, limits.max_line_bytes):
            if isinstance(line, str):
                troubles.append(line)
            elif n_bytes > limits.max_line_bytes:
                troubles.append(f"a line of {n_bytes:,} bytes")
            else:
                held.append(line)
            if len(held) == TOGETHER:
                yield from decode(b"\n".join(held)).splitlines()
                held = []
    except archives.BROKEN_ARCHIVE as problem:
        if archives.of_storage(problem):
            raise
        troubles.append(f"{type(problem).__name__}: {problem}")
    if held:
        yield from decode(b"\n".join(held)).splitlines()
