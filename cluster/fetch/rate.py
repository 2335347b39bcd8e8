"""One rate limit for many readers of one host: requests per second, bytes per second, requests under way at a time.

Two token buckets and a count of slots. The bytes of an answer are paid before it is asked for and may leave that bucket in
debt, so an answer larger than the bucket is let through and the next one waits for it. A host that asks for less gets less:
every `pause` halves the pace, down to an eighth of what is allowed, and the pace comes back evenly within a minute.

Whoever is granted a request sends it at once. So in any window of t seconds the host sees at most
`requests_per_second * t + burst + concurrency` requests, however long a granted one was under way before it arrived.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

BURST_SECONDS = 0.1  # what the buckets save up for
SLOWEST = 1 / 8
RECOVERY_SECONDS = 60.0
HALVE_AT_MOST_EVERY = 1.0  # seconds: many answers to requests sent together are one complaint


class Blocked(ValueError):
    """The host refuses us; the message says what the user can do. No request is sent after it."""


@dataclass(frozen=True)
class Rate:
    requests_per_second: float
    bytes_per_second: float
    concurrency: int

    @property
    def burst(self) -> float:
        """Requests that may follow one another at once."""
        return max(1.0, self.requests_per_second * BURST_SECONDS)


@dataclass
class Asked:
    """What was asked of the host: requests, the bytes that they were for, how often it wanted less, and seconds from the first
    request to the last."""

    requests: int = 0
    bytes: int = 0
    pauses: int = 0
    seconds: float = 0.0


class Limiter(Protocol):
    """What a fetcher needs of a rate limit, whether it lies in this process or is shared by a cluster."""

    def ask(self, n_bytes: int, lease_seconds: float) -> int:
        """Wait until a request of `n_bytes` may be sent; its lease, which ends by itself when its holder dies."""

    def done(self, lease: int) -> None: ...

    def pause(self, seconds: float) -> None: ...

    def stop(self, reason: str) -> None: ...

    def asked(self, wait: float | None = None) -> Asked: ...


class RateLimit:
    """The state of the limit; it never waits itself, and `clock` gives the time in seconds."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic):
        self.rate, self._clock = rate, clock
        self._requests = rate.burst
        self._bytes = rate.bytes_per_second * BURST_SECONDS
        self._pace = 1.0
        self._updated = clock()
        self._not_before = self._halved = -float("inf")
        self._leases: dict[int, float] = {}
        self._numbers = itertools.count(random.getrandbits(48))  # none is that of a limit that was lost before this one
        self._stopped: str | None = None
        self.asked = Asked()
        self._first: float | None = None  # when the first request was granted

    def try_ask(self, n_bytes: int, lease_seconds: float) -> tuple[int | None, float]:
        """(lease, 0), or (None, seconds after which to try again). Raises Blocked after `stop`."""
        if self._stopped is not None:
            raise Blocked(self._stopped)
        now = self._refill()
        if now < self._not_before:
            return None, self._not_before - now
        self._leases = {lease: end for lease, end in self._leases.items() if end > now}
        if len(self._leases) >= self.rate.concurrency:
            return None, min(self._leases.values()) - now
        wait = max(
            (1 - self._requests) / (self.rate.requests_per_second * self._pace),
            -self._bytes / (self.rate.bytes_per_second * self._pace),
        )
        if wait > 1e-9:
            return None, wait
        self._requests -= 1
        self._bytes -= n_bytes
        lease = next(self._numbers)
        self._leases[lease] = now + lease_seconds
        self._first = now if self._first is None else self._first
        self.asked.requests += 1
        self.asked.bytes += n_bytes
        self.asked.seconds = now - self._first
        return lease, 0.0

    def done(self, lease: int) -> None:
        """The request of `lease` is over. A lease that ended by itself is no error."""
        self._leases.pop(lease, None)

    def pause(self, seconds: float) -> None:
        """The host asked for less: nothing is sent for `seconds`, then at half the pace."""
        now = self._refill()
        self.asked.pauses += 1
        self._not_before = max(self._not_before, now + seconds)
        if now - self._halved >= HALVE_AT_MOST_EVERY:
            self._pace, self._halved = max(SLOWEST, self._pace / 2), now

    def stop(self, reason: str) -> None:
        """Refuse every request from now on."""
        self._stopped = self._stopped or reason

    def _refill(self) -> float:
        now = self._clock()
        passed, self._updated = now - self._updated, now
        self._requests = min(self.rate.burst, self._requests + passed * self.rate.requests_per_second * self._pace)
        most = self.rate.bytes_per_second * BURST_SECONDS
        self._bytes = min(most, self._bytes + passed * self.rate.bytes_per_second * self._pace)
        self._pace = min(1.0, self._pace + passed / RECOVERY_SECONDS)
        return now


class LocalLimiter:
    """A `Limiter` for the threads of one process, first come, first served."""

    def __init__(self, rate: Rate):
        self._limit = RateLimit(rate)
        self._changed = threading.Condition()
        self._queue = threading.Lock()

    def ask(self, n_bytes: int, lease_seconds: float) -> int:
        with self._queue, self._changed:
            while True:
                lease, wait = self._limit.try_ask(n_bytes, lease_seconds)
                if lease is not None:
                    return lease
                self._changed.wait(wait)

    def done(self, lease: int) -> None:
        with self._changed:
            self._limit.done(lease)
            self._changed.notify()

    def pause(self, seconds: float) -> None:
        with self._changed:
            self._limit.pause(seconds)

    def stop(self, reason: str) -> None:
        with self._changed:
            self._limit.stop(reason)
            self._changed.notify()

    def asked(self, wait: float | None = None) -> Asked:
        return self._limit.asked
