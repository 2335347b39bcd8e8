"""Results that a run does not make because another run has them under the same fingerprint: it reads them where they lie.

`_adopted.json` in the folder of a run names for each such stage the run that made it, at any URI. Nothing is copied, and what
is adopted is never written. All that reads a stage's result asks `path` where that is.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from cluster import storage

FILE = "_adopted.json"


@lru_cache(maxsize=256)  # asked for every file that a stage reads; `write` and a newly opened run look again
def read(uri: str) -> dict[str, str]:
    """Stage -> the run that made it, of the stages that the run at `uri` has adopted."""
    try:
        return storage.read_json(storage.join(uri, FILE))
    except FileNotFoundError:
        return {}


def write(uri: str, found: Mapping[str, str]) -> None:
    """Say what the run at `uri` has adopted, in the place of what was said before."""
    if dict(found) != read(uri):
        if found:
            storage.write_json(storage.join(uri, FILE), dict(found))
        else:
            storage.remove(storage.join(uri, FILE))
    read.cache_clear()


def leave(uri: str, stage: str) -> None:
    """Adopt `stage` no longer, because this run makes it itself."""
    write(uri, {name: run for name, run in read(uri).items() if name != stage})


def home(uri: str, stage: str) -> str:
    """The run that holds the result of `stage` of the run at `uri`: this one, or the one that it is adopted from."""
    return read(uri).get(stage, uri)


def path(uri: str, stage: str, *parts: str) -> str:
    """A URI in the folder of what `stage` made for the run at `uri`."""
    return storage.join(home(uri, stage), stage, *parts)


def ledger(uri: str, stage: str, *parts: str) -> str:
    """The same of what `stage` dropped, and why."""
    return storage.join(home(uri, stage), "dropped", stage, *parts)
