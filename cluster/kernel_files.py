"""Compiled kernels that are no longer what the source says are thrown away.

numba keeps the machine code of a function beside its module, and trusts it as long as that one file is the same. The functions
of other modules that were compiled into it are not looked at: after an upgrade in place, old and new code would be mixed. So
the command line calls `drop_stale` before anything else; a program that uses the packages as libraries can do so too.
"""

from __future__ import annotations

import contextlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "curation", "mixture", "train")
STAMP = Path("__pycache__", "kernels.stamp")


@cache
def drop_stale(root: Path = ROOT) -> int:
    """Delete numba's files below `root` if any source there differs from when they were made; returns how many went.

    A process that has them open, or compiles at the same time, loses nothing: numba compiles what it does not find. Where nothing
    can be written, numba has its files elsewhere too, and these stay.
    """
    folders = [root / name for name in PACKAGES]
    sources = sorted(file for folder in folders for file in folder.rglob("*.py"))
    state = "".join(f"{file} {file.stat().st_mtime_ns} {file.stat().st_size}\n" for file in sources)
    stamp = root / PACKAGES[0] / STAMP
    with contextlib.suppress(OSError):
        if stamp.read_text(encoding="utf-8") == state:
            return 0
    gone = 0
    with contextlib.suppress(OSError):
        for folder in folders:
            for file in folder.rglob("*.nb[ic]"):
                file.unlink(missing_ok=True)
                gone += 1
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(state, encoding="utf-8")
    return gone
