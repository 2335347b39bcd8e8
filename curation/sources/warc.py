"""Read WARC files (ISO 28500): HTTP responses with HTML, and the plain-text conversions of WET files.

Records are found by fastwarc. A record that cannot be read becomes a ledger row, and reading goes on at the next member
of the compressed file (or the next `WARC/1.` of a plain one), so a broken record costs itself and not the file.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
from fastwarc.stream_io import BrotliReader, ZstdReader
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from cluster import storage
from curation.schema import Limits, batches, drop, file_name, raw

HTML_TYPES = {"text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml"}
BINARY_MAGIC = (b"%PDF", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"PK\x03\x04", b"RIFF", b"\x7fELF")
STARTS = {
    b"\x1f\x8b": b"\x1f\x8b\x08",
    b"\x28\xb5": b"\x28\xb5\x2f\xfd",
}
WANTED = WarcRecordType.response | WarcRecordType.conversion
UNTYPED = (WarcRecordType.unknown, WarcRecordType.no_type)


def read_warc(
    path: str, *, source: str, crawl: str = "", licence: str = "", limits: Limits | None = None
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Pages of one WARC or WET file (plain, gzip or zstd; any URI) as pairs of (`RAW` batch, ledger batch).

    Requests, metadata, revisits and resources are passed over. A response that is not a readable HTML page of status
    200 is a ledger row: `http_status`, `not_html`, `record_too_large`, `invalid_utf8` (WET) or `bad_record`.
    """
    limits = limits or Limits()
    columns = {"source": source, "crawl": crawl, "licence": licence, "warc_file": file_name(path)}
    fs, inner = storage.filesystem(path)
    with fs.open(inner, "rb") as file:
        yield from batches(read_records(file, columns, limits), limits)


def read_records(file: BinaryIO, columns: dict, limits: Limits, begin: int = 0) -> Iterator[dict]:
    """Rows (`schema.raw` and `schema.drop`) of an open file, as `read_warc` gives them.

    `columns` are those that the file itself cannot tell: `source`, `crawl`, `licence`, and `warc_file`, its name. `begin`
    is where `file` begins in that one, when it is a part that was cut out.
    """
    # A pass of the outer loop reads until a record breaks; the next begins at the member after.
    start = file.read(2)
    marker = STARTS.get(start, b"WARC/1.")
    position: int | None = 0
    found, broken = False, None
    while position is not None:
        file.seek(position)
        held = None  # the newest page, until what follows it shows that its length was right
        error = None
        records = 0
        try:
            for record in ArchiveIterator(file, parse_http=False, strict_mode=False):
                if held:
                    yield held[0]
                    held = None
                found = True
                if records == 0 and broken:
                    yield drop("bad_record", detail=broken)
                    broken = None
                records += 1
                position = record.stream_pos
                if not record.record_type & WANTED:
                    if "WARC-Record-ID" not in record.headers and record.record_type in UNTYPED:
                        error = f"{columns['warc_file']}: record at byte {position} has no readable header"
                        break
                    if record.consume() < record.content_length:
                        error = f"{columns['warc_file']}: record at byte {position} ends before its Content-Length"
                        break
                    continue
                identity = _identity(record, columns, begin)
                if record.content_length > limits.max_record_bytes:
                    yield _too_large(identity, record.content_length, limits)
                    error = ""  # on to the next member: the rest of this one need not be unpacked
                    break
                block = record.reader.read(record.content_length)
                if len(block) < record.content_length:
                    detail = f"{len(block)} bytes of {record.content_length}"
                    yield drop("bad_record", **identity, detail=f"record ends early: {detail}")
                    error = ""
                    break
                row = _row(record, block, identity, {**columns, "warc_offset": begin + record.stream_pos}, limits)
                held = (row, identity, record.headers.get("WARC-Block-Digest"), block) if row else None
        except (OSError, ValueError, EOFError) as problem:
            if storage.at_fault(problem):
                raise
            error = f"{columns['warc_file']}: after byte {position}: {problem}"
            if held and "rule" not in held[0] and "header" in str(problem) and not _digest_fits(held[2], held[3]):
                yield drop("bad_record", **held[1], detail="no record begins where its Content-Length says it ends")
                held, error = None, ""
        if held:
            yield held[0]
        if error is None:
            break
        broken = broken or error or None
        position = _next(file, marker, position + 1)
    if broken:
        yield drop("bad_record", detail=broken)
    elif start and not found:
        yield drop("bad_record", detail=f"{columns['warc_file']}: no WARC record in this file")


def _next(file: BinaryIO, marker: bytes, position: int, chunk_bytes: int = 1 << 20) -> int | None:
    """The first byte from `position` on where `marker` stands (`WARC/1.` only at the start of a line), or None."""
    pattern = b"\n" + marker if marker.startswith(b"WARC") else marker
    file.seek(position)
    tail = b""
    while chunk := file.read(chunk_bytes):
        window = tail + chunk
        at = window.find(pattern)
        if at >= 0:
            return position - len(tail) + at + len(pattern) - len(marker)
        position += len(chunk)
        tail = window[-len(pattern) + 1 :]
    return None


def _identity(record: WarcRecord, columns: dict, begin: int) -> dict:
    url = (record.headers.get("WARC-Target-URI") or "").strip().strip("<>")
    record_id = (record.headers.get("WARC-Record-ID") or "").strip()
    return {"record_id": record_id or f"{columns['warc_file']}:{begin + record.stream_pos}", "url": url}


def _too_large(identity: dict, n_bytes: int, limits: Limits) -> dict:
    return drop("record_too_large", **identity, value=n_bytes, threshold=limits.max_record_bytes)


def _digest_fits(header: str | None, block: bytes) -> bool:
    """Whether `WARC-Block-Digest` (`sha1:` with base32 or hexadecimal digits) is the digest of the block."""
    name, _, value = (header or "").partition(":")
    if name.lower() not in ("sha1", "sha256", "md5"):
        return False
    digest = hashlib.new(name.lower(), block, usedforsecurity=False).digest()
    return value.strip().lower() in (digest.hex(), base64.b32encode(digest).decode().lower())


def _row(record: WarcRecord, block: bytes, identity: dict, columns: dict, limits: Limits) -> dict | None:
    """The page or ledger row of one whole record; None for a response of another protocol (DNS)."""
    headers = record.headers
    columns = {
        **columns,
        "source_id": identity["record_id"],
        "fetched_at": headers.get("WARC-Date") or "",
    }
    if record.record_type == WarcRecordType.conversion:
        try:
            text = block.decode("utf-8")
        except UnicodeDecodeError as problem:
            return drop("invalid_utf8", **identity, detail=str(problem))
        hint = (headers.get("WARC-Identified-Content-Language") or "").split(",")[0].strip()
        return raw(**identity, **columns, content_type="text/plain", text=text, lang_hint=hint)
    if not (headers.get("Content-Type") or "").lower().startswith("application/http"):
        return None
    response = _http(block)
    if response is None:
        return drop("bad_record", **identity, detail="no HTTP status line")
    status, http, body = response
    if status != 200:
        return drop("http_status", **identity, value=status, threshold=200)
    media = http.get("content-type", "")
    content_type = media.partition(";")[0].strip().lower()
    try:
        payload = _decoded(body, http, limits.max_record_bytes)
    except (OSError, ValueError, zlib.error) as problem:
        return drop("bad_record", **identity, detail=f"content encoding: {problem}")
    if content_type not in HTML_TYPES and (content_type or not _looks_html(payload)):
        return drop("not_html", **identity, detail=content_type)
    if payload.startswith(BINARY_MAGIC):
        return drop("not_html", **identity, detail=f"{content_type} with the first bytes {payload[:4]!r}")
    if len(payload) > limits.max_record_bytes:
        return _too_large(identity, len(payload), limits)
    charset = re.search(r"charset\s*=\s*[\"']?\s*([\w.:-]+)", media, re.IGNORECASE)
    return raw(
        **identity,
        **columns,
        content_type=content_type or "text/html",
        charset_hint=charset[1].lower() if charset else "",
        payload=payload,
    )


def _http(block: bytes) -> tuple[int, dict[str, str], bytes] | None:
    """(status, headers by lower-case name, body) of an HTTP/1 response; None when it does not begin like one."""
    end = re.search(rb"\r?\n\r?\n", block)
    head = block[: end.start()] if end else block
    lines = head.decode("latin-1").split("\n")  # splitlines would end a line at 0x85 too
    status = re.match(r"HTTP/\d(?:\.\d)?\s+(\d{3})", lines[0])
    if not status:
        return None
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    return int(status[1]), headers, block[end.end() :] if end else b""


def _decoded(body: bytes, http: dict[str, str], max_bytes: int) -> bytes:
    """The body without transfer and content encoding, cut at `max_bytes` + 1 so that a bomb stays small.

    Many archives keep the headers of an encoding that they have already taken off (all of Common Crawl before 2018): an
    encoding is taken off only where the bytes begin like it.
    """
    transfer = _tokens(http.get("transfer-encoding", ""))
    if "chunked" in transfer:
        body = dechunked(body)
    encodings = _tokens(http.get("content-encoding", "")) + [t for t in transfer if t != "chunked"]
    for encoding in reversed(encodings[-3:]):
        if encoding in ("gzip", "x-gzip") and body.startswith(b"\x1f\x8b"):
            body = zlib.decompressobj(wbits=31).decompress(body, max_bytes + 1)
        elif encoding == "deflate" and not _looks_html(body):
            zlib_header = body[:1] == b"\x78" and int.from_bytes(body[:2], "big") % 31 == 0
            body = zlib.decompressobj(wbits=15 if zlib_header else -15).decompress(body, max_bytes + 1)
        elif encoding == "br" and not _looks_html(body):
            body = BrotliReader(io.BytesIO(body)).read(max_bytes + 1)
        elif encoding == "zstd" and body.startswith(b"\x28\xb5\x2f\xfd"):
            body = ZstdReader(io.BytesIO(body)).read(max_bytes + 1)
    return body


def _tokens(header: str) -> list[str]:
    return [token.strip().lower() for token in header.split(",") if token.strip()]


def dechunked(body: bytes) -> bytes:
    """The body without HTTP/1.1 chunk lines (RFC 9112 section 7.1); as it is when it does not begin with one."""
    chunks: list[bytes] = []
    at = 0
    while match := re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n").match(body, at):
        size = int(match[1], 16)
        if size == 0:
            return b"".join(chunks)
        chunks.append(body[match.end() : match.end() + size])
        at = match.end() + size
        at += 2 if body[at : at + 2] == b"\r\n" else int(body[at : at + 1] == b"\n")
    return b"".join(chunks) if chunks and at >= len(body) else body


def _looks_html(payload: bytes) -> bool:
    return re.match(rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|body|\?xml|!--)", payload, re.I) is not None
