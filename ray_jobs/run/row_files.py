"""Rows of a file or data set from outside: JSON Lines and JSON (packed or not), Parquet, a Hugging Face data set.

What a file is, its bytes say, not its name.
`hf:NAME[:CONFIG][@SPLIT]` is a data set of the hub or a local folder, also one that `save_to_disk` wrote; the split is
`train` where none is named.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from cluster import storage
from curation.sources.lines import lines

HF = "hf:"
BATCH_ROWS = 1000
PARQUET = b"PAR1"
MAX_LINE_BYTES = 1 << 28

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
            with storage.opened(uri) as file:  # once: what lies at an http(s) address is fetched for it
                parquet = file.read(len(PARQUET)) == PARQUET
                file.seek(0)
                if not parquet:
                    yield from _json(uri, file)
            if parquet:
                yield from _parquet(uri)
    except (OSError, EOFError, pa.ArrowException) as error:
        raise ValueError(f"{uri}: cannot be read: {error}") from None


def _json(uri: str, file: BinaryIO) -> Iterator[Found]:
    """One object a line, or all rows in one array."""
    number, first = 0, True
    for line, n_bytes in (found := lines(file, MAX_LINE_BYTES)):
        if isinstance(line, str):
            yield f"{uri}, after line {number}", None, line
            continue
        number += 1
        where = f"{uri}, line {number}"
        if n_bytes > MAX_LINE_BYTES:
            yield where, None, f"{n_bytes:,} bytes: the most is {MAX_LINE_BYTES:,}"
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        if first and line.lstrip().startswith(b"["):
            rest = (one for one, _ in found if isinstance(one, bytes))
            try:
                rows = json.loads(b"\n".join([line, *rest]))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{uri}: not JSON: {error}") from None
            for number, row in enumerate(rows, 1):
                yield _object(f"{uri}, item {number}", row)
            return
        first = False
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
    except (
        KeyError,
        ValueError,
        datasets.exceptions.DatasetsError,
    ) as error:  # ValueError: no such split or configuration
        raise ValueError(f"{uri}: no such data set or split: {error}") from None
    for number, row in enumerate(found, 1):
        yield f"{uri}, row {number}", row, ""
