"""Read documents that are not in archives: JSON lines, Parquet, Hugging Face data sets, and saved HTML pages.

Rows with a text give `RAW` rows with `text`; a saved page gives one with `payload`, and goes through extraction like
any other. A row that cannot be used is a ledger row: `invalid_utf8`, `invalid_json`, `missing_text`, `empty`,
`record_too_large`, and `bad_record` when the file itself breaks.
"""

from __future__ import annotations

import gzip
import html
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa

from cluster import storage
from curation.schema import Limits, batches, drop, file_name, raw

Pairs = Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]


@dataclass(frozen=True)
class Origin:
    """A source of rows and the names of its columns; `EXTRA` columns are taken where a row has them."""

    source: str
    licence: str
    limits: Limits
    text: str
    id: str
    url: str
    lang: str

    EXTRA = ("title", "licence", "license", "fetched_at")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.text, self.id, self.url, self.lang, *self.EXTRA)))


def read_jsonl(
    path: str,
    *,
    source: str,
    licence: str = "",
    limits: Limits | None = None,
    text_field: str = "text",
    id_field: str = "id",
    url_field: str = "url",
    lang_field: str = "lang",
) -> Pairs:
    """One JSON object a line, in UTF-8; `.gz` and `.zst` are unpacked. A line is never held beyond `max_line_bytes`."""
    limits = limits or Limits()
    origin = Origin(source, licence, limits, text_field, id_field, url_field, lang_field)
    fs, inner = storage.filesystem(path)
    with fs.open(inner, "rb") as file, _unpacked(file, path) as stream:
        yield from batches(_json_rows(stream, file_name(path), origin), limits)


def read_parquet(
    path: str,
    *,
    source: str,
    licence: str = "",
    limits: Limits | None = None,
    text_field: str = "text",
    id_field: str = "id",
    url_field: str = "url",
    lang_field: str = "lang",
) -> Pairs:
    """One Parquet file, read by row groups. Raises ValueError when it has no column `text_field`."""
    limits = limits or Limits()
    origin = Origin(source, licence, limits, text_field, id_field, url_field, lang_field)
    yield from batches(_parquet_rows(path, origin), limits)


def read_hf(
    path: str,
    *,
    source: str,
    licence: str = "",
    limits: Limits | None = None,
    split: str = "train",
    text_field: str = "text",
    id_field: str = "id",
    url_field: str = "url",
    lang_field: str = "lang",
) -> Pairs:
    """A Hugging Face data set, streamed: `owner/name` or `owner/name:configuration` on the hub, or a local folder."""
    from datasets import load_dataset  # seconds to import, and only this reader needs it

    limits = limits or Limits()
    origin = Origin(source, licence, limits, text_field, id_field, url_field, lang_field)
    name, _, configuration = path.partition(":")
    dataset = load_dataset(name, configuration or None, split=split, streaming=True)
    rows = ((f"{path}:{split}:{number}", row) for number, row in enumerate(dataset))
    yield from batches(_document_rows(rows, origin), limits)


def read_html(path: str, *, source: str, licence: str = "", limits: Limits | None = None) -> Pairs:
    """One saved page. Its URL is that of `<link rel=canonical>`, else the file's name."""
    limits = limits or Limits()
    fs, inner = storage.filesystem(path)
    with fs.open(inner, "rb") as file:
        payload = file.read(limits.max_record_bytes + 1)
    name = file_name(path)
    if len(payload) > limits.max_record_bytes:
        n_bytes = storage.size(path)
        row = drop("record_too_large", record_id=name, value=n_bytes, threshold=limits.max_record_bytes)
    else:
        url = _canonical(payload) or name
        row = raw(f"{source}:{name}", url, source=source, source_id=name, licence=licence, payload=payload)
        row["content_type"] = "text/html"
    yield from batches([row], limits)


def _canonical(payload: bytes) -> str:
    for link in re.findall(rb"<link\s[^>]{0,2000}>", payload[:262_144], re.IGNORECASE):
        if re.search(rb"\srel\s*=\s*[\"']?canonical\b", link, re.IGNORECASE):
            href = re.search(rb"\shref\s*=\s*(?:\"([^\"]+)\"|'([^']+)'|([^\s>]+))", link, re.IGNORECASE)
            if href:
                return html.unescape(next(group for group in href.groups() if group).decode("utf-8", "replace")).strip()
    return ""


def _unpacked(file: BinaryIO, path: str) -> BinaryIO | gzip.GzipFile:
    if path.endswith(".gz"):
        return gzip.GzipFile(fileobj=file)
    if path.endswith(".zst"):
        return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")
    return file


def _json_rows(stream: BinaryIO | gzip.GzipFile, name: str, origin: Origin) -> Iterator[dict]:
    source, max_bytes = origin.source, origin.limits.max_line_bytes
    number = 0
    for line, n_bytes in _lines(stream, max_bytes):
        number += 1
        where = f"{name}:{number}"
        if isinstance(line, str):
            yield drop("bad_record", detail=f"{name}: after line {number - 1}: {line}")
        elif n_bytes > max_bytes:
            yield drop("record_too_large", record_id=f"{source}:{where}", value=n_bytes, threshold=max_bytes)
        elif line.strip():
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError as problem:
                yield drop("invalid_utf8", record_id=f"{source}:{where}", detail=f"{where}: {problem}")
                continue
            except (ValueError, RecursionError) as problem:
                yield drop("invalid_json", record_id=f"{source}:{where}", detail=f"{where}: {problem}")
                continue
            if not isinstance(row, dict):
                yield drop("invalid_json", record_id=f"{source}:{where}", detail=f"{where}: not an object")
                continue
            yield from _document_rows([(where, row)], origin)


def _lines(stream: BinaryIO | gzip.GzipFile, max_bytes: int) -> Iterator[tuple[bytes | str, int]]:
    """(line, its bytes), of a line beyond `max_bytes` not the whole; (error message, 0) when the stream breaks."""
    read = getattr(stream, "read1", stream.read)  # of a gzip file that breaks, `read` would lose what came before
    buffer, skipped = b"", 0  # `skipped`: bytes of the present line that were let go
    while True:
        try:
            chunk = read(1 << 18)
        except (OSError, EOFError, zlib.error) as problem:
            if storage.at_fault(problem):
                raise
            yield str(problem), 0
            return
        if not chunk:
            break
        *whole, rest = (buffer + chunk).split(b"\n")
        for line in whole:
            yield line, len(line) + skipped
            skipped = 0
        if skipped or len(rest) > max_bytes:
            skipped += len(rest)
            rest = b""
        buffer = rest
    if buffer or skipped:
        yield buffer, len(buffer) + skipped


def _parquet_rows(path: str, origin: Origin) -> Iterator[dict]:
    name = file_name(path)
    fs, inner = storage.filesystem(path)
    number = 0
    with fs.open(inner, "rb") as file:
        try:
            parquet = storage.ParquetOfPython(file)
        except (OSError, pa.ArrowException) as problem:
            if storage.at_fault(problem):
                raise
            yield drop("bad_record", detail=f"{name}: {problem}")
            return
        columns = [c for c in origin.columns if c in parquet.schema_arrow.names]
        if origin.text not in columns:
            raise ValueError(f"{path} has no column {origin.text!r}: it has {', '.join(parquet.schema_arrow.names)}")
        try:
            for batch in parquet.iter_batches(origin.limits.batch_rows, columns=columns):
                # Parquet does not promise UTF-8: strings are taken as bytes and decoded one by one where it is broken.
                rows = _pylist(batch)
                numbered = ((f"{name}:{number + i}", row) for i, row in enumerate(rows))
                yield from _document_rows(numbered, origin)
                number += len(rows)
        except (OSError, pa.ArrowException) as problem:
            if storage.at_fault(problem):
                raise
            yield drop("bad_record", detail=f"{name}: after row {number}: {problem}")


def _pylist(batch: pa.RecordBatch) -> list[dict]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        binary = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
        schema = pa.schema([(f.name, binary.get(f.type, f.type)) for f in batch.schema])
        return batch.cast(schema).to_pylist()


def _document_rows(rows: Iterable[tuple[str, dict]], origin: Origin) -> Iterator[dict]:
    """`RAW` or ledger rows of (place in the source, row) pairs. A row without an id has its place as its id."""
    source, max_bytes = origin.source, origin.limits.max_record_bytes
    for where, row in rows:
        try:
            row = {key: _text(row.get(key)) for key in origin.columns}
        except UnicodeError as problem:
            yield drop("invalid_utf8", record_id=f"{source}:{where}", detail=f"{where}: {problem}")
            continue
        source_id, url, text = row[origin.id] or where, row[origin.url] or "", row[origin.text]
        identity = {"record_id": f"{source}:{source_id}", "url": url}
        if text is None:
            yield drop("missing_text", **identity, detail=f"{where}: no {origin.text!r}")
        elif not text.strip():
            yield drop("empty", **identity, value=len(text), threshold=1)
        elif len(text) * 4 > max_bytes and len(text.encode()) > max_bytes:
            yield drop("record_too_large", **identity, value=len(text.encode()), threshold=max_bytes)
        else:
            yield raw(
                **identity,
                source=source,
                source_id=source_id,
                fetched_at=row["fetched_at"] or "",
                content_type="text/plain",
                lang_hint=row[origin.lang] or "",
                licence=row["licence"] or row["license"] or origin.licence,
                text=text,
                title=row["title"] or "",
            )


def _text(value: object) -> str | None:
    """A string or number as valid Unicode text; None for anything else. Raises UnicodeError for what is not UTF-8."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, str):
        value.encode("utf-8")  # a lone surrogate, as JSON's \ud800 gives, is not text
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None
