"""Rows of a file or data set from outside: JSON Lines and JSON (`.gz` too), Parquet, a Hugging Face data set.

`hf:NAME[:CONFIG][@SPLIT]` is a data set of the hub or a local folder, also one that `save_to_disk` wrote; the split is
`train` where none is named.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator

import pyarrow as pa

from cluster import storage

HF = "hf:"
BATCH_ROWS = 1000

Found = tuple[str, dict | None, str]
"""(where the row stands, the row or None, what is wrong with it)."""


def is_hf(name: str) -> bool:
    """Whether `name` is a data set of `datasets`; `hf://` is a file system with files of its own."""
    return name.startswith(HF) and not name.startswith("hf://")


def read(uri: str) -> Iterator[Found]:
    """The rows of one file in order. Raises ValueError for a file or data set that cannot be read at all."""
    try:
        if is_hf(uri):
            yield from _hf(uri)
        elif uri.endswith(".parquet"):
            yield from _parquet(uri)
        else:
            yield from _json(uri)
    except (OSError, EOFError, pa.ArrowException) as error:
        raise ValueError(f"{uri}: cannot be read: {error}") from None


def _json(uri: str) -> Iterator[Found]:
    fs, path = storage.filesystem(uri)
    with fs.open(path, "rb") as file:
        stream = gzip.GzipFile(fileobj=file) if uri.endswith(".gz") else file
        if uri.removesuffix(".gz").endswith(".json"):
            data = stream.read()
            if data.lstrip()[:1] == b"[":
                try:
                    rows = json.loads(data)
                except ValueError as error:
                    raise ValueError(f"{uri}: not JSON: {error}") from None
                for number, row in enumerate(rows, 1):
                    yield _object(f"{uri}, item {number}", row)
                return
            stream = data.split(b"\n")
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"{uri}, line {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                yield where, None, f"not JSON: {error.msg}"
            except UnicodeDecodeError:
                yield where, None, "not UTF-8"
            except RecursionError:
                yield where, None, "not JSON: nested too deep"
            else:
                yield _object(where, row)


def _object(where: str, row: object) -> Found:
    return (where, row, "") if isinstance(row, dict) else (where, None, "a row must be a JSON object")


def _parquet(uri: str) -> Iterator[Found]:
    with storage.open_parquet(uri) as parquet:
        number = 0
        for batch in parquet.iter_batches(BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield f"{uri}, row {number}", row, ""


def _hf(uri: str) -> Iterator[Found]:
    import datasets  # seconds to import, and only this reader needs it

    name, _, split = uri.removeprefix(HF).partition("@")
    split = split or "train"
    try:
        if any(os.path.exists(os.path.join(name, mark)) for mark in ("state.json", "dataset_dict.json")):
            found = datasets.load_from_disk(name)
            found = found[split] if isinstance(found, datasets.DatasetDict) else found
        else:
            name, _, configuration = name.partition(":")
            found = datasets.load_dataset(name, configuration or None, split=split, streaming=True)
    except (KeyError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"{uri}: no such data set or split: {error}") from None
    for number, row in enumerate(found, 1):
        yield f"{uri}, row {number}", row, ""
