"""Progress of one stage: a bar on a terminal, plain lines with rate and ETA in a log, and a small file in the run's folder
from which `pinisi status` reads on any machine how far the stage is."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from cluster import gauges, storage

EVERY_SECONDS = 10.0
FILE = "_progress.json"


class Progress:
    """`start(total, unit)` (0 = unknown) when the work begins, then `advance(n)` or `set(done)`; a context manager.

    `folder` is where the file lies while the stage runs: done, total, unit, and seconds since the work began."""

    def __init__(self, stage: str, say: Callable[[str], None] = print, folder: str | None = None):
        self.stage, self.say = stage, say
        self.uri = storage.join(folder, FILE) if folder else None
        self.bar: Bar | None = None
        self.total = self.done = 0
        self.unit = ""
        self.begin = self.last = time.monotonic()

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description:<18}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}"),
            )
            from rich.console import Console

            console = Console(stderr=True)
            self.bar = Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
            self.bar.start()
            self.task = self.bar.add_task(self.stage, total=None, unit="")
        return self

    def __exit__(self, *exception) -> None:
        if self.bar:
            self.bar.stop()
        if self.uri and exception == (None, None, None):
            storage.remove(self.uri)

    def start(self, total: int, unit: str) -> None:
        self.total, self.unit, self.done = total, unit, 0
        self.begin = self.last = time.monotonic()
        self._write()
        if self.bar:
            self.bar.reset(self.task, total=total or None, unit=unit)

    def advance(self, n: int = 1) -> None:
        self.set(self.done + n)

    def set(self, done: int) -> None:
        self.done = done
        if self.bar:
            self.bar.update(self.task, completed=done)
        now = time.monotonic()
        if now - self.last < EVERY_SECONDS or not done:
            return
        self.last = now
        self._write()
        rate = done / (now - self.begin)
        for name, value in (("done", done), ("total", self.total), ("rate", rate)):
            gauges.put(f"pinisi_stage_{name}", value, stage=self.stage, unit=self.unit)
        if self.bar:
            return
        if self.total:
            left = (self.total - done) / rate
            self.say(f"{self.stage}: {done:,}/{self.total:,} {self.unit}, {rate:,.1f}/s, about {left:.0f} s left")
        else:
            self.say(f"{self.stage}: {done:,} {self.unit}, {rate:,.1f}/s")

    def _write(self) -> None:
        if self.uri:
            seconds = round(time.monotonic() - self.begin, 1)
            with contextlib.suppress(*storage.faults()):  # it only informs; the stage itself will meet the fault
                storage.write_json(
                    self.uri, {"done": self.done, "total": self.total, "unit": self.unit, "seconds": seconds}
                )
