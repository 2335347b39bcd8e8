"""Read documents that are not in archives: JSON lines, Parquet, Hugging Face data sets, and saved HTML pages.

Rows with a text give `RAW` rows with `text`; a saved page gives one with `payload`, and goes through extraction like
any other. A row that cannot be used is a ledger row: `invalid_utf8`, `invalid_json`, `missing_text`, `empty`,
`record_too_large`, and `bad_record` when the file itself breaks. Only its text decides: what is wrong with a title, an id
or a date costs that alone.

Each reader takes a `name` that tells the file from the others of its source: rows without an id of their own get their
`doc_id` from it. Without it the path does that.
"""

from __future__ import annotations

import datetime
import html
import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import storage
from curation.schema import Limits, batches, drop, file_name, raw
from curation.sources.containers import BROKEN, BYTES, unpacked
from curation.sources.lines import lines
from curation.sources.responses import LOOKED_AT, is_binary

PARQUET_ROWS = 64  # decoded at a time, at most
PARQUET_BYTES = 8_000_000  # and about so many
PACKED_BYTES = 32_000_000  # of a column that is read as values that repeat

Pairs = Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]


@dataclass(frozen=True)
class Origin:
    """A source of rows and the names of its columns; `EXTRA` columns are taken where a row has them. `name` is how rows name
    their file, `place` what tells it from all others of the source."""

    name: str
    place: str
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
    name: str | None = None,
) -> Pairs:
    """One JSON object a line, in UTF-8 (or UTF-16 with a byte order mark), packed in any way that `containers` knows. A line
    is never held beyond `max_line_bytes`."""
    limits = limits or Limits()
    names = (name or file_name(path), name or path)
    origin = Origin(*names, source, licence, limits, text_field, id_field, url_field, lang_field)
    with storage.opened(path) as file:
        yield from batches(_json_rows(file, origin), limits)


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
    name: str | None = None,
) -> Pairs:
    """One Parquet file, read by row groups. Raises ValueError when it has no column `text_field`."""
    limits = limits or Limits()
    names = (name or file_name(path), name or path)
    origin = Origin(*names, source, licence, limits, text_field, id_field, url_field, lang_field)
    with storage.opened(path) as file:
        yield from batches(_parquet_rows(file, path, origin), limits)


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
    name: str | None = None,
) -> Pairs:
    """A Hugging Face data set, streamed: `owner/name` or `owner/name:configuration` on the hub, or a local folder."""
    from datasets import load_dataset  # seconds to import, and only this reader needs it

    limits = limits or Limits()
    of_split = f"{name or path}:{split}"
    origin = Origin(of_split, of_split, source, licence, limits, text_field, id_field, url_field, lang_field)
    path, _, configuration = path.partition(":")

    def rows() -> Iterator[dict]:
        number = 0
        try:
            for row in load_dataset(path, configuration or None, split=split, streaming=True):
                yield from _document_rows([(number, row)], origin)
                number += 1
        except (UnicodeError, pa.ArrowException) as problem:
            if storage.at_fault(problem):
                raise
            yield drop("bad_record", detail=f"{of_split}: after row {number}: {problem}")

    yield from batches(rows(), limits)


def read_html(
    path: str, *, source: str, licence: str = "", limits: Limits | None = None, name: str | None = None
) -> Pairs:
    """One saved page, also a packed one. Its URL is that of `<link rel=canonical>`, else the file's name."""
    limits = limits or Limits()
    shown, record_id = name or file_name(path), f"{source}:{name or path}"
    payload = bytearray()
    problem = ""
    with storage.opened(path) as file:
        for event, value in unpacked(file):
            if event in BYTES:
                payload += value
            problem = problem or (value if event == BROKEN else "")
            if len(payload) > limits.max_record_bytes:
                break
    if len(payload) > limits.max_record_bytes:
        n_bytes = max(len(payload), storage.size(path))
        row = drop("record_too_large", record_id=record_id, value=n_bytes, threshold=limits.max_record_bytes)
    elif problem:
        row = drop("bad_record", record_id=record_id, detail=f"{shown}: {problem}")
    elif is_binary(bytes(payload[:LOOKED_AT])):
        row = drop("not_html", record_id=record_id, detail=f"{shown} with the first bytes {bytes(payload[:4])!r}")
    else:
        url = _canonical(bytes(payload[:262_144])) or shown
        row = raw(record_id, url, source=source, source_id=shown, licence=licence, payload=bytes(payload))
        row["content_type"] = "text/html"
    yield from batches([row], limits)


def _canonical(payload: bytes) -> str:
    for link in re.findall(rb"<link\s[^>]{0,2000}>", payload[:262_144], re.IGNORECASE):
        if re.search(rb"\srel\s*=\s*[\"']?canonical\b", link, re.IGNORECASE):
            href = re.search(rb"\shref\s*=\s*(?:\"([^\"]+)\"|'([^']+)'|([^\s>]+))", link, re.IGNORECASE)
            if href:
                return html.unescape(next(group for group in href.groups() if group).decode("utf-8", "replace")).strip()
    return ""


def _json_rows(file: BinaryIO, origin: Origin) -> Iterator[dict]:
    source, max_bytes = origin.source, origin.limits.max_line_bytes
    number = 0
    for line, n_bytes in lines(file, max_bytes):
        number += 1
        where, record_id = f"{origin.name}:{number}", f"{source}:{origin.place}:{number}"
        if isinstance(line, str):
            number -= 1
            yield drop("bad_record", detail=f"{origin.name}: after line {number}: {line}")
        elif n_bytes > max_bytes:
            yield drop("record_too_large", record_id=record_id, value=n_bytes, threshold=max_bytes)
        elif line.strip():
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError as problem:
                yield drop("invalid_utf8", record_id=record_id, detail=f"{where}: {problem}")
                continue
            except (ValueError, RecursionError) as problem:
                yield drop("invalid_json", record_id=record_id, detail=f"{where}: {problem}")
                continue
            if not isinstance(row, dict):
                yield drop("invalid_json", record_id=record_id, detail=f"{where}: not an object")
                continue
            yield from _document_rows([(number, row)], origin)


def _parquet_rows(file: BinaryIO, path: str, origin: Origin) -> Iterator[dict]:
    """Rows group by group: where one breaks, its text alone is tried, and reading goes on at the next."""
    name = origin.name
    try:
        parquet = storage.ParquetOfPython(file)
        names = parquet.schema_arrow.names
        file_metadata = parquet.metadata
    except (OSError, pa.ArrowException, UnicodeDecodeError) as problem:
        if storage.at_fault(problem):
            raise
        yield drop("bad_record", detail=f"{name}: {problem}")
        return
    columns = [c for c in origin.columns if c in names]
    if origin.text not in columns:
        raise ValueError(f"{path} has no column {origin.text!r}: it has {', '.join(names)}")
    begin = 0
    for group in range(file_metadata.num_row_groups):
        n_rows = file_metadata.row_group(group).num_rows
        done = 0
        failure: Exception | None = None
        packed = sorted(_dictionaries(file_metadata.row_group(group)) & set(columns))
        parquet = storage.ParquetOfPython(file, metadata=file_metadata, read_dictionary=packed)
        for chosen in (columns, [origin.text]):
            try:
                seen = 0
                for batch in parquet.iter_batches(
                    _rows_at_once(file_metadata, group), row_groups=[group], columns=chosen
                ):
                    rows = _rows(batch.slice(max(0, done - seen)), chosen)
                    seen += batch.num_rows
                    for row in rows:
                        yield from _document_rows([(begin + done, row)], origin)
                        done += 1
                failure = None
                break
            except (OSError, pa.ArrowException) as error:
                if storage.at_fault(error):
                    raise
                failure = error
        if failure:
            yield drop("bad_record", detail=f"{name}: after row {begin + done}: {failure}")
        begin += n_rows


def _dictionaries(group: pq.RowGroupMetaData) -> set[str]:
    """Names of the columns of bytes that are kept as what they may be, few values that repeat: written out, a small file may
    hold gigabytes. A large one of them mostly holds values that do not."""
    columns = [group.column(number) for number in range(group.num_columns)]
    return {
        column.path_in_schema
        for column in columns
        if column.physical_type == "BYTE_ARRAY"
        and column.total_uncompressed_size <= PACKED_BYTES
        and any("DICTIONARY" in name for name in column.encodings)
    }


def _rows_at_once(metadata: pq.FileMetaData, group: int) -> int:
    """How many rows of a group are decoded together, by their average size."""
    of = metadata.row_group(group)
    return max(1, min(PARQUET_ROWS, PARQUET_BYTES * max(1, of.num_rows) // max(1, of.total_byte_size)))


def _rows(batch: pa.RecordBatch, names: list[str]) -> Iterator[dict]:
    """The rows of a batch, one after another."""
    columns = {name: _values(batch.column(batch.schema.get_all_field_indices(name)[0])) for name in names}
    for row in range(batch.num_rows):
        yield {name: value(row) for name, value in columns.items()}


def _values(column: pa.Array) -> Callable[[int], object]:
    """What gives the value of a row of a column of any type: a string, bytes where a string is no UTF-8, a whole number;
    None for all else."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    type_ = column.type
    if pa.types.is_dictionary(type_):
        value, numbers = _values(column.dictionary), column.indices.to_pylist()
        return lambda row: None if numbers[row] is None else value(numbers[row])
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        return _dates(column).__getitem__
    view = {
        pa.string(): pa.binary(),
        pa.large_string(): pa.large_binary(),
        pa.string_view(): pa.binary_view(),
    }.get(type_)
    if view:
        column = column.view(view)
        return lambda row: _utf8(column[row].as_py())
    binary = type_ in {pa.binary(), pa.large_binary(), pa.binary_view()} or pa.types.is_fixed_size_binary(type_)
    if binary or pa.types.is_integer(type_):
        return lambda row: column[row].as_py()
    return lambda row: None


def _utf8(value: bytes | None) -> str | bytes | None:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _dates(column: pa.Array) -> list[str | None]:
    """Points in time as text, in UTC: ISO 8601."""
    if pa.types.is_timestamp(column.type) and column.type.tz:
        column = column.cast(pa.timestamp(column.type.unit))
    texts = pc.cast(column, pa.string()).to_pylist()  # what is out of range begins with no digit
    known = [text if text and text[0].isdigit() else None for text in texts]
    return [text and re.sub(r"\.0+$", "", text).replace(" ", "T") + "Z" * (len(text) > 10) for text in known]


def _document_rows(rows: Iterable[tuple[int, dict]], origin: Origin) -> Iterator[dict]:
    """`RAW` or ledger rows of (number in the file, row) pairs. A row without an id has its place as its id."""
    source, max_bytes = origin.source, origin.limits.max_record_bytes
    for number, found in rows:
        where = f"{origin.name}:{number}"
        row = {key: _side(found.get(key)) for key in origin.columns if key != origin.text}
        source_id, url = row.get(origin.id) or where, row.get(origin.url) or ""
        place = source_id if row.get(origin.id) else f"{origin.place}:{number}"
        identity = {"record_id": f"{source}:{place}", "url": url}
        try:
            text = _text(found.get(origin.text))
        except UnicodeError as problem:
            yield drop("invalid_utf8", **identity, detail=f"{where}: {problem}")
            continue
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
                fetched_at=row.get("fetched_at") or "",
                content_type="text/plain",
                lang_hint=row.get(origin.lang) or "",
                licence=row.get("licence") or row.get("license") or origin.licence,
                text=text,
                title=row.get("title") or "",
            )


def _text(value: object) -> str | None:
    """A string or number as valid Unicode text; None for anything else. Raises UnicodeError for what is not UTF-8."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, str):
        value.encode("utf-8")  # a lone surrogate, as JSON's \ud800 gives, is not text
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _side(value: object) -> str | None:
    """What stands beside the text, as text whatever it is: a date as ISO 8601, bytes that are none as hexadecimal digits (16 of
    them as a UUID), half a character as U+FFFD. None for what has no short form."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            plain = value.decode("utf-8", "replace")
            few = plain.count("\ufffd") * 4 <= len(plain)
            return plain if few else str(uuid.UUID(bytes=value)) if len(value) == 16 else value[:64].hex()
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return value
    if isinstance(value, datetime.date | uuid.UUID):
        return value.isoformat() if isinstance(value, datetime.date) else str(value)
    try:
        return _text(value)
    except ValueError:  # a number of thousands of digits
        return None
