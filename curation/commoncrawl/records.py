"""Records cut out of a range of a WARC file: each is a gzip member of its own, checked before it is read.

A record counts as corrupt when its member does not unpack (which checks its CRC), when it holds no record, or when the SHA-1 of
its payload is not the digest that the index gives. Then it is fetched again, as the fault may lie on the way, and goes to the
ledger when it comes again the same.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Iterator

from curation.schema import Limits, drop
from curation.sources.responses import dechunked
from curation.sources.warc import read_records

TRIES = 3  # of a record that came corrupt
UNPACKED_AT_ONCE = 1 << 24
HEAD_BYTES = 1 << 20  # room for the headers of a record beside its limit


def rows(
    wanted: list[dict],
    data: bytes | None,
    begin: int,
    *,
    columns: dict,
    limits: Limits,
    again: Callable[[dict], bytes | None],
) -> Iterator[dict]:
    """Rows (`schema.raw`, `schema.drop`) of the records of one range.

    Parameters
    ----------
    wanted : rows of `FOUND`, in order
    data : the bytes of the range, from byte `begin` of the file; None when the file does not hold them
    columns : `source`, `crawl`, `licence`, `warc_file`
    again : fetches the bytes of one record a second time
    """
    for record in wanted:
        place = {"record_id": f"{record['file']}:{record['offset']}", "url": record["url"]}
        if record["length"] > limits.max_record_bytes:
            yield drop("record_too_large", **place, value=record["length"], threshold=limits.max_record_bytes)
            continue
        first = record["offset"] - begin
        member = None if data is None else data[first : first + record["length"]]
        if member is None:
            yield drop("not_found", **place, detail=f"{record['file']} does not exist or ends before the record")
            continue
        block, problem = checked(member, record["digest"], limits)
        for _ in range(TRIES):
            second = again(record) if problem else None
            if second is None or second == member:
                break
            member = second
            block, problem = checked(member, record["digest"], limits)
        if problem:
            rule, detail = problem
            yield drop(rule, **place, detail=detail)
            continue
        found = False
        for row in read_records(io.BytesIO(block), columns, limits, record["offset"]):
            found = True
            yield row
        if not found:
            yield drop("bad_record", **place, detail="neither a response over HTTP nor a conversion")


def checked(member: bytes, digest: str | None, limits: Limits) -> tuple[bytes, tuple[str, str] | None]:
    """(the record unpacked, None), or what is wrong with it: (rule, detail).

    A record too large for the limits is unpacked as far as tells the reader so, and its digest is not checked.
    """
    unpacker = zlib.decompressobj(wbits=31)
    try:
        block = unpacker.decompress(member, limits.max_record_bytes + HEAD_BYTES)
    except zlib.error as error:
        return b"", ("bad_record", f"gzip: {error}")
    if not block.startswith(b"WARC/"):
        return b"", ("bad_record", "no WARC record begins where the index says")
    if not unpacker.eof:
        if len(block) >= limits.max_record_bytes + HEAD_BYTES:
            return block, None
        return b"", ("bad_record", "gzip: the member ends early")
    if digest and not _fits(block, digest):
        return b"", ("digest_mismatch", f"the payload's SHA-1 is not {digest}")
    return block, None


def _fits(block: bytes, digest: str) -> bool:
    """Whether `digest` (SHA-1, base32) is that of the record's payload: the body as it is stored, without chunk lines, or
    without the empty line that CC-MAIN-2018-34 has before it. A WET record's payload is its whole block."""
    head = re.search(rb"\r?\n\r?\n", block)
    length = re.search(rb"(?i)\ncontent-length:\s*(\d+)", block[: head.end()]) if head else None
    if not head or not length:
        return True  # the reader says what is wrong with it
    content = block[head.end() : head.end() + int(length[1])]
    inner = re.search(rb"\r?\n\r?\n", content)
    body = content[inner.end() :] if inner and content.startswith(b"HTTP/") else content
    wanted = digest.removeprefix("sha1:").upper()
    forms = (lambda: body, lambda: body.removeprefix(b"\r\n"), lambda: dechunked(body)[0], lambda: content)
    return any(
        base64.b32encode(hashlib.sha1(form(), usedforsecurity=False).digest()).decode() == wanted for form in forms
    )


def broken_at(path: str, begin: int = 0, block_bytes: int = 1 << 20) -> tuple[int, int] | None:
    """Where the first gzip member from byte `begin` on that does not unpack begins, and about where it breaks; None when
    there is none."""
    with open(path, "rb") as file:
        file.seek(begin)
        start = position = begin
        unpacker = zlib.decompressobj(wbits=31)
        while data := file.read(block_bytes):
            while data:
                try:
                    unpacker.decompress(data, UNPACKED_AT_ONCE)
                except zlib.error:
                    return start, position + len(data)
                left = unpacker.unused_data or unpacker.unconsumed_tail
                position += len(data) - len(left)
                data = left
                if unpacker.eof:
                    start, unpacker = position, zlib.decompressobj(wbits=31)
        return (start, position) if position > start else None
