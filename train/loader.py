"""Batches made ahead of the loop, by threads, while the model computes.

The order in which the loop asks is known (`calls_of`), and a batch function is pure, so what is made ahead is what would have
been made: the loop runs as without it, bit for bit, and may be resumed at any row. Asked for something else (a resume, a
rollback), it starts anew from there. Several threads, because a batch from object storage is mostly waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain

from train.batches.parts import Batch, BatchFn
from train.distributed import data_parallel
from train.loop_config import LoopConfig

THREADS = 8
LEAST_AHEAD = 8  # micro-batches


class Loader:
    """`batch_fn` with its next calls already made. Call it as the batch function; `close` it at the end.

    `following(numbers)`: the calls that come after the call with these row numbers, in their order. `ahead`: how many of
    them are made or being made at a time. `restarts` counts the calls that were not foreseen. An exception of the batch
    function is raised by the call whose batch it would have been.
    """

    def __init__(
        self,
        batch_fn: BatchFn,
        following: Callable[[list[int]], Iterator[list[int]]],
        ahead: int,
        threads: int = THREADS,
    ) -> None:
        self.batch_fn = batch_fn
        self.following = following
        self.ahead = ahead
        self.restarts = 0
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="loader")
        self._coming: Iterator[list[int]] = iter(())
        self._made: deque[tuple[list[int], Future[Batch]]] = deque()

    def __call__(self, numbers: list[int]) -> Batch:
        if not self._made or self._made[0][0] != numbers:
            self._drop()
            self.restarts += 1
            self._coming = chain([numbers], self.following(numbers))
            self._fill(1)
        _, batch = self._made.popleft()
        self._fill(self.ahead)
        return batch.result()

    def close(self) -> None:
        """Stop: nothing more is made, and what is being made is waited for."""
        self._drop()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _fill(self, count: int) -> None:
        while len(self._made) < count and (numbers := next(self._coming, None)) is not None:
            self._made.append((numbers, self._threads.submit(self.batch_fn, numbers)))

    def _drop(self) -> None:
        while self._made:
            self._made.pop()[1].cancel()


def calls_of(config: LoopConfig, rank: int, world: int) -> Callable[[list[int]], Iterator[list[int]]]:
    """How `train.loop.fit` goes on after the call of its batch function with some row numbers."""

    def following(numbers: list[int]) -> Iterator[list[int]]:
        for step in range(numbers[0] // config.rows_per_step, config.steps):
            for rows in config.micro_batches(step, rank, world):
                if rows[0] > numbers[-1]:
                    yield rows

    return following


@contextmanager
def ahead(batch_fn: BatchFn, config: LoopConfig) -> Iterator[Loader]:
    """`batch_fn` for `fit` with this config on this rank, made ahead by the micro-batches of an update."""
    rank, world = data_parallel.data_rank_world(config.context_parallel)
    per_step = len(config.micro_batches(0, rank, world))
    loader = Loader(batch_fn, calls_of(config, rank, world), max(LEAST_AHEAD, per_step))
    try:
        yield loader
    finally:
        loader.close()
