"""Tables at the input side of curation, and how a source reader hands them on.

A reader yields pairs (batch of `RAW`, batch of ledger rows), so small that memory is bounded whatever a file holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import xxhash

from cluster import storage
from cluster.shards import LEDGER, ledger_rows

RAW = pa.schema(
    [
        ("doc_id", pa.string()),
        ("url", pa.string()),
        ("source", pa.string()),
        ("source_id", pa.string()),
        ("crawl", pa.string()),
        ("warc_file", pa.string()),
        ("warc_offset", pa.int64()),
        ("fetched_at", pa.string()),
        ("published", pa.string()),
        ("content_type", pa.string()),
        ("charset_hint", pa.string()),
        ("lang_hint", pa.string()),
        ("licence", pa.string()),
        ("truncated", pa.string()),
        ("payload", pa.binary()),
        ("text", pa.string()),
        ("title", pa.string()),
    ]
)
"""A record as its source has it: `payload` for HTML (bytes after transfer and content decoding), PDF and wikitext, else
`text`. `fetched_at` is when it was crawled; `published` the day its publisher gives (`YYYY-MM-DD`), empty when unknown.
`truncated` says why the page is not all there: what `WARC-Truncated` has (`length`, `time`, `disconnect`, `unspecified`),
or `body` where the bytes end amid an encoding; of a PDF how many pages have no text (`scanned: 3 of 12 pages`). Empty
where they are whole."""

DOCUMENT = pa.schema(
    [
        (name, RAW.field(name).type if name in RAW.names else pa.string())
        for name in (
            *("doc_id", "url", "source", "source_id", "crawl", "warc_file", "warc_offset", "fetched_at", "published"),
            *("lang_hint", "licence", "truncated", "title", "form", "text"),
        )
    ]
)
"""A document with its text, and in `form` what putting that in one form took (`curation.text.form`): nothing (empty),
`normalised` or `zawgyi`. Later stages append columns."""

PDF, WIKI = "application/pdf", "text/x-wiki"
"""Content types of payloads that are no HTML."""

STAGE = "crawl"
_BLANK = {name: None if name in {"warc_offset", "payload", "text"} else "" for name in RAW.names}


@dataclass(frozen=True)
class Limits:
    """The most that a reader takes: a record or line above its limit is a ledger row, a batch is cut at its own."""

    max_record_bytes: int = 10_000_000
    max_line_bytes: int = 10_000_000
    batch_rows: int = 256
    batch_bytes: int = 16_000_000


def doc_id(record_id: str, url: str) -> str:
    """xxh3-128 of the record's id and its URL, 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(f"{record_id}\n{url}".encode("utf-8", "replace"))


def file_name(uri: str) -> str:
    """How a record names its file: the whole URI, or for a file of this machine its name without the folder."""
    return uri.rsplit("/", 1)[-1] if storage.is_local(uri) else uri


def raw(record_id: str, url: str, **columns) -> dict:
    """One `RAW` row; columns left out are empty strings, or null where null means "none"."""
    return {**_BLANK, "doc_id": doc_id(record_id, url), "url": url, **columns}


def drop(rule: str, *, record_id: str = "", url: str = "", value=None, threshold=None, detail: str = "") -> dict:
    """One ledger row of a reader. Without a record id (a file that broke between records) it has no `doc_id`."""
    return {
        "doc_id": doc_id(record_id, url) if record_id else None,
        "url": url or None,
        "rule": rule,
        "value": None if value is None else float(value),  # a header may say more than an int64 holds
        "threshold": threshold,
        "detail": detail[:500] or None,
    }


def batches(rows: Iterable[dict], limits: Limits) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Cut a stream of `raw` and `drop` rows into pairs of batches; an empty stream gives one empty pair."""
    kept: list[dict] = []
    dropped: list[dict] = []
    n_bytes = 0
    sent = False

    def pair() -> tuple[pa.RecordBatch, pa.RecordBatch]:
        return pa.RecordBatch.from_pylist(kept, schema=RAW), ledger_rows(STAGE, dropped)

    for row in rows:
        if "rule" in row:
            dropped.append(row)
        else:
            kept.append(row)
            n_bytes += len(row["payload"] or b"") + 4 * len(row["text"] or "")
        if len(kept) + len(dropped) >= limits.batch_rows or n_bytes >= limits.batch_bytes:
            yield pair()
            kept, dropped, n_bytes, sent = [], [], 0, True
    if kept or dropped or not sent:
        yield pair()


__all__ = ["DOCUMENT", "LEDGER", "PDF", "RAW", "WIKI", "Limits", "batches", "doc_id", "drop", "file_name", "raw"]
