"""The lines of a text file in whatever it is packed, one after another and none of them larger than asked for."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO

from curation.sources.containers import BROKEN, BYTES, archive, kind, unpacked


def lines(file: BinaryIO, max_bytes: int) -> Iterator[tuple[bytes | str, int]]:
    """(line, its bytes), of a line beyond `max_bytes` not the whole; (message, 0) where something breaks."""
    held: list[bytes] = []  # the begin of the present line
    n_bytes = 0  # of it, with those that were let go
    broken = False
    wide = None
    first = True
    for event, value in unpacked(file):
        if event == BROKEN:
            yield value, 0
            held, n_bytes, broken = [], 0, True
            continue
        if event not in BYTES:
            continue
        if first:
            first = False
            inner = kind(value)
            if said := archive(value) or (inner and f"packed twice, by {inner} inside"):
                yield f"the file is {said}: unpack it first", 0
                return
            if value.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                wide = codecs.getincrementaldecoder("utf-16")("replace")
        chunk = wide.decode(value).encode() if wide else value
        if broken:  # what comes first is the end of a broken line, unless it looks like the begin of one
            broken = False
            if not chunk.startswith(b"{"):
                chunk = chunk.partition(b"\n")[2]
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            n_bytes += len(line)
            yield b"".join([*held, line]) if held else line, n_bytes
            held, n_bytes = [], 0
        n_bytes += len(rest)
        if n_bytes > max_bytes:
            held = []
        elif rest:
            held.append(rest)
    if n_bytes:
        yield b"".join(held), n_bytes
