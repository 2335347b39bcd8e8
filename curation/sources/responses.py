"""What a browser would show of an HTTP response: its body without encodings, its media type, its charset.

Headers lie. Archives keep those of encodings that they have taken off (all of Common Crawl before 2018), servers name an
encoding twice, or not at all. So bytes decide: an encoding comes off where the bytes have it. Without a usable Content-Type
the first bytes say whether it is a page (WHATWG, MIME Sniffing, section 7.1).
"""

from __future__ import annotations

import io
import re
import zlib
from functools import lru_cache
from typing import NamedTuple

from fastwarc.stream_io import BrotliReader

from curation.sources import containers

HTML_TYPES = {"text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml"}
XML_TYPES = {"text/xml", "application/xml"}
UNKNOWN_TYPES = {"", "unknown/unknown", "application/unknown", "*/*"}
BINARY_MAGIC = (b"%PDF", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"PK\x03\x04", b"RIFF", b"\x7fELF", b"\x1f\x8b")
LOOKED_AT = 2048
ENCODINGS = 8  # of one body
MARKUP = re.compile(
    rb"(?:\xef\xbb\xbf)?[\t\n\x0c\r ]*<(?:(?:!doctype\s+html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p)"
    rb"(?=[\s>/])|!--|\?xml)",
    re.IGNORECASE,
)
XHTML = re.compile(rb"<html\b[^>]{0,1000}xmlns\s*=\s*[\"']http://www\.w3\.org/1999/xhtml", re.IGNORECASE)
MEDIA_TYPE = re.compile(r"\s*([\w!#$&^.+*-]+/[\w!#$&^.+*-]+)")
CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:+-]+)", re.IGNORECASE)
HEAD_END = re.compile(rb"\r?\n\r?\n")
STATUS = re.compile(rb"HTTP/\d(?:\.\d)?[ \t]+(\d{3})", re.IGNORECASE)
NEEDED = re.compile(
    rb"\n(content-type|content-encoding|transfer-encoding)[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)", re.IGNORECASE
)
CHUNK_LINE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")


class Response(NamedTuple):
    """`headers` are those of `NEEDED` by lower-case name; those of one name are one value with commas (RFC 9110)."""

    status: int
    headers: dict[str, str]
    body: bytes


def parse(block: bytes) -> Response | None:
    """An HTTP response; None when the bytes do not begin like one."""
    end = HEAD_END.search(block)
    head = block[: end.start()] if end else block
    status = STATUS.match(head)
    if not status:
        return None
    headers: dict[str, str] = {}
    for name, value in NEEDED.findall(head):
        key, text = name.decode().lower(), value.decode("latin-1").strip()
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return Response(int(status[1]), headers, block[end.end() :] if end else b"")


@lru_cache(4096)
def media_type(header: str) -> tuple[str, str]:
    """(type, charset) of a Content-Type in lower case, empty where it names none (WHATWG Fetch, "extract a MIME type").

    Of several values the last that is a type counts; it keeps the charset of the one before if that is the same type.
    """
    essence = charset = ""
    for value in re.split(r",(?=(?:[^\"]*\"[^\"]*\")*[^\"]*$)", header[:1000]):
        found = MEDIA_TYPE.match(value)
        said = CHARSET.search(value)
        if found and found[1] != "*/*":
            if found[1].lower() != essence:
                essence, charset = found[1].lower(), ""
            charset = said[1].lower() if said else charset
        elif said and not charset:
            charset = said[1].lower()
    return essence, charset


def decoded(response: Response, max_bytes: int) -> tuple[bytes, bool]:
    """The body without transfer and content encoding, cut at `max_bytes` + 1 so that a bomb stays small; and whether it ends
    amid one of them.

    Raises ValueError for an encoding that breaks off amid a body that is no text without it.
    """
    body, early = response.body, False
    transfer = _tokens(response.headers.get("transfer-encoding", ""))
    if "chunked" in transfer:
        body, early = dechunked(body)
    named = _tokens(response.headers.get("content-encoding", "")) + [t for t in transfer if t != "chunked"]
    for encoding in reversed(named[-ENCODINGS:]):
        if encoding in {"br", "deflate"} and not is_text(body) and containers.kind(body[:10]) is None:
            body, cut = _without(body, encoding, max_bytes + 1)
        else:
            body, cut = _unpacked(body, max_bytes + 1)
        early = early or cut
    for _ in range(ENCODINGS):
        if containers.kind(body[:10]) not in {"gzip", "zstd"}:
            break
        body, cut = _unpacked(body, max_bytes + 1)
        early = early or cut
    return body, early


def _without(body: bytes, encoding: str, max_bytes: int) -> tuple[bytes, bool]:
    """A body out of an encoding that has no mark of its own, and whether that ends early (brotli's reader raises then)."""
    try:
        if encoding == "br":
            return BrotliReader(io.BytesIO(body)).read(max_bytes), False
        zlib_header = body[:1] == b"\x78" and int.from_bytes(body[:2], "big") % 31 == 0
        inflate = zlib.decompressobj(wbits=15 if zlib_header else -15)
        return inflate.decompress(body, max_bytes), not (inflate.eof or inflate.unconsumed_tail)
    except (OSError, ValueError, zlib.error) as problem:
        if looks_html(body):
            return body, False
        raise ValueError(f"{encoding}: {problem}") from None


def _unpacked(body: bytes, max_bytes: int) -> tuple[bytes, bool]:
    return containers.whole(body, max_bytes) if containers.kind(body[:10]) in {"gzip", "zstd"} else (body, False)


def _tokens(header: str) -> list[str]:
    return [token.strip().lower() for token in header.split(",") if token.strip()]


def dechunked(body: bytes) -> tuple[bytes, bool]:
    """The body without HTTP/1.1 chunk lines (RFC 9112 section 7.1), and whether it ends before the last one, which is empty.
    As it is when it does not begin with one."""
    chunks: list[bytes] = []
    at = 0
    while match := CHUNK_LINE.match(body, at):
        size = int(match[1], 16)
        if size == 0:
            return b"".join(chunks), False
        chunks.append(body[match.end() : match.end() + size])
        at = match.end() + size
        at += 2 if body[at : at + 2] == b"\r\n" else int(body[at : at + 1] == b"\n")
    return (b"".join(chunks), True) if chunks and at >= len(body) else (body, False)


def is_text(payload: bytes) -> bool:
    """Whether nothing in the first bytes is binary, or they are UTF-16."""
    begin = payload[:LOOKED_AT]
    return len(begin.translate(None, containers.BINARY_BYTES)) == len(begin) or _wide(begin)


def is_binary(payload: bytes) -> bool:
    """Whether the bytes are no page in any encoding: another kind of file, or what is left of a packed one."""
    begin = payload[:LOOKED_AT]
    many = len(begin) - len(begin.translate(None, containers.BINARY_BYTES)) > 0.05 * max(len(begin), 64)
    return payload.startswith(BINARY_MAGIC) or (many and not _wide(begin))


def is_pdf(payload: bytes) -> bool:
    """Whether this is a PDF, whatever a server calls it; some bytes may stand before it (ISO 32000, annex H)."""
    return b"%PDF-" in payload[:1024]


def _wide(begin: bytes) -> bool:
    """Whether this looks like UTF-16: a byte order mark, or tags with a zero beside each letter."""
    return begin.startswith((b"\xff\xfe", b"\xfe\xff")) or b"<\0" in begin or b"\0<" in begin


def looks_html(payload: bytes) -> bool:
    """Whether a browser that knows no type takes this for a page."""
    if payload.startswith((b"\xff\xfe", b"\xfe\xff")):
        name = "utf-16-le" if payload[0] == 0xFF else "utf-16-be"
        payload = payload[2:1024].decode(name, "ignore").encode()
    return MARKUP.match(payload) is not None


def is_page(content_type: str, payload: bytes) -> bool:
    """Whether a browser shows this as a page."""
    if content_type in HTML_TYPES:
        return True
    if content_type in XML_TYPES:
        return XHTML.search(payload, 0, LOOKED_AT) is not None
    return content_type in UNKNOWN_TYPES and looks_html(payload)
