"""Which parts of a run the sections about its data read, so that a report of three billion documents costs no more than one
of a million: all parts, or as many as hold `MOST_DOCUMENTS`, those first whose name has the smallest hash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import xxhash

from cluster import storage

MOST_PARTS, MOST_DOCUMENTS = 256, 1_000_000
THREADS = 16  # parts that are read at a time: an object store takes its time over each


class Looked(NamedTuple):
    """File names of the parts that are read, their documents, and how many parts there are."""

    names: list[str]
    documents: int
    of: int

    @property
    def whole(self) -> bool:
        return len(self.names) == self.of


def looked_at(folder: str) -> Looked:
    """Those of the folder of a stage, and so of all: a part keeps its name. At least one where there is one."""
    every = [part.rsplit("/", 1)[1] for part in storage.glob(storage.join(folder, "part-*.parquet"))]
    some = sorted(every, key=lambda name: (xxhash.xxh3_64_intdigest(name.encode()), name))[:MOST_PARTS]

    def rows(name: str) -> int:
        with storage.open_parquet(storage.join(folder, name)) as parquet:
            return parquet.metadata.num_rows

    names: list[str] = []
    documents = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for name, n in zip(some, pool.map(rows, some), strict=True):
            if names and documents + n > MOST_DOCUMENTS:
                break
            names.append(name)
            documents += n
    return Looked(sorted(names), documents, len(every))


def tables(folder: str, names: Sequence[str], columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """(name, columns that are there) of each part that is there, in order; `THREADS` are read at a time."""

    def read(name: str) -> pa.Table | None:
        part = storage.join(folder, name)
        if not storage.exists(part):
            return None
        with storage.open_parquet(part) as parquet:
            known = set(parquet.schema_arrow.names)
            return parquet.read([column for column in columns if column in known])

    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(names), THREADS):
            some = names[first : first + THREADS]
            for name, table in zip(some, pool.map(read, some), strict=True):
                if table is not None:
                    yield name, table
