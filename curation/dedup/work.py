"""Where the steps of deduplication leave what they decide, and how they hand rows to an engine and give them back.

What a step decided lies below `out_uri/_work` in one folder a step, marked with the fingerprint of the run when it is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from cluster.engines.exchange import Engine, Input, Progress, partitions
from cluster.shards import Shard
from curation.dedup.index import Index
from curation.dedup.schema import DedupConfig, schema_with_p, with_p

WRITTEN = pa.schema([("p", pa.int32()), ("rows", pa.int64())])
PARTS_AT_ONCE = 8  # written by one task: what was decided about a part is a small file


@dataclass
class Work:
    """One corpus. What a step decides about part number i lies in `<step>/<i>.parquet` under `uri`."""

    engine: Engine
    shards: list[Shard]
    config: DedupConfig
    name: str
    earlier: list[Index]
    progress: Progress | None = None
    held: list = field(default_factory=list)  # rows of the engine, until the step that needs them is done

    @property
    def uri(self) -> str:
        return storage.join(self.shards[0].output, "_work")

    def step(self, name: str, schema: pa.Schema, make: Callable[[Work], list]) -> None:
        """Write the rows that `make` gives, split by their column `part`, unless they are there."""
        folder, mark = storage.join(self.uri, name), storage.join(self.uri, name, "_done.json")
        if fingerprint_of(mark) == self.shards[0].fingerprint:
            return
        storage.remove(folder)

        n = -(-len(self.shards) // PARTS_AT_ONCE)

        def of_group(batch: pa.RecordBatch) -> pa.RecordBatch:
            return with_p(batch, pa.array(batch["part"].to_numpy() % n))

        def write(p: int, *tables: pa.Table) -> pa.Table:
            rows = pa.concat_tables([table.drop_columns("p") for table in tables])
            for part in pc.unique(rows["part"]).to_pylist():
                storage.write_table(storage.join(folder, f"{part}.parquet"), rows.filter(pc.equal(rows["part"], part)))
            return pa.table([[p], [rows.num_rows]], schema=WRITTEN)

        inputs = [Input(data, of_group, schema_with_p(schema)) for data in make(self)]
        written = self.engine.table(self.by_key(inputs, write, WRITTEN, n), WRITTEN)
        rows = pc.sum(written["rows"]).as_py() or 0
        storage.write_json(mark, {"fingerprint": self.shards[0].fingerprint, "rows": rows})
        self.engine.release(*self.held)
        self.held.clear()

    def by_key(self, inputs: list[Input], function: Callable[..., pa.Table], schema: pa.Schema, n: int) -> Any:
        self.held.append(self.engine.by_key(inputs, function, schema, n))
        return self.held[-1]

    def tasks(self, function: Callable[[Any], Iterator[pa.RecordBatch]], arguments: Sequence, schema: pa.Schema) -> Any:
        self.held.append(self.engine.tasks(function, arguments, schema))
        return self.held[-1]

    def partitions(self, rows: int, row_bytes: int) -> int:
        """Enough for the rows, and no fewer than the indexes have, so that a partition reads one file of each."""
        n = partitions(rows, row_bytes, self.config.partition_bytes)
        return max([n, *(index.partitions for index in self.earlier)])


def fingerprint_of(mark: str) -> str | None:
    """The fingerprint that a mark was written with; None when it is not there."""
    return storage.read_json(mark)["fingerprint"] if storage.exists(mark) else None


def decided(uri: str, step: str, part: int, schema: pa.Schema) -> pa.Table:
    """What a step decided about a part; no rows when that is nothing."""
    source = storage.join(uri, step, f"{part}.parquet")
    return storage.read_table(source).cast(schema) if storage.exists(source) else schema.empty_table()
