"""Whether a bundle (`pinisi bundle`) is whole and fits this machine, before anything of it is installed: `make setup BUNDLE=…`.

Needs Python's own library alone.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from pathlib import Path

SUMS, FACTS = "SHA256SUMS", "bundle.json"


def place() -> dict[str, str]:
    """What wheels depend on: the Python, and the system and processor."""
    system = f"{platform.system().lower()}-{platform.machine().lower()}"
    return {"python": ".".join(map(str, sys.version_info[:2])), "platform": system}


def fault(folder: Path) -> str | None:
    """What is wrong with the bundle in `folder`, in one sentence, or None."""
    if len(str(folder.resolve()).split()) > 1:
        return f"BUNDLE={folder}: make and pip take no path with a space; move the bundle to one without"
    try:
        facts = json.loads((folder / FACTS).read_text("utf-8"))
        lines = (folder / SUMS).read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return f"BUNDLE={folder}: there is no bundle here ({FACTS} and {SUMS}); `pinisi bundle` makes one"
    for what, here in place().items():
        if facts.get(what) != here:
            return (
                f"BUNDLE={folder} is for {what} {facts.get(what)}, and this is {here}; make one on a machine like this"
            )
    for line in lines:
        wanted, _, name = line.partition("  ")
        file = folder / name
        if not file.is_file():
            return f"BUNDLE={folder}: {name} is missing; copy the bundle again"
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != wanted:
                return f"BUNDLE={folder}: {name} is not what it was; copy the bundle again"
    return None


if __name__ == "__main__":
    if said := fault(Path(sys.argv[1])):
        sys.exit(said)
