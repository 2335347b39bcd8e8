"""`cluster.engines.exchange` on Ray: tasks for shards, Ray Data and its hash shuffle for rows."""

from __future__ import annotations

import functools
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa

from cluster import storage
from cluster.engines import placement
from cluster.engines.exchange import PARTITION, Input, Progress, as_table, in_one_place, packer, unpack, wide_schema

FINISH_SECONDS = 15.0  # for tasks that run when another fails; those that take longer are cancelled
CANCEL_SECONDS = 30.0  # then for these: one inside a library hears of it only afterwards

T = TypeVar("T")
R = TypeVar("R")


class Ray:
    """On the Ray that this process is connected to (`cluster.engines.embedded.start`).

    Rows are a dataset; those of a single partition are a table of this process.
    """

    def __init__(self):
        import ray
        from ray.data.context import DataContext, ShuffleStrategy

        self._ray = ray
        placement.of_datasets()
        context = DataContext.get_current()
        context.shuffle_strategy = ShuffleStrategy.HASH_SHUFFLE
        context.enable_progress_bars = False
        context.print_on_execution_start = False

    def run(self, function: Callable[[T], R], arguments: Sequence[T], progress: Progress | None = None) -> list[R]:
        return run_tasks(function, arguments, progress)

    def tasks(self, function: Callable[[Any], Iterator[pa.RecordBatch]], arguments: Sequence, schema: pa.Schema) -> Any:
        arguments = list(arguments)

        def batches(items: pa.Table) -> Iterator[pa.Table]:
            for i in items["i"].to_pylist():
                for batch in function(arguments[i]):
                    yield pa.Table.from_batches([batch], schema)

        items = [{"i": i} for i in range(len(arguments))]
        source = self._ray.data.from_items(items, override_num_blocks=max(1, len(items)))
        return source.map_batches(batches, batch_size=1, batch_format="pyarrow").materialize()

    def by_key(self, inputs: Sequence[Input], function: Callable[..., pa.Table], schema: pa.Schema, n: int) -> Any:
        if n == 1:
            return in_one_place(inputs, [self._gathered(one.data) for one in inputs], function, schema)
        wide = wide_schema(inputs)
        schemas = [one.schema for one in inputs]

        def sent(one: Input, side: int) -> Any:
            pack = packer(one, side, wide)

            def packed(table: pa.Table) -> pa.Table:
                return pa.Table.from_batches([pack(batch) for batch in table.combine_chunks().to_batches()], wide)

            data = self._ray.data.from_arrow(one.data) if isinstance(one.data, pa.Table) else one.data
            return data.map_batches(packed, batch_size=None, batch_format="pyarrow")

        def received(table: pa.Table) -> pa.Table:
            if not table.num_rows:
                return schema.empty_table()
            table = as_table(table.to_batches(), wide)
            return unpack(function, table[PARTITION][0].as_py(), table, schemas, schema)

        filled = [sent(one, side) for side, one in enumerate(inputs) if self.count(one.data)]
        if not filled:
            return schema.empty_table()
        first, *others = filled
        groups = (first.union(*others) if others else first).groupby(PARTITION, num_partitions=n)
        return groups.map_groups(received, batch_format="pyarrow").materialize()

    def rows(self, table: pa.Table) -> Any:
        return table

    def _gathered(self, data: Any) -> pa.Table:
        if isinstance(data, pa.Table):
            return data
        tables = [one for one in self._ray.get(data.to_arrow_refs()) if one.num_rows]
        return pa.concat_tables(tables) if tables else pa.table({})

    def table(self, data: Any, schema: pa.Schema) -> pa.Table:
        rows = self._gathered(data)
        return as_table(rows.to_batches(), schema) if rows.num_rows else schema.empty_table()

    def count(self, data: Any) -> int:
        return data.num_rows if isinstance(data, pa.Table) else data.count()

    def release(self, *data: Any) -> None:
        """Blocks go when nothing refers to them any more."""


def run_tasks(
    function: Callable[[T], R],
    arguments: Sequence[T],
    progress: Progress | None = None,
    *,
    gpus: bool = False,
    most: int | None = None,
) -> list[R]:
    """`[function(argument) for argument in arguments]` as Ray tasks of one CPU each, a bounded number in flight.

    At most `most` of them are, where it is given: of tasks that wait for something outside, more would only make the cluster
    grow.

    Tasks run on nodes that are not for GPU work; with `gpus` on the others, and each has one GPU. A task is retried when its
    worker or node dies, and when storage fails (`storage.faults`); the first other error of a task is raised, a ValueError as
    itself, after the tasks that still ran have been stopped: what is raised here ends a stage, and nobody may write to it then.
    """
    import ray

    options = {
        "num_cpus": 1,
        "max_retries": 3,
        "retry_exceptions": list(storage.faults()),
        "label_selector": placement.CPU,
    }
    if gpus:
        options |= {"num_gpus": 1, "label_selector": placement.GPU}
    flag = f"pinisi-stop-{uuid.uuid4().hex}"
    remote = ray.remote(_unless_stopped(function, flag)).options(**options)
    results: list = [None] * len(arguments)
    waiting: dict = {}
    finished = 0
    following = iter(enumerate(arguments))
    try:
        while True:
            limit = min(most or sys.maxsize, max(2, placement.in_flight()))  # a cluster grows and shrinks meanwhile
            while len(waiting) < limit and (item := next(following, None)):
                waiting[remote.remote(item)] = item[0]
            if not waiting:
                return results
            ready, _ = ray.wait(list(waiting), num_returns=1)
            for reference in ready:
                try:
                    results[waiting.pop(reference)] = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    if isinstance(
                        error.cause, ValueError
                    ):  # raised for the user; Ray would wrap its sentence in a trace
                        raise ValueError(str(error.cause)) from error
                    raise
                finished += 1
                if progress:
                    progress(finished)
    finally:
        if waiting:
            _stop(waiting, flag)


def _unless_stopped(function: Callable[[T], R], flag: str) -> Callable[[tuple[int, T]], R | None]:
    """`function` of a number and an argument, that does nothing once `flag` stands in Ray's key-value store. While it runs its
    number stands there; it is put there before the flag is looked for, so whoever puts the flag sees all that run."""

    @functools.wraps(function)
    def task(item: tuple[int, T]) -> R | None:
        from ray.experimental import internal_kv

        number, argument = item
        running = f"{flag}/{number}"
        internal_kv._internal_kv_put(running, b"")
        try:
            return None if internal_kv._internal_kv_exists(flag) else function(argument)
        finally:
            internal_kv._internal_kv_del(running)

    return task


def _stop(tasks: dict, flag: str) -> None:
    """Return when none of `tasks` (reference -> number) runs any more, or none that listens.

    Tasks that have not begun are stopped by a flag, and not waited for: there may be no node for them. Short ones may finish:
    `ray.cancel` of a task whose answer is on its way kills the driver (Ray's check `submissible_tasks_.end()`,
    ray-project/ray#54846, seen with 2.60). It is left for tasks that go on for long, where the two are not likely to meet.
    """
    import ray
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(flag, b"")
    begun = {int(key.decode().rpartition("/")[2]) for key in internal_kv._internal_kv_list(f"{flag}/")}
    running = [reference for reference, number in tasks.items() if number in begun]
    if running:
        _, running = ray.wait(running, num_returns=len(running), timeout=FINISH_SECONDS)
    for reference in running:
        ray.cancel(reference)
    if running:
        ray.wait(running, num_returns=len(running), timeout=CANCEL_SECONDS)
    # the flag stays: tasks that have not begun may do so later
