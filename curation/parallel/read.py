"""Readers of parallel text: TMX, Moses pairs, TSV, JSON Lines, Parquet, data sets of `datasets`.

Each yields pairs (batch of `PAIR`, ledger batch) and never raises for what a file holds: a row that is no pair is a ledger row
(`missing_side`, `empty_side`, `invalid_utf8`, `control_character`, `invalid_json`, `record_too_large`), and so is a file that
breaks (`bad_record`) or whose sides have different numbers of lines (`uneven_files`): of such nothing is read, as nobody can say
where it went out of step.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from curation.parallel import tmx
from curation.parallel.schema import Origin, Pairs, batches, drop, row
from curation.sources.documents import _dictionaries, _rows_at_once
from curation.sources.lines import lines

FORMATS = {".tmx": "tmx", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
PACKED = (".gz", ".zst", ".bz2", ".xz", ".lz4")
LANG = "{lang}"  # in a path: of two files, one a side
HF = "hf:"
NAMED = ("id", "url")  # columns that are taken where a row has them


def format_of(path: str) -> str | None:
    """What the files at `path` are, by its name; None where that does not say."""
    if path.startswith(HF) and not path.startswith("hf://"):
        return "hf"
    if LANG in path:
        return "moses"
    for ending in PACKED:
        path = path.removesuffix(ending)
    return next((name for ending, name in FORMATS.items() if path.endswith(ending)), None)


def read(kind: str, uris: Sequence[str], origin: Origin, places: tuple[Any, Any]) -> Pairs:
    """The pairs of one file, or of one pair of files. `places`: where the sides stand, as `sides` of a source says it."""
    found = {
        "tmx": lambda: _tmx(uris[0], origin, (str(places[0]), str(places[1]))),
        "moses": lambda: _moses((uris[0], uris[1]), origin),
        "tsv": lambda: _tsv(uris[0], origin, places),
        "jsonl": lambda: _jsonl(uris[0], origin, places),
        "parquet": lambda: _parquet(uris[0], origin, places),
        "hf": lambda: _hf(uris[0], origin, places),
    }[kind]()
    yield from batches(found if kind == "hf" else _guarded(found, origin), origin)


def _guarded(rows: Iterable[dict], origin: Origin) -> Iterator[dict]:
    """The rows, and a ledger row for a file that breaks in a way that its reader does not know."""
    try:
        yield from rows
    except (OSError, EOFError, ValueError, pa.ArrowException) as problem:
        if storage.at_fault(problem):
            raise
        yield drop(origin, origin.name, "bad_record", detail=f"{origin.name}: {problem}")


def _tmx(uri: str, origin: Origin, tags: tuple[str, str]) -> Iterator[dict]:
    with storage.opened(uri) as file:
        yield from tmx.read(file, origin, tags)


def _moses(uris: tuple[str, str], origin: Origin) -> Iterator[dict]:
    counts = [_count(uri, origin) for uri in uris]
    for uri, found in zip(uris, counts, strict=True):
        if isinstance(found, str):
            yield drop(origin, origin.name, "bad_record", detail=f"{uri.rsplit('/', 1)[-1]}: {found}")
            return
    if counts[0] != counts[1]:
        said = " and ".join(f"{n:,} lines in {lang}" for n, lang in zip(counts, origin.sides, strict=True))
        yield drop(origin, origin.name, "uneven_files", value=counts[0], threshold=counts[1], detail=said)
        return
    most = origin.limits.max_line_bytes
    with ExitStack() as stack:
        both = [lines(stack.enter_context(storage.opened(uri)), most) for uri in uris]
        for number, pair in enumerate(zip_longest(*both, fillvalue=(b"", 0)), 1):
            if (size := max(n_bytes for _, n_bytes in pair)) > most:
                yield drop(origin, f"{origin.name}:{number}", "record_too_large", value=size, threshold=most)
            else:
                sides = [_plain(line, number) for line, _ in pair]
                yield row(origin, number, (sides[0], sides[1]))


def _count(uri: str, origin: Origin) -> int | str:
    """Lines of a file; as a string why it cannot be read whole."""
    number = 0
    with storage.opened(uri) as file:
        for line, _ in lines(file, origin.limits.max_line_bytes):
            if isinstance(line, str):
                return line
            number += 1
    return number


def _plain(line: bytes | str, number: int) -> bytes:
    line = line.encode() if isinstance(line, str) else line
    return (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).removesuffix(b"\r")


def _numbered(uri: str, origin: Origin) -> Iterator[tuple[int, bytes] | dict]:
    """(number, line) of what can be read; ledger rows of the rest."""
    number, most = 0, origin.limits.max_line_bytes
    with storage.opened(uri) as file:
        for line, size in lines(file, most):
            if isinstance(line, str):
                place = f"{origin.name}, after line {number}"
                yield drop(origin, place, "bad_record", detail=f"{place}: {line}")
                continue
            number += 1
            if size > most:
                yield drop(origin, f"{origin.name}:{number}", "record_too_large", value=size, threshold=most)
            elif (text := _plain(line, number)).strip():
                yield number, text


def _tsv(uri: str, origin: Origin, places: tuple[Any, Any]) -> Iterator[dict]:
    """Columns by their numbers, counted from 1, by their names in the first line, or, as (name, number), by name where the first
    line names both sides and else by number. Nothing is quoted."""
    columns: list[int | None] = []
    for found in _numbered(uri, origin):
        if isinstance(found, dict):
            yield found
            continue
        number, line = found
        cells = line.split(b"\t")
        if not columns:
            names = [cell.decode("utf-8", "replace").strip() for cell in cells]
            columns, header = _columns(places, names)
            if None in columns:
                said = f"{origin.name}: the first line names no column {places[columns.index(None)]!r}"
                yield drop(origin, origin.name, "bad_record", detail=said)
                return
            if header:
                continue
        sides = [cells[column - 1] if column <= len(cells) else None for column in columns if column]
        yield row(origin, number, (sides[0], sides[1]))


def _columns(places: tuple[Any, Any], names: list[str]) -> tuple[list[int | None], bool]:
    """The columns of the sides by the cells of a first line, None for a name that is not there, and whether that is a header."""
    known = all(place[0] in names for place in places if isinstance(place, tuple))
    columns: list[int | None] = []
    for place in places:
        name, column = place if isinstance(place, tuple) else (place, None)
        if isinstance(name, int):
            columns.append(name)
        elif column is None or known:
            columns.append(names.index(name) + 1 if name in names else None)
        else:
            columns.append(column)
    return columns, known and not all(isinstance(place, int) for place in places)


def _jsonl(uri: str, origin: Origin, places: tuple[Any, Any]) -> Iterator[dict]:
    for found in _numbered(uri, origin):
        if isinstance(found, dict):
            yield found
            continue
        number, line = found
        place = f"{origin.name}:{number}"
        try:
            values = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as problem:
            yield drop(origin, place, "invalid_utf8", detail=f"{place}: {problem}")
        except (ValueError, RecursionError) as problem:
            yield drop(origin, place, "invalid_json", detail=f"{place}: {problem}")
        else:
            yield _object(values, number, origin, places)


def _object(values: object, number: int, origin: Origin, places: tuple[Any, Any]) -> dict:
    if not isinstance(values, dict):
        place = f"{origin.name}:{number}"
        return drop(origin, place, "invalid_json", detail=f"{place}: not an object")
    sides = [_at(values, str(place)) for place in places]
    named = [values.get(name) if name not in places or "translation" in values else "" for name in NAMED]
    return row(origin, number, (sides[0], sides[1]), *named)


def _at(values: dict, place: str) -> object:
    """What lies at a language in `translation`, at a column, or at a dotted path."""
    both = values.get("translation")
    if isinstance(both, dict) and place in both:
        return both[place]
    if place in values:
        return values[place]
    found: object = values
    for part in place.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _parquet(uri: str, origin: Origin, places: tuple[Any, Any]) -> Iterator[dict]:
    """Row groups one by one: of one that breaks a ledger row says so, and reading goes on at the next."""
    with storage.opened(uri) as file:
        parquet = storage.ParquetOfPython(file)
        paths = [_path(parquet.schema_arrow, str(place)) for place in places]
        if None in paths:
            missing = places[paths.index(None)]
            said = f"{origin.name}: no column {missing!r}; it has {', '.join(parquet.schema_arrow.names)}"
            yield drop(origin, origin.name, "bad_record", detail=said)
            return
        named = [name for name in NAMED if name in parquet.schema_arrow.names and [name] not in paths]
        columns = [".".join(path) for path in paths if path] + named
        begin = 0
        for group in range(parquet.metadata.num_row_groups):
            number = begin
            begin += parquet.metadata.row_group(group).num_rows
            packed = sorted(_dictionaries(parquet.metadata.row_group(group)) & set(columns))
            at_once = _rows_at_once(parquet.metadata, group)
            try:
                opened = storage.ParquetOfPython(file, metadata=parquet.metadata, read_dictionary=packed)
                for batch in opened.iter_batches(at_once, row_groups=[group], columns=columns):
                    sides = [_column(batch, path) for path in paths if path]
                    more = {name: _names(batch, name) for name in named}
                    for i in range(batch.num_rows):
                        number += 1
                        own = [more[name][i] if name in more else "" for name in NAMED]
                        yield row(origin, number, (sides[0][i], sides[1][i]), *own)
            except (OSError, pa.ArrowException, UnicodeDecodeError) as problem:
                if storage.at_fault(problem):
                    raise
                place = f"{origin.name}, after row {number}"
                yield drop(origin, place, "bad_record", detail=f"{place}: {problem}")


def _path(schema: pa.Schema, place: str) -> list[str] | None:
    """The names that lead to a language in `translation`, to a column, or along a dotted path to a field of a struct."""
    for path in (["translation", place], [place], place.split(".")):
        fields: Any = schema
        for name in path:
            if not isinstance(fields, pa.Schema | pa.StructType) or name not in fields.names:
                break
            fields = fields.field(name).type
        else:
            return path
    return None


def _column(batch: pa.RecordBatch, path: list[str]) -> list:
    """The values of a column as bytes, or None where it holds no text."""
    column = batch[path[0]]
    for name in path[1:]:
        column = pc.struct_field(column, name)
    if pa.types.is_dictionary(column.type):  # few values that repeat, each held once
        values = _bytes(column.dictionary)
        return [None if number is None else values[number] for number in column.indices.to_pylist()]
    return _bytes(column)


def _bytes(column: pa.Array) -> list:
    kind = column.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if text or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return column.cast(pa.large_binary()).to_pylist()
    return [None] * len(column)


def _names(batch: pa.RecordBatch, name: str) -> list:
    """The values of a column beside the texts: whole numbers, and text however broken."""
    if pa.types.is_integer(batch[name].type):
        return batch[name].to_pylist()
    return [value and value.decode("utf-8", "replace") for value in _column(batch, [name])]


def _hf(uri: str, origin: Origin, places: tuple[Any, Any]) -> Iterator[dict]:
    """`hf:NAME[:CONFIG][@SPLIT]`: a data set of the hub or a local folder, streamed. Raises ValueError where there is none,
    and what the network raises: a source is not lost for an hour without it."""
    from datasets import load_dataset  # seconds to import, and only this reader needs it

    name, _, split = uri.removeprefix(HF).partition("@")
    name, _, configuration = name.partition(":")
    number = 0
    try:
        found = load_dataset(name, configuration or None, split=split or "train", streaming=True)
    except (FileNotFoundError, ValueError) as problem:
        why = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise ValueError(f"source {origin.source!r}: {uri} cannot be read: {why}") from None
    try:
        for values in found:
            number += 1
            yield _object(values, number, origin, places)
    except (UnicodeError, pa.ArrowException) as problem:
        if storage.at_fault(problem):
            raise
        place = f"{origin.name}, after row {number}"
        yield drop(origin, place, "bad_record", detail=f"{place}: {problem}")
