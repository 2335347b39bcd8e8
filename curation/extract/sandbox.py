"""Run a function on untrusted items in a worker process that may be killed.

A parser in C can hang or crash on a hostile page, and no exception handler of its own process stops that. So items go
in batches through pipes to one persistent worker: the cost is a copy of the bytes, not a process per item. The worker
has limits of CPU time per item (`ITIMER_PROF`: other load on the machine does not count, so results do not depend on
it) and of memory beyond that of the loaded libraries (`RLIMIT_AS`). When an item kills it, the item is reported and a new
worker goes on behind it.

The worker is started by `subprocess` and not `multiprocessing`, whose children may not have children: so it runs inside
Ray and Spark workers alike. Messages are a length and JSON or raw bytes; nothing is pickled.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import sysconfig
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO

FRAME = struct.Struct("<I")
START_SECONDS = 600.0  # the first start ever compiles kernels, on a machine that may be busy
WALL_FACTOR = 20.0  # a worker that uses no CPU either is given up after this many times the CPU limit
TIMEOUT = "timeout"
CRASH = "crash"


class Sandbox:
    """`function` ("package.module:name") applied to (header, payload) items in a worker process.

    `function(header: dict, payload: bytes, **options) -> dict` must give a JSON-ready dict. Each result is that dict,
    or `{"failure": "timeout" | "crash", "detail": ...}`. An item that crashes a worker is tried once more in a fresh
    one, so that it does not pay for what went before. A `prepare(**options)` in the module runs once as a worker starts,
    before the limits.
    """

    def __init__(self, function: str, options: dict, seconds: float, memory_bytes: int) -> None:
        self.function = function
        self.options = options
        self.seconds = seconds
        self.memory_bytes = memory_bytes
        self._process: subprocess.Popen | None = None
        self._finalizer: weakref.finalize | None = None
        self._fresh = False
        self._unread = 0  # results that the worker still owes

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_process": None, "_finalizer": None}

    def map(self, items: list[tuple[dict, bytes]]) -> Iterator[dict]:
        """The result of each item, in order."""
        done = 0
        while done < len(items):
            for result in self._run(items[done:]):
                yield result
                done += 1

    def close(self) -> None:
        """End the worker; the next call of `map` starts another."""
        if self._finalizer:
            self._finalizer()
        self._process = self._finalizer = None

    def _run(self, items: list[tuple[dict, bytes]]) -> Iterator[dict]:
        """Results of the first items, as far as one worker gets."""
        process = self._worker()
        requests, results = _pipes(process)
        header = json.dumps([(head, len(payload)) for head, payload in items]).encode()
        self._unread = len(items)
        try:
            requests.write(FRAME.pack(len(header)) + header)
            for _, payload in items:
                requests.write(payload)
            requests.flush()
        except BrokenPipeError:
            yield from self._failed(process, "")
            return
        for _ in items:
            frame = _receive(results.fileno(), self.seconds * WALL_FACTOR)
            if frame is None or isinstance(frame, str):
                yield from self._failed(process, frame or "")
                return
            self._fresh = False
            self._unread -= 1
            yield json.loads(frame)

    def _failed(self, process: subprocess.Popen, reason: str) -> Iterator[dict]:
        """What became of the item that the worker was at; nothing when the item is to be tried again."""
        fresh = self._fresh
        if reason == TIMEOUT:
            process.kill()
        code = process.wait()
        self.close()
        if reason == TIMEOUT or code == -signal.SIGPROF:
            yield {"failure": TIMEOUT, "detail": f"more than {self.seconds:g} s"}
        elif fresh:
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            yield {"failure": CRASH, "detail": f"the parser ended with {name}"}

    def _worker(self) -> subprocess.Popen:
        if self._process is not None and self._process.poll() is None and not self._unread:
            return self._process
        self.close()  # one that has not said all of its last answer would give it for the next question
        setup = {
            "function": self.function,
            "options": self.options,
            "seconds": self.seconds,
            "memory_bytes": self.memory_bytes,
        }
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_search_path())}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "curation.extract.sandbox", json.dumps(setup)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        self._finalizer = weakref.finalize(self, _end, self._process, os.getpid())
        ready = _receive(_pipes(self._process)[1].fileno(), START_SECONDS)
        if ready != b"ready":
            self.close()
            detail = ready.decode("utf-8", "replace") if isinstance(ready, bytes) else "it gave no answer"
            raise RuntimeError(f"the worker process for {self.function} did not start: {detail}")
        self._fresh, self._unread = True, 0
        return self._process


def _search_path() -> list[str]:
    """Where a worker looks for modules: first beside this package, then where this process does, the standard library before
    a folder of the user's, which may hold a `types.py`."""
    paths = [path or os.getcwd() for path in sys.path]
    library = sysconfig.get_path("stdlib")
    before = paths[: paths.index(library)] if library in paths else []
    return [str(Path(__file__).parents[2]), *paths[len(before) :], *before]


def _pipes(process: subprocess.Popen) -> tuple[IO[bytes], IO[bytes]]:
    """(To the worker, from it.)"""
    assert process.stdin is not None and process.stdout is not None, "both were asked for"
    return process.stdin, process.stdout


def _end(process: subprocess.Popen, owner: int) -> None:
    if os.getpid() != owner:  # a fork of the owner that ends leaves the owner's worker alone
        return
    process.kill()
    for pipe in _pipes(process):
        with contextlib.suppress(OSError):
            pipe.close()
    process.wait()


def _receive(fd: int, seconds: float) -> bytes | str | None:
    """One frame; None when the other side has ended, `TIMEOUT` when nothing came for so many seconds."""
    deadline = time.monotonic() + seconds
    data = bytearray()
    wanted = FRAME.size
    size_known = False
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while len(data) < wanted:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return TIMEOUT
        chunk = os.read(fd, min(wanted - len(data), 1 << 16))
        if not chunk:
            return None
        data += chunk
        if not size_known and len(data) == wanted:
            wanted = FRAME.unpack(data)[0]
            data.clear()
            size_known = True
    return bytes(data)


def _serve(setup: dict) -> None:
    """The worker: read a batch, apply the function item by item, write each result; until the parent goes."""
    requests = os.fdopen(os.dup(0), "rb")
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints does not get among the results

    def send(data: bytes) -> None:
        results.write(FRAME.pack(len(data)) + data)
        results.flush()

    try:
        module, name = setup["function"].split(":")
        module = importlib.import_module(module)
        function = getattr(module, name)
        if hasattr(module, "prepare"):
            module.prepare(**setup["options"])
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_AS, _address_space() + setup["memory_bytes"])
    except Exception as problem:
        send(f"{type(problem).__name__}: {problem}".encode())
        return
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process even within C code
    send(b"ready")
    while size := requests.read(FRAME.size):
        headers = json.loads(requests.read(FRAME.unpack(size)[0]))
        payloads = [requests.read(n_bytes) for _, n_bytes in headers]
        for (header, _), payload in zip(headers, payloads, strict=True):
            signal.setitimer(signal.ITIMER_PROF, setup["seconds"])
            try:
                result = function(header, payload, **setup["options"])
            except Exception as problem:
                result = {"failure": CRASH, "detail": f"{type(problem).__name__}: {problem}"[:300]}
            data = json.dumps(result).encode()
            signal.setitimer(signal.ITIMER_PROF, 0)
            send(data)


def _address_space() -> int:
    """Bytes of address space that the process has now; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _limit(what: int, value: int) -> None:
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
