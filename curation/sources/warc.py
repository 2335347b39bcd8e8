"""Read WARC files (ISO 28500): HTTP responses with HTML, saved pages, and the plain-text conversions of WET files.

A file may be plain or packed in any way that `curation.sources.containers` knows, with one record a member or many. Every
record that holds content is a page or a ledger row, and a broken one costs itself and not the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from cluster import storage
from curation.schema import Limits, batches, drop, file_name, raw
from curation.sources import responses
from curation.sources.records import ABOUT_OTHERS, Record, Records, Trouble

HTML = "text/html"


def read_warc(
    path: str,
    *,
    source: str,
    crawl: str = "",
    licence: str = "",
    limits: Limits | None = None,
    name: str | None = None,
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Pages of one WARC or WET file (any URI) as pairs of (`RAW` batch, ledger batch).

    `ABOUT_OTHERS` are passed over. Every other record that is no readable HTML page of status 200 and no text is a ledger
    row: `http_status`, `not_html`, `record_too_large`, `invalid_utf8` (WET) or `bad_record`. `name` tells the file from the
    others of its source; without it the path does.
    """
    limits = limits or Limits()
    columns = {"source": source, "crawl": crawl, "licence": licence, "warc_file": name or file_name(path)}
    with storage.opened(path) as file:
        yield from batches(read_records(file, columns, limits, place=f"{source}:{name or path}"), limits)


def read_records(
    file: BinaryIO, columns: dict, limits: Limits, begin: int = 0, place: str = "", *, wanted: str = HTML
) -> Iterator[dict]:
    """Rows (`schema.raw` and `schema.drop`) of an open file, as `read_warc` gives them.

    `columns` are those that the file itself cannot tell: `source`, `crawl`, `licence`, and `warc_file`, its name. `begin`
    is where `file` begins in that one, when it is a part that was cut out. `place` names the file in the `doc_id` of records
    without an id of their own; `warc_file` does where it is not given. `wanted` is `text/html`, or `application/pdf`: then all
    that is no PDF is `not_pdf`.
    """
    name = columns["warc_file"]
    one = None
    for one in Records(file, limits.max_record_bytes):
        offset = begin + one.offset
        if one.headers is None:
            yield drop("bad_record", detail=f"{name}: from byte {offset} on: {one.detail}")
            continue
        url = one.headers.get("warc-target-uri", "").strip("<> ")
        at = f"{offset}+{one.within}" if one.within else f"{offset}"
        record_id = one.headers.get("warc-record-id", "")
        identity = {"record_id": record_id or f"{place or name}:{at}", "url": url}
        if isinstance(one, Trouble):
            yield drop("bad_record", **identity, detail=one.detail)
            continue
        if one.headers.get("warc-type", "").lower() in ABOUT_OTHERS:
            continue
        if one.block is None:
            yield drop("record_too_large", **identity, value=one.n_bytes, threshold=limits.max_record_bytes)
            continue
        own = {"warc_offset": offset, "source_id": record_id or f"{name}:{at}"}
        own["fetched_at"] = one.headers.get("warc-date", "")
        own["truncated"] = one.headers.get("warc-truncated", "").lower()
        yield _row(one, one.block, identity, {**columns, **own}, limits, wanted=wanted)
    if one is None:
        yield drop("bad_record", detail=f"{name}: nothing is in this file")


def _row(record: Record, block: bytes, identity: dict, columns: dict, limits: Limits, *, wanted: str) -> dict:
    """The page or ledger row of one whole record."""
    headers = record.headers
    kind = headers.get("warc-type", "").lower()
    if headers.get("warc-segment-number", "1") != "1" or kind == "continuation":
        return drop("bad_record", **identity, detail="a part of a record that is in several")
    content_type, charset = responses.media_type(headers.get("content-type", ""))
    response = responses.parse(block)
    if kind == "revisit":
        return drop("not_html", **identity, detail=f"revisit of {headers.get('warc-refers-to-target-uri', 'a page')}")
    if kind == "conversion" and content_type not in responses.HTML_TYPES:
        if content_type and not content_type.startswith("text/"):
            return drop("not_html", **identity, detail=content_type)
        return _text(headers, block, identity, columns)
    if response is None:
        if content_type == "application/http":
            return drop("bad_record", **identity, detail="no HTTP status line")
        if kind not in {"response", "resource", "conversion"}:
            return drop("not_html", **identity, detail=f"a record of type {kind or 'none'}")
        payload = block
    else:
        if response.status != 200:
            return drop("http_status", **identity, value=response.status, threshold=200)
        content_type, charset = responses.media_type(response.headers.get("content-type", ""))
        try:
            payload, early = responses.decoded(response, limits.max_record_bytes)
        except ValueError as problem:
            return drop("bad_record", **identity, detail=f"content encoding: {problem}")
        if early and not columns["truncated"]:
            columns = {**columns, "truncated": "body"}
    if len(payload) > limits.max_record_bytes:
        return drop("record_too_large", **identity, value=len(payload), threshold=limits.max_record_bytes)
    if wanted != HTML:
        if not responses.is_pdf(payload):
            return drop("not_pdf", **identity, detail=content_type)
        return raw(**identity, **columns, content_type=wanted, payload=payload)
    if not responses.is_page(content_type, payload):
        return drop("not_html", **identity, detail=content_type)
    if responses.is_binary(payload):
        return drop("not_html", **identity, detail=f"{content_type} with the first bytes {payload[:4]!r}")
    content_type = content_type if content_type in responses.HTML_TYPES else "text/html"
    return raw(**identity, **columns, content_type=content_type, charset_hint=charset, payload=payload)


def _text(headers: dict[str, str], block: bytes, identity: dict, columns: dict) -> dict:
    """The row of a conversion to plain text, as WET files hold them: in UTF-8."""
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError as problem:
        return drop("invalid_utf8", **identity, detail=str(problem))
    hint = headers.get("warc-identified-content-language", "").split(",")[0].strip()
    return raw(**identity, **columns, content_type="text/plain", text=text, lang_hint=hint)
