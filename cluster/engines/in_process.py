"""`cluster.engines.exchange` in one process, with neither Ray nor Spark: rows lie in Arrow files on disk.

Memory: one partition at a time. With many partitions the rows are read in several passes, each writing
`OPEN_FILES` of them, since that many files may be open at once.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.engines.exchange import PARTITION, Input, Progress, R, T, as_table, packer, unpack, wide_schema

OPEN_FILES = 256
BATCH_ROWS = 1 << 16


class Local:
    """`folder` holds the rows while they are needed; None makes a temporary one. Use it as a context manager."""

    def __init__(self, folder: str | None = None):
        if folder:
            os.makedirs(folder, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="pinisi-rows-", dir=folder))
        self._number = itertools.count()

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *_) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, function: Callable[[T], R], arguments: Sequence[T], progress: Progress | None = None) -> list[R]:
        results: list[R] = []
        for argument in arguments:
            results.append(function(argument))
            if progress:
                progress(len(results))
        return results

    def tasks(
        self, function: Callable[[Any], Iterator[pa.RecordBatch]], arguments: Sequence, schema: pa.Schema
    ) -> list[Path]:
        files = []
        for argument in arguments:
            files.append(self._file())
            with pa.ipc.new_file(files[-1], schema) as writer:
                for batch in function(argument):
                    writer.write_batch(batch)
        return files

    def by_key(
        self, inputs: Sequence[Input], function: Callable[..., pa.Table], schema: pa.Schema, n: int
    ) -> list[Path]:
        files = []
        wide = wide_schema(inputs)
        for first in range(0, n, OPEN_FILES):
            parts = self._split(inputs, wide, range(first, min(n, first + OPEN_FILES)))
            for p in sorted(parts):
                table = as_table(_read(parts.pop(p), delete=True), wide)
                result = unpack(function, p, table, [one.schema for one in inputs], schema)
                files.append(self._file())
                with pa.ipc.new_file(files[-1], schema) as writer:
                    writer.write_table(result, BATCH_ROWS)
        return files

    def _split(self, inputs: Sequence[Input], wide: pa.Schema, wanted: range) -> dict[int, Path]:
        """One file for each partition of `wanted` that has rows."""
        paths: dict[int, Path] = {}
        writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
        for side, one in enumerate(inputs):
            pack = packer(one, side, wide)
            for path in one.data:
                for batch in _read(path):
                    sent = pack(batch)
                    p = sent[PARTITION].to_numpy()
                    order = np.argsort(p, kind="stable")
                    sent, p = sent.take(pa.array(order)), p[order]
                    here = np.unique(p[(p >= wanted.start) & (p < wanted.stop)])
                    for number in here.tolist():
                        if number not in writers:
                            paths[number] = self._file()
                            writers[number] = pa.ipc.new_file(paths[number], wide)
                        low, high = np.searchsorted(p, [number, number + 1])
                        writers[number].write_batch(sent.slice(low, high - low))
        for writer in writers.values():
            writer.close()
        return paths

    def rows(self, table: pa.Table) -> list[Path]:
        return self.tasks(lambda one: one.to_batches(BATCH_ROWS), [table], table.schema)

    def table(self, data: list[Path], schema: pa.Schema) -> pa.Table:
        return as_table((batch for path in data for batch in _read(path)), schema)

    def count(self, data: list[Path]) -> int:
        return sum(batch.num_rows for path in data for batch in _read(path))

    def release(self, *data: list[Path]) -> None:
        for path in itertools.chain(*data):
            path.unlink(missing_ok=True)

    def _file(self) -> Path:
        return self.folder / f"{next(self._number):08d}.arrow"


def _read(path: Path, delete: bool = False) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        for i in range(reader.num_record_batches):
            yield reader.get_batch(i)
    if delete:
        path.unlink()
