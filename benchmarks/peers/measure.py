"""What every peer is measured with: CPU seconds of this process and its ended children, and peak memory."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq


def documents(path: str) -> list[dict]:
    """Rows {id, text, ...} of the benchmark's corpus."""
    return pq.read_table(path).to_pylist()


@contextmanager
def measured(result: dict) -> Iterator[None]:
    """Add cpu_seconds, wall_seconds and peak_mb of the block to `result`."""
    before, begin = os.times(), time.monotonic()
    yield
    after = os.times()
    result["cpu_seconds"] = sum(after[:4]) - sum(before[:4])
    result["wall_seconds"] = time.monotonic() - begin
    # not ru_maxrss of this process, which begins with that of the one that started it
    own = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    result["peak_mb"] = round(max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024, 1)


def main(tasks: dict) -> None:
    """`python <peer>.py TASK ARGUMENT...` prints the task's result as the last line of its output."""
    task, *arguments = sys.argv[1:]
    result = tasks[task](*arguments)
    sys.stdout.flush()
    print("\n" + json.dumps(result), flush=True)
    os._exit(0)  # some peers leave threads behind
