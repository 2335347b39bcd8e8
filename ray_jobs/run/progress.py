"""Progress of one stage: a bar on a terminal, plain lines with rate and time left in a log, and a small file in the run's
folder from which `pinisi status` reads on any machine how far the stage is."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from cluster import gauges, storage, terminal

EVERY_SECONDS = 10.0
FILE = "_progress.json"
WINDOW_SECONDS = 1800.0  # the rate is of the newer half of the time, and of no more than this
SAMPLE_SECONDS = 0.2  # between two samples that are kept
BAR_COLUMNS = 120  # at most, however wide the terminal is
BAR_ROOM = 16  # of them for the bar itself, the time since the stage began, and what is between


class Pace:
    """How fast work goes now: what was done in the newer half of the time since it began.

    So a slow beginning (starting, compiling) is forgotten when the work has gone on for as long again as its first result
    took; before that nothing is told. A rate that changes later is followed. What was done before the beginning does not
    count. `warm`: the beginning was a result itself.
    """

    def __init__(self, now: float, done: int, *, warm: bool = False):
        self.begin, self.seen, self.warm = now, deque([(now, done)]), warm

    def add(self, now: float, done: int) -> None:
        if done < self.seen[-1][1]:  # lost work is done again
            self.begin, self.seen, self.warm = now, deque([(now, done)]), False
        if done == self.seen[-1][1]:
            return
        if len(self.seen) > 1 and now - self.seen[-2][0] < SAMPLE_SECONDS:
            self.seen.pop()
        self.seen.append((now, done))
        since = max((self.begin + now) / 2, now - WINDOW_SECONDS)
        while len(self.seen) > 2 and self.seen[1][0] <= since:
            self.seen.popleft()

    def lately(self) -> tuple[int, float]:
        """(units, seconds in which they were done); (0, 0.0) as long as that is not known."""
        (began, before), (now, done) = self.seen[0], self.seen[-1]
        return (done - before, now - began) if self.warm or began > self.begin else (0, 0.0)


def per_second(lately: tuple[int, float], silence: float = 0.0) -> float | None:
    """The rate by `Pace.lately`, None while there is none. `silence`: seconds since then in which nothing was heard."""
    units, seconds = lately
    return units / (seconds + silence) if units > 0 and seconds > 0 else None


def sentence(
    done: int, total: int | None, unit: str, rate: float | None, left: float | None, *, n=terminal.count
) -> str:
    """How far work is: `324/586 steps, 2.2/s, about 2 m left`; without what is not known. `n` writes the counts."""
    parts = [f"{n(done)}{f'/{n(total)}' if total else ''} {unit}".rstrip()]
    parts += [terminal.rate(rate)] if rate else []
    parts += [f"about {terminal.duration(left)} left"] if left is not None else []
    return ", ".join(parts)


class Progress:
    """`start(total, unit)` (0 = unknown) when the work begins, then `set(done)`; a context manager.

    `folder` is where the file lies while the stage runs: done, total, unit, `before` (done when this process began), `lately`
    (`Pace.lately`), `at`, the time of day here, and `seconds` since the stage was begun here."""

    def __init__(
        self,
        stage: str,
        say: Callable[[str], None] = print,
        folder: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.stage, self.say, self.clock = stage, say, clock
        self.uri = storage.join(folder, FILE) if folder else None
        self.bar: Bar | None = None
        self.total = self.done = self.before = 0
        self.unit = ""
        self.begin = self.last = clock()
        self.pace = Pace(self.begin, 0)

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            console = Console(stderr=True, width=min(terminal.width(), BAR_COLUMNS))
            columns = (TextColumn("{task.description} {task.fields[said]}", markup=False), BarColumn(None))
            self.bar = Bar(*columns, TimeElapsedColumn(), console=console, expand=True, transient=True)
            self.room = console.width - len(self.stage) - BAR_ROOM
            self.bar.start()
            self.task = self.bar.add_task(self.stage, total=None, said="")
        return self

    def __exit__(self, *exception) -> None:
        if self.bar:
            self.bar.stop()
        if self.uri and exception == (None, None, None):
            storage.remove(self.uri)

    def start(self, total: int, unit: str, done: int = 0) -> None:
        """`done` of `total` were finished before: they are no work of this process, so its rate does not count them."""
        self.unit, self.before = unit, done
        self._begin(total, done, warm=False)

    def count_from(self, total: int, done: int) -> None:
        """`done` have just come; the rate counts from here, as what went before was more than work, such as compiling."""
        self._begin(total, done, warm=True)

    def _begin(self, total: int, done: int, *, warm: bool) -> None:
        self.total, self.done, self.last = total, done, self.clock()
        self.pace = Pace(self.last, done, warm=warm)
        self._write()
        if self.bar:
            self.bar.reset(self.task, total=total or None, completed=done, said=self._said(None))

    def set(self, done: int) -> None:
        self.done = done = max(done, self.before)  # tasks that find their work done come by first
        now = self.clock()
        self.pace.add(now, done)
        rate = per_second(self.pace.lately())
        left = (self.total - done) / rate if rate and self.total else None
        if self.bar:
            self.bar.update(self.task, completed=done, said=self._said(left))
        if now - self.last < EVERY_SECONDS or done == self.before:
            return
        self.last = now
        self._write()
        for name, value in (("done", done), ("total", self.total), ("rate", rate or 0.0)):
            gauges.put(f"pinisi_stage_{name}", value, stage=self.stage, unit=self.unit)
        if not self.bar:
            self.say(f"{self.stage}: {sentence(done, self.total, self.unit, rate, left)}")

    def _said(self, left: float | None) -> str:
        """What stands beside the bar, as much as there is room for."""
        for unit, n in ((self.unit, terminal.count), (self.unit, terminal.short), ("", terminal.short)):
            said = sentence(self.done, self.total, unit, None, left, n=n)
            if len(said) <= self.room:
                break
        return said

    def _write(self) -> None:
        if self.uri:
            units, seconds = self.pace.lately()
            lately = {"lately": [units, round(seconds, 3)], "at": time.time()}
            lately["seconds"] = round(self.clock() - self.begin, 1)
            found = {"done": self.done, "total": self.total, "unit": self.unit, "before": self.before, **lately}
            with contextlib.suppress(*storage.faults()):  # it only informs; the stage itself will meet the fault
                storage.write_json(self.uri, found)
