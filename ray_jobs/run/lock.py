"""The lock of a run directory: one `pinisi run` at a time, on whatever machine, and none that outlives its process.

`_lock.json` names its holder and a beat, a number that the holder raises every `BEAT_SECONDS`. A lock of this machine is free
when its process is gone. A lock of another machine is free when its beat stands still for `DEAD_SECONDS`; that is
watched, not computed, so the clocks of the two need not agree.

A lock is made in one step that fails where there is one. A free one that still lies there is replaced by whoever makes
`_lock.json.HOLDER` first, HOLDER being its dead one's: so of several that find it free, one gets it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cluster import storage
from ray_jobs.errors import UserError

BEAT_SECONDS = 5.0
DEAD_SECONDS = 30.0  # a live holder beats several times in it, even on a slow object store
ATTEMPT = "PINISI_ATTEMPT"  # environment variable: the submission id of the Ray job that this process is

FILE = "_lock.json"


@contextmanager
def held(uri: str, say: Callable[[str], None] = print) -> Iterator[None]:
    """Hold the lock of the run at `uri` while the block runs.

    Raises UserError when another process holds it and lives. Should another one take it over meanwhile (this machine
    slept), the block is ended by KeyboardInterrupt."""
    path = storage.join(uri, FILE)
    mine = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": started(os.getpid()),
        "holder": uuid.uuid4().hex,
        "attempt": os.environ.get(ATTEMPT),
        "beat": 0,
        "at": time.time(),
    }
    _acquire(path, mine, uri, say)
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, mine, over), daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()
        with contextlib.suppress(Exception):  # an unreachable store must not hide what ended the block
            if _read(path).get("holder") == mine["holder"]:
                storage.remove(path)


def alive(uri: str) -> bool:
    """Whether somebody works on the run at `uri`, as far as the clocks of two machines can tell."""
    found = _read(storage.join(uri, FILE))
    if found.get("host") == socket.gethostname():
        return _alive(found["pid"], found["started"])
    return time.time() - found.get("at", 0.0) < 2 * DEAD_SECONDS


def holder(uri: str) -> dict:
    """What the lock of the run at `uri` says: host, pid, `started` and `at` (its last beat) by its own clock; {} without one."""
    return _read(storage.join(uri, FILE))


def started(pid: int) -> float:
    """When the process began, seconds since 1970: with its number this tells it from later ones of the same number."""
    import psutil

    return psutil.Process(pid).create_time()


def _acquire(path: str, mine: dict, uri: str, say: Callable[[str], None]) -> None:
    """Make the lock ours. Raises UserError when another process has it, or gets it first."""
    while True:
        left = _wait(path, uri, say)
        if not left:
            if storage.create_json(path, mine):
                return
            continue  # somebody was quicker
        right = f"{path}.{left['holder']}"  # to replace what a dead one has left
        if not storage.create_json(right, mine):
            if _wait(right, uri, say):
                storage.remove(right)
            continue
        try:
            if _read(path) == left:
                storage.write_json(path, mine)
                return
        finally:
            storage.remove(right)


def _wait(path: str, uri: str, say: Callable[[str], None]) -> dict:
    """What is left there of a holder that is gone, {} where nothing is. Raises UserError when it lives."""
    found = _read(path)
    if not found:
        return {}
    if found["host"] == socket.gethostname():
        if found["pid"] != os.getpid() and _alive(found["pid"], found["started"]):
            raise UserError(f"{uri}: process {found['pid']} is already running this; wait for it or stop it")
        return found
    say(f"host {found['host']} had this run; waiting up to {DEAD_SECONDS:.0f} s to see whether it still works on it")
    deadline = time.monotonic() + DEAD_SECONDS
    while time.monotonic() < deadline:
        time.sleep(min(1.0, BEAT_SECONDS))
        now = _read(path)
        if not now:
            return {}
        if now != found:
            attempt = f" (job {now['attempt']})" if now.get("attempt") else ""
            raise UserError(f"{uri}: host {now['host']}{attempt} is running this; wait for it or stop it")
    return found


def _read(path: str) -> dict:
    try:
        return storage.read_json(path)
    except FileNotFoundError:
        return {}


def _beat(path: str, mine: dict, over: threading.Event) -> None:
    while not over.wait(BEAT_SECONDS):
        with contextlib.suppress(Exception):  # a store that fails now is asked again at the next beat
            if _read(path).get("holder", mine["holder"]) != mine["holder"]:
                print("pinisi: another process took this run over; this one stops", file=sys.stderr)
                main = threading.main_thread().ident
                assert main is not None
                # as Ctrl-C: ends a wait too. Shells start what runs in the background with that ignored.
                ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
                signal.pthread_kill(main, signal.SIGTERM if ignored else signal.SIGINT)
                return
            mine |= {"beat": mine["beat"] + 1, "at": time.time()}
            storage.write_json(path, mine)


def _alive(pid: int, since: float) -> bool:
    import psutil

    return psutil.pid_exists(pid) and abs(started(pid) - since) < 1.0
