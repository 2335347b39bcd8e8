"""What a global step needs of an engine: run tasks, and bring rows of one key together. Three engines do the same.

A stage with a global step (deduplication) is written once, as functions of Arrow tables; `cluster.engines.in_process`,
`cluster.engines.on_ray` and `cluster.engines.on_spark` move the rows. Which rows meet is said by the caller: rows carry the
number `p` of their partition, so the same rows meet on every engine. Their order differs; a function that must not
depend on it sorts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa

T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[int], None]
"""Called with the number of tasks that are done."""

PARTITION, SIDE = "p", "side"


@dataclass(frozen=True)
class Input:
    """Rows on their way: `prepare` gives of each batch what is to be sent, with the int32 column `p`, of type `schema`."""

    data: Any
    prepare: Callable[[pa.RecordBatch], pa.RecordBatch]
    schema: pa.Schema


class Engine(Protocol):
    """Where rows live is the engine's own business: what `tasks`, `by_key` and `rows` return is only handed back to it.

    Functions must pickle (cloudpickle); they run in other processes or on other machines.
    """

    def run(self, function: Callable[[T], R], arguments: Sequence[T], progress: Progress | None = None) -> list[R]:
        """`[function(argument) for argument in arguments]`, each a task; the first error is raised."""

    def tasks(self, function: Callable[[Any], Iterator[pa.RecordBatch]], arguments: Sequence, schema: pa.Schema) -> Any:
        """The batches that `function` gives of each argument."""

    def by_key(self, inputs: Sequence[Input], function: Callable[..., pa.Table], schema: pa.Schema, n: int) -> Any:
        """`function(p, table, ...)` for each of the `n` partitions that has rows, one table for each input."""

    def rows(self, table: pa.Table) -> Any:
        """A table of this process as rows of the engine."""

    def table(self, data: Any, schema: pa.Schema) -> pa.Table:
        """All rows in this process."""

    def count(self, data: Any) -> int:
        """Number of rows."""

    def release(self, *data: Any) -> None:
        """What is no longer needed."""


def partitions(rows: int, row_bytes: int, partition_bytes: int) -> int:
    """Number of partitions, a power of two, so that one of `rows` rows of `row_bytes` each takes `partition_bytes` or less.

    A power of two, because rows of partition p of n are then in partition p % m of m < n.
    """
    return 1 << max(0, (-(-rows * row_bytes // partition_bytes) - 1)).bit_length()


def place(keys: np.ndarray, n: int) -> pa.Array:
    """Partition (0 to n - 1) of each 64-bit key, int32."""
    keys = keys.view(np.uint64)
    mixed = ((keys ^ (keys >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    return pa.array((mixed % np.uint64(n)).astype(np.int32))


def wide_schema(inputs: Sequence[Input]) -> pa.Schema:
    """Columns of all inputs, and `side`: the number of the input that a row is of."""
    fields = {field.name: field for one in inputs for field in one.schema}
    return pa.schema([*fields.values(), pa.field(SIDE, pa.int8())])


def packer(one: Input, side: int, wide: pa.Schema) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
    """From batches of input number `side` to what is sent of them, as rows of `wide`."""
    prepare, names = one.prepare, set(one.schema.names)  # not the data: the function travels

    def pack(batch: pa.RecordBatch) -> pa.RecordBatch:
        sent = prepare(batch)
        n = sent.num_rows
        columns = []
        for field in wide:
            if field.name == SIDE:
                columns.append(pa.array(np.full(n, side, np.int8)))
            elif field.name in names:
                columns.append(sent[field.name].cast(field.type))
            else:
                columns.append(pa.nulls(n, field.type))
        return pa.RecordBatch.from_arrays(columns, schema=wide)

    return pack


def unpack(
    function: Callable[..., pa.Table], p: int, table: pa.Table, inputs: Sequence[pa.Schema], schema: pa.Schema
) -> pa.Table:
    """Call `function` with the rows of partition `p`, one table for each input schema."""
    side = table[SIDE].to_numpy()
    tables = [table.filter(pa.array(side == i)).select(one.names) for i, one in enumerate(inputs)]
    return function(p, *tables).cast(schema)


def in_one_place(
    inputs: Sequence[Input], tables: Sequence[pa.Table], function: Callable[..., pa.Table], schema: pa.Schema
) -> pa.Table:
    """`Engine.by_key` of one partition, here: rows that fit one partition are not worth a shuffle on a cluster."""
    wide = wide_schema(inputs)
    packed: list[pa.RecordBatch] = []
    for side, (one, table) in enumerate(zip(inputs, tables, strict=True)):
        packed += map(packer(one, side, wide), table.combine_chunks().to_batches())
    rows = pa.Table.from_batches(packed, wide)
    if not rows.num_rows:
        return schema.empty_table()
    return unpack(function, rows[PARTITION][0].as_py(), rows, [one.schema for one in inputs], schema)


def as_table(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """One table of batches whose types an engine may have changed (large strings, names of list items)."""
    return pa.Table.from_batches([batch.cast(schema) for batch in batches], schema)
