"""`cluster.engines.exchange` on Spark: one task a shard, `mapInArrow` and a repartition for rows, which lie on disk."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cluster.engines.exchange import (
    PARTITION,
    Input,
    Progress,
    R,
    T,
    as_table,
    in_one_place,
    packer,
    unpack,
    wide_schema,
)

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Batches = Iterator[pa.RecordBatch]

POLL_SECONDS = 0.2
SLICES_PER_CORE = 4  # of a local Spark: a task costs about 0.05 s whatever it does, and is lost with the process anyway
TYPES = {"int8": "byte", "int32": "int", "int64": "long", "double": "double", "string": "string", "binary": "binary"}
TYPES |= {"bool": "boolean"}


class Spark:
    """On a session of `cluster.spark`. Rows are a data frame; those of a single partition are a table of this process."""

    def __init__(self, session: SparkSession):
        self.session = session

    def run(self, function: Callable[[T], R], arguments: Sequence[T], progress: Progress | None = None) -> list[R]:
        """One Spark task each, or one for several in a local Spark; `progress` is called while they run, and Ctrl-C ends them."""
        if not arguments:
            return []
        context = self.session.sparkContext
        finished = context.accumulator(0)

        def one(argument: T) -> R:
            result = function(argument)
            finished.add(1)
            return result

        group = uuid.uuid4().hex

        def job() -> list[R]:
            context.setJobGroup(group, "tasks", interruptOnCancel=True)
            return context.parallelize(arguments, self._slices(len(arguments))).map(one).collect()

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(job)
            try:
                while wait([running], POLL_SECONDS).not_done:
                    if progress:
                        progress(finished.value)
            except BaseException:
                context.cancelJobGroup(group)
                raise
        if progress and not running.exception():
            progress(finished.value)
        return running.result()

    def tasks(
        self, function: Callable[[Any], Iterator[pa.RecordBatch]], arguments: Sequence, schema: pa.Schema
    ) -> DataFrame:
        arguments = list(arguments)

        def batches(numbers: Batches) -> Batches:
            for batch in numbers:
                for i in batch["id"].to_pylist():
                    yield from function(arguments[i])

        n = self._slices(max(1, len(arguments)))
        return _kept(self.session.range(0, len(arguments), 1, n).mapInArrow(batches, sql(schema)))

    def by_key(
        self, inputs: Sequence[Input], function: Callable[..., pa.Table], schema: pa.Schema, n: int
    ) -> DataFrame | pa.Table:
        if n == 1:
            return in_one_place(inputs, [_gathered(one.data) for one in inputs], function, schema)
        wide = wide_schema(inputs)
        schemas = [one.schema for one in inputs]

        def sent(one: Input, side: int) -> DataFrame:
            pack = packer(one, side, wide)

            def packed(batches: Batches) -> Batches:
                for batch in batches:
                    yield pack(batch)

            data = one.data
            if isinstance(data, pa.Table):
                if not data.num_rows:
                    return self.session.createDataFrame([], sql(wide))
                data = self.session.createDataFrame(data, sql(data.schema))
            return data.mapInArrow(packed, sql(wide))

        def received(batches: Batches) -> Batches:
            table = as_table(batches, wide)
            if table.num_rows:
                result = unpack(function, table[PARTITION][0].as_py(), table, schemas, schema)
                yield from result.combine_chunks().to_batches()

        first, *others = (sent(one, side) for side, one in enumerate(inputs))
        for other in others:
            first = first.union(other)
        return _kept(first.repartitionById(n, PARTITION).mapInArrow(received, sql(schema)))

    def _slices(self, arguments: int) -> int:
        """Spark tasks for so many arguments."""
        context = self.session.sparkContext
        local = (context.master or "").startswith("local")
        return min(arguments, SLICES_PER_CORE * context.defaultParallelism) if local else arguments

    def rows(self, table: pa.Table) -> pa.Table:
        return table

    def table(self, data: DataFrame | pa.Table, schema: pa.Schema) -> pa.Table:
        rows = _gathered(data)
        return as_table(rows.to_batches(), schema) if rows.num_rows else schema.empty_table()

    def count(self, data: DataFrame | pa.Table) -> int:
        return data.num_rows if isinstance(data, pa.Table) else data.count()

    def release(self, *data: DataFrame | pa.Table) -> None:
        for one in data:
            if not isinstance(one, pa.Table):
                one.unpersist()


def _gathered(data: DataFrame | pa.Table) -> pa.Table:
    return data if isinstance(data, pa.Table) else data.toArrow()


def _kept(frame: DataFrame) -> DataFrame:
    """Rows that are computed once, when first asked for, and lie on the disks of the workers."""
    from pyspark import StorageLevel

    return frame.persist(StorageLevel.DISK_ONLY)


def sql(schema: pa.Schema) -> str:
    """The schema in Spark's words. Spark has no unsigned integers."""
    return ", ".join(f"{f.name} {TYPES.get(str(f.type)) or f'array<{TYPES[str(f.type.value_type)]}>'}" for f in schema)
