"""Annotations that others made of documents: Parquet files or a data set of the hub, a row for each document that they know.

A row is found by a key that a document has too: our `doc_id`, the id in its source, its URL (both sides as
`curation.text.urls.normalise` writes it) or the hash of its text (`text_hash`). Keys travel as 64 bits, xxh3 of the text or
the first half of the SHA-1: with 10^9 documents and 3 x 10^9 rows one false match in six such joins is to be expected.
A column is a number, true or false, or a string; of a struct or list it is a field (`register.MT`) or an item (`scores[0]`).
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from cluster import storage
from curation.text.urls import url_keys

KEYS = ("doc_id", "source_id", "url", "text_hash")
HF = "hf:"
NUMBER, BOOLEAN, STRING = "number", "boolean", "string"
TYPES = {NUMBER: pa.float64(), BOOLEAN: pa.bool_(), STRING: pa.string()}
BATCH_ROWS = 8192
LOOKED_AT = 1000  # rows of a data set that does not say its types

_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")
_HEX = re.compile(r"[0-9a-fA-F]{40}")


@dataclass(frozen=True)
class Annotation:
    """One entry of `annotations`. `columns` is signal -> column of the files, `types` signal -> one of `TYPES`; `sources` are
    the sources whose documents it is about, none for all."""

    path: str
    files: tuple[str, ...]
    key: str
    key_column: str
    columns: Mapping[str, str]
    types: Mapping[str, str]
    sources: tuple[str, ...] = ()


def text_hash(text: str) -> str:
    """SHA-1, in hexadecimal digits, of the UTF-8 of the text in NFC without whitespace at its ends."""
    return hashlib.sha1(unicodedata.normalize("NFC", text).strip().encode("utf-8", "replace")).hexdigest()


def schema_of(file: str) -> pa.Schema:
    """The columns of a Parquet file, or of a data set (`hf:NAME[:CONFIG][@SPLIT]`). Raises ValueError where it is neither."""
    if file.startswith(HF):
        found = _dataset(file)
        if found.features is not None:
            return found.features.arrow_schema
        first = next(iter(found.with_format("arrow").iter(LOOKED_AT)), None)
        if first is None:
            raise ValueError(f"{file} has no rows")
        return first.schema
    try:
        with storage.open_parquet(file) as parquet:
            return parquet.schema_arrow
    except (OSError, pa.ArrowException) as error:
        if storage.at_fault(error):
            raise
        raise ValueError(f"{file} is no Parquet file: {error}") from None


def types_of(file: str, schema: pa.Schema, key: str, key_column: str, columns: Mapping[str, str]) -> dict[str, str]:
    """Signal -> its type, by the schema of one file. Raises ValueError naming the column that is not there or of no use."""
    of_key = _type(schema, key_column, file)
    whole = pa.types.is_integer(of_key) and key in ("doc_id", "source_id")
    if not (_is_text(of_key) or whole or (key == "text_hash" and pa.types.is_fixed_size_binary(of_key))):
        raise ValueError(f"{file}: the key {key_column!r} is of type {of_key}; a {key} is a string")
    found = {}
    for signal, column in columns.items():
        kind = _type(schema, column, file)
        if _is_text(kind):
            found[signal] = STRING
        elif pa.types.is_boolean(kind):
            found[signal] = BOOLEAN
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            found[signal] = NUMBER
        else:
            fix = "a number, true or false, or a string is needed"
            if pa.types.is_struct(kind):
                fix = f"name one of its fields, such as {column}.{kind.field(0).name}"
            elif _is_list(kind):
                fix = f"name one of its items, such as {column}[0]"
            raise ValueError(f"{file}: the column {column!r} is of type {kind}; {fix}")
    return found


def rows(annotation: Annotation, file: str) -> Iterator[tuple[np.ndarray, list[pa.Array]]]:
    """Batches of (keys, int64 [N], 0 where a row has none; the columns in the order of `columns`, cast to `TYPES`).

    Raises ValueError for a file whose columns are not those of the others."""
    own = types_of(file, schema_of(file), annotation.key, annotation.key_column, annotation.columns)
    if differs := [name for name in own if own[name] != annotation.types[name]]:
        name = differs[0]
        raise ValueError(
            f"{file}: the column {annotation.columns[name]!r} is a {own[name]}, and a {annotation.types[name]} in "
            f"{annotation.files[0]}"
        )
    for batch in _batches(file, [annotation.key_column, *annotation.columns.values()]):
        keys = file_keys(annotation.key, _column(batch, annotation.key_column))
        columns = []
        for name, column in annotation.columns.items():
            number = annotation.types[name] == NUMBER  # a whole one beyond 2^53 becomes the nearest float
            values = _column(batch, column).cast(TYPES[annotation.types[name]], safe=not number)
            if number:
                values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64()))
            columns.append(values)
        yield keys, columns


def file_keys(kind: str, column: pa.Array) -> np.ndarray:
    """Keys of the rows of a file, int64; 0 for none."""
    if kind == "text_hash":
        values = column.to_pylist()
        found = [value.hex() if isinstance(value, bytes) else (value or "").strip() for value in values]
        return np.array([int(text[:16], 16) if _HEX.fullmatch(text) else 0 for text in found], np.uint64).view(np.int64)
    return _keys(kind, column.cast(pa.string()))


def document_keys(kind: str, batch: pa.RecordBatch) -> np.ndarray:
    """Keys of documents, int64 [N]; 0 for none. `batch` has the column that `key_needs` names."""
    if kind == "text_hash":
        found = [int(text_hash(text)[:16], 16) if text else 0 for text in batch["text"].to_pylist()]
        return np.array(found, np.uint64).view(np.int64)
    return _keys(kind, batch[kind])


def key_needs(kind: str) -> str:
    """The column of a document that its key is made of."""
    return "text" if kind == "text_hash" else kind


def _keys(kind: str, texts: pa.Array) -> np.ndarray:
    if kind == "url":
        return url_keys(texts).view(np.int64)
    found = [xxhash.xxh3_64_intdigest(text) or 1 if text else 0 for text in texts.cast(pa.binary()).to_pylist()]
    return np.array(found, np.uint64).view(np.int64)


def _batches(file: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    if file.startswith(HF):
        found = _dataset(file)
        names = list(dict.fromkeys(_top(column, found.column_names or [column]) for column in columns))
        for table in found.select_columns(names).with_format("arrow").iter(BATCH_ROWS):
            yield from table.combine_chunks().to_batches()
        return
    with storage.open_parquet(file) as parquet:
        names = list(dict.fromkeys(_top(column, parquet.schema_arrow.names) for column in columns))
        yield from parquet.iter_batches(BATCH_ROWS, columns=names)


def _dataset(file: str) -> Any:
    """A data set of the hub or of a folder, also one that `save_to_disk` wrote, streamed."""
    import datasets  # seconds to import, and only this reader needs it

    name, _, split = file.removeprefix(HF).partition("@")
    if not os.path.exists(name):
        name, _, configuration = name.partition(":")
    else:
        configuration = ""
    split = split or "train"
    try:
        if any(os.path.exists(os.path.join(name, mark)) for mark in ("state.json", "dataset_dict.json")):
            saved = datasets.load_from_disk(name)
            return (saved[split] if isinstance(saved, datasets.DatasetDict) else saved).to_iterable_dataset()
        return datasets.load_dataset(name, configuration or None, split=split, streaming=True)
    except (KeyError, ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"{file}: {str(error).splitlines()[0]}") from None


def _top(column: str, names: list[str]) -> str:
    """The column of the file that holds `column`."""
    return column if column in names else re.split(r"[.\[]", column, maxsplit=1)[0]


def _steps(column: str) -> list[str | int]:
    """`a.b[0]` -> a, b, 0."""
    return [name or int(item) for name, item in _STEP.findall(column)]


def _type(schema: pa.Schema, column: str, file: str) -> pa.DataType:
    if column in schema.names:
        return schema.field(column).type
    first, *rest = _steps(column) or [column]
    if first not in schema.names:
        raise ValueError(f"{file} has no column {column!r}: it has {', '.join(schema.names)}")
    kind = schema.field(first).type
    for step in rest:
        if isinstance(step, int) and _is_list(kind):
            kind = kind.value_type
        elif isinstance(step, str) and pa.types.is_struct(kind) and kind.get_field_index(step) >= 0:
            kind = kind.field(step).type
        else:
            raise ValueError(f"{file}: there is no {column!r}: {first!r} is of type {schema.field(first).type}")
    return kind


def _column(batch: pa.RecordBatch, column: str) -> pa.Array:
    """A column, or what lies at its path; null where a list has no such item."""
    if column in batch.schema.names:
        found = batch[column]
    else:
        first, *rest = _steps(column)
        found = batch[first]
        for step in rest:
            if isinstance(step, str):
                found = pc.struct_field(found, step)
            else:
                long_enough = pc.greater(pc.list_value_length(found), step)
                places = pc.if_else(pc.fill_null(long_enough, False), pa.array(range(len(found))), None)
                item = pc.list_element(found.filter(pc.is_valid(places)), step)
                found = item.take(_numbered(pc.is_valid(places)))
    if pa.types.is_dictionary(found.type):
        found = found.cast(found.type.value_type)
    return found


def _numbered(valid: pa.Array) -> pa.Array:
    """0, 1, 2, ... at the places that are valid, null at the others."""
    mask = valid.to_numpy(zero_copy_only=False)
    return pa.array(np.cumsum(mask) - 1, pa.int64(), mask=~mask)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
