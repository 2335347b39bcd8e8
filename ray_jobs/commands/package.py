"""What `pinisi submit` sends to a cluster: the recipe, and the code when it runs from a checkout.

One zip that is the same for the same content, so that Ray uploads it once. Data does not travel this way: Ray refuses
packages over 100 MiB, and sources belong on storage that every node reaches.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from ray_jobs.errors import UserError
from ray_jobs.run.fingerprint import ROOT

LIMIT_BYTES = 100 << 20  # what Ray's dashboard accepts (DASHBOARD_CLIENT_MAX_SIZE)
NAMED = 5  # of the biggest files, in the error
RECIPE = "submitted-recipe.yaml"
EXCLUDED = {"venv", "runs", "build", "dist", "node_modules", "__pycache__", "tests", "benchmarks", "docs"}
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can state


def write(path: Path, recipe: str, root: Path | None = ROOT) -> None:
    """Write the package: `recipe` (its text) and, when `root` is a checkout, its files (None: the cluster has the code).

    Left out are folders that begin with a dot (`.git`, `.venv`, `.peers`) and those of `EXCLUDED`. Raises UserError
    naming the biggest files when the package is too large for Ray."""
    checkout = root if root and (root / "pyproject.toml").is_file() else None
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_entry(RECIPE), recipe)
        if checkout:
            for file in files(checkout):
                entry = _entry(file.relative_to(checkout).as_posix(), os.access(file, os.X_OK))
                archive.writestr(entry, file.read_bytes())
    if (size := path.stat().st_size) > LIMIT_BYTES:
        sizes = {info.filename: info.compress_size for info in zipfile.ZipFile(path).infolist()}
        biggest = sorted(sizes, key=lambda name: (-sizes[name], name))[:NAMED]
        named = ", ".join(f"{name} ({sizes[name] / 2**20:.1f} MiB)" for name in biggest)
        raise UserError(
            f"{root}: the package has {size / 2**20:.1f} MiB, Ray takes {LIMIT_BYTES >> 20}; the biggest files are {named}: "
            f"move data to storage that the cluster reaches, or into a folder named runs"
        )


def files(root: Path) -> list[Path]:
    """The files of a checkout that are sent, sorted."""
    found: list[Path] = []
    for path in sorted(root.iterdir()):
        if path.name.startswith(".") or path.name in EXCLUDED or path.name.endswith((".egg-info", ".pyc")):
            continue
        if path.is_dir():
            found += files(path)
        elif path.is_file():
            found.append(path)
    return found


def _entry(name: str, program: bool = False) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (0o755 if program else 0o644) << 16
    return entry
