"""What people said of documents: one JSON Lines file an annotator, to which lines are only ever added.

A line is {"key", "label", "at", …}; the last line of a key holds, and one whose label is null takes the judgement back. A line
is on the disk before its judgement counts as saved. What a kill leaves of a half-written line is passed over, and the next line
begins on its own. An object store cannot append, so there the annotator's own file is read and written again with the line.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Collection
from pathlib import Path

from cluster import storage
from ray_jobs.errors import UserError

FOLDER = "inspect/annotations"
_FORBIDDEN = frozenset('/\\:*?"<>|[]')

CODES = {
    "CC": "natural text in the language",
    "CB": "boilerplate or poor text in the language",
    "CS": "only single words or phrases of the language",
    "WL": "another language",
    "NL": "not language at all",
}
"""The codes of Kreutzer et al. 2022 (Quality at a Glance, table 2) for text in one language: CC, CB and CS are correct, WL and
NL are errors."""
UNSURE = "unsure"
FLAGS = {
    "offensive": "offensive",
    "porn": "pornographic",
    "translated": "machine translation",
    "personal": "personal data",
}
"""Beside a code. The first two are those of Kreutzer et al."""
NOISE = ("CB", "WL", "NL")
"""What a filter is there to take away: their errors, and boilerplate, which they count as correct but low in quality."""

_writing = threading.Lock()


def name_of(name: str) -> str:
    """`name` when it can be the name of a file. Raises UserError."""
    if not name or len(name) > 64 or name[0] == "." or not name.isprintable() or _FORBIDDEN & set(name):
        raise UserError(f'--as {name!r}: give a name of at most 64 letters without any of / \\ : * ? " < > | [ ]')
    return name


def file(run_uri: str, name: str, folder: str = FOLDER) -> str:
    return storage.join(run_uri, folder, f"{name}.jsonl")


def append(uri: str, row: dict) -> None:
    """Add a line; when this returns it is on the disk. Raises what the storage raises."""
    line = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    with _writing:
        if not storage.is_local(uri):
            before = storage.read_bytes(uri) if storage.exists(uri) else b""
            storage.write_bytes(uri, _whole(before) + line)
            return
        path = Path(storage.local(uri))
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0) as target:
            if target.seek(0, os.SEEK_END):
                target.seek(-1, os.SEEK_END)
                line = line if target.read(1) == b"\n" else b"\n" + line
            if target.write(line) != len(line):
                raise OSError(f"{uri}: the disk took only a part of the line")
            os.fsync(target.fileno())


class Desk:
    """What one annotator has said: `said` is key -> last line. `rows` are those that may be judged.

    Raises UserError for a name that no file can have."""

    def __init__(self, run_uri: str, name: str, rows: Collection[str], folder: str = FOLDER):
        self.name = name_of(name)
        self.file = file(run_uri, self.name, folder)
        self.said = {key: row for key, row in read(self.file).items() if key in rows}
        self._lock = threading.Lock()

    def undo(self, key: str) -> bool:
        if key not in self.said:
            return False
        self._save({"key": key, "label": None})
        return True

    def _save(self, row: dict) -> None:
        row = {**row, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        with self._lock:
            append(self.file, row)
            self.said.pop(row["key"], None)
            if row["label"] is not None:
                self.said[row["key"]] = row


def _whole(lines: bytes) -> bytes:
    return lines + b"\n" if lines and not lines.endswith(b"\n") else lines


def read(uri: str) -> dict[str, dict]:
    """key -> its last line, without those taken back; nothing where there is no file."""
    if not storage.exists(uri):
        return {}
    found: dict[str, dict] = {}
    for line in storage.read_bytes(uri).split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:  # of a write that was broken off, or empty
            continue
        if isinstance(row, dict) and isinstance(row.get("key"), str):
            found.pop(row["key"], None)  # so that the order is that of the last lines
            found[row["key"]] = row
    return {key: row for key, row in found.items() if row.get("label") is not None}


def everybody(run_uri: str, folder: str = FOLDER) -> dict[str, dict[str, dict]]:
    """annotator -> key -> line."""
    parts = storage.glob(storage.join(run_uri, folder, "*.jsonl"))
    return {uri.rsplit("/", 1)[1].removesuffix(".jsonl"): read(uri) for uri in parts}
