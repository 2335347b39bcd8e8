"""The rate limit of a whole cluster: one Ray actor that every worker asks before it sends a request.

The actor holds no CPU. When its node is lost Ray starts it again elsewhere with empty hands: buckets at their burst, no
lease, which is what a new crawl begins with.
"""

from __future__ import annotations

import asyncio

import ray

from cluster.engines import placement
from cluster.fetch.rate import Asked, Blocked, Rate, RateLimit

WAITING = 10_000  # callers that may wait at the actor at a time


class RateActor:
    """`RateLimit` behind asynchronous methods, so that waiting callers do not hold up `done`."""

    def __init__(self, rate: Rate):
        self._limit = RateLimit(rate)
        self._queue = asyncio.Lock()
        self._changed = asyncio.Event()

    @ray.method
    async def ask(self, n_bytes: int, lease_seconds: float) -> int | str:
        """A lease, or the sentence with which the limit was stopped."""
        async with self._queue:
            while True:
                self._changed.clear()
                try:
                    lease, wait = self._limit.try_ask(n_bytes, lease_seconds)
                except Blocked as blocked:
                    return str(blocked)
                if lease is not None:
                    return lease
                try:
                    await asyncio.wait_for(self._changed.wait(), wait)
                except TimeoutError:
                    continue

    @ray.method
    async def done(self, lease: int) -> None:
        self._limit.done(lease)
        self._changed.set()

    @ray.method
    async def pause(self, seconds: float) -> None:
        self._limit.pause(seconds)

    @ray.method
    async def stop(self, reason: str) -> None:
        self._limit.stop(reason)
        self._changed.set()

    @ray.method
    async def asked(self) -> Asked:
        return self._limit.asked


class SharedLimiter:
    """A `Limiter` over the actor; it is sent to the workers inside their tasks."""

    def __init__(self, rate: Rate):
        options = {"num_cpus": 0, "max_concurrency": WAITING, "max_restarts": -1, "max_task_retries": -1}
        self._actor = ray.remote(RateActor).options(**options, label_selector=placement.CPU).remote(rate)

    def ask(self, n_bytes: int, lease_seconds: float) -> int:
        answer = ray.get(self._actor.ask.remote(n_bytes, lease_seconds))
        if isinstance(answer, str):
            raise Blocked(answer)
        return answer

    def done(self, lease: int) -> None:
        self._actor.done.remote(lease)

    def pause(self, seconds: float) -> None:
        self._actor.pause.remote(seconds)

    def stop(self, reason: str) -> None:
        ray.get(self._actor.stop.remote(reason))

    def asked(self, wait: float | None = None) -> Asked:
        """Since the crawl was started, or since the actor was lost with its node. Raises GetTimeoutError after `wait` seconds."""
        return ray.get(self._actor.asked.remote(), timeout=wait)
