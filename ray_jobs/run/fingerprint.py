"""What a stage's result depends on besides its settings and inputs: the code that decides it.

The code of a stage is its module and every module of ours that it imports, directly or not, or names in a string
("package.module:function", which a worker imports). Not followed are the modules of `OUTSIDE`. Of a module counts its syntax
tree without docstrings; so comments, docstrings and layout change nothing.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cluster import storage, user_code

ROOT = Path(__file__).parents[2]

PACKAGES = ("cluster", "curation", "mixture", "ray_jobs", "train")

OUTSIDE = (
    # where and by whom work is done; that engines and worker counts give equal bytes is tested
    "cluster.engines",
    "cluster.fetch",
    "cluster.gauges",
    "cluster.kernel_files",
    "cluster.spark",
    "cluster.storage",
    "cluster.terminal",
    "ray_jobs.work",
    # only measures while something else trains
    "ray_jobs.training.task_suite",
    "train.tasks.suite",
    # only refuses
    "train.bases.same_loss",
    "train.bases.shape",
    # what is done and how a recipe is read; the values of its keys count by themselves
    "cluster.strict_yaml",
    "ray_jobs.config",
    "ray_jobs.errors",
    "ray_jobs.experiment",
    "ray_jobs.inspect",
    "ray_jobs.run.adopted",
    "ray_jobs.run.bases",
    "ray_jobs.run.contact",
    "ray_jobs.run.fingerprint",
    "ray_jobs.run.graph",
    "ray_jobs.run.hub",
    "ray_jobs.run.job",
    "ray_jobs.run.keeping",
    "ray_jobs.run.locate",
    "ray_jobs.run.lock",
    "ray_jobs.run.made_from",
    "ray_jobs.run.preflight",
    "ray_jobs.run.progress",
    "ray_jobs.run.run",
    "ray_jobs.run.superseded",
    "ray_jobs.stages.__main__",
    # what is fetched is dear: FORMAT of ray_jobs/commoncrawl/plan.py, not the code, says when it is fetched again
    "curation.commoncrawl",
    "ray_jobs.commoncrawl.index",
    "ray_jobs.commoncrawl.plan",
    "ray_jobs.commoncrawl.read",
)
"""Modules, and packages with all in them, that do not decide what comes out of a stage."""

DATA = {
    "curation.policy.policy": "curation/languages/*.yaml",
    "curation.extract.judge": "curation/extract/model.npy",
    "curation.lid.synthesis": "curation/lid/[ens]*.yaml",
    "curation.lid.telltales": "curation/lid/telltales.yaml",
    "curation.parallel.documents": "curation/parallel/templates/*.yaml",
    "ray_jobs.report.model_card": "ray_jobs/templates/*.md",
    "ray_jobs.report.page": "ray_jobs/templates/*.html",
    "ray_jobs.stages.synthetic.prompts": "ray_jobs/stages/synthetic/prompts/*.yaml",
    "train.long.templates": "train/long/*.yaml",
    "train.tasks.task": "train/tasks/**/*.yaml",
}
"""Module -> the files beside the code that it reads."""

KEPT = "ray_jobs/__pycache__/modules.json"  # below the checkout; trusted as Python trusts bytecode, by time and size

_NAMED = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+")


def digest(value: object) -> str:
    """16 hex digits of the SHA-256 of `value` as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def code(job: str, languages: tuple[str, ...] = ()) -> dict[str, str]:
    """File (below the checkout) -> hash, of all code and data that decide the result of `ray_jobs/stages/<job>.py`.

    Of the policies of languages only those of `languages`, of their scripts and the default count."""
    return code_of(f"ray_jobs.stages.{job}", languages)


def code_of(module: str, languages: tuple[str, ...] = ()) -> dict[str, str]:
    """`code` of any module of ours: of a part of a stage whose results outlive the others."""
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        module = waiting.pop()
        file = module.replace(".", "/") + ".py"
        if file in found or not (ROOT / file).is_file():
            continue
        found[file], imports = _module(ROOT / file)
        for data in sorted(ROOT.glob(DATA[module])) if module in DATA else ():
            if data.parent.name != "languages" or _of_languages(data.stem, languages):
                found[data.relative_to(ROOT).as_posix()] = hashlib.sha256(data.read_bytes()).hexdigest()[:16]
        waiting += imports
    _keep(ROOT)
    return dict(sorted(found.items()))


def users_code(functions: Sequence[str], folder: str) -> dict[str, str]:
    """`package.module:function` and file -> hash, of functions of the user and what they import of the same place."""
    return {f"{name} ({path.name})": _module(path)[0] for name in functions for path in user_code.files(name, folder)}


def changes(old: dict[str, str] | str, new: dict[str, str]) -> list[str]:
    """The files whose hash differs, sorted; none where `old` is of a version that kept one hash for all."""
    if not isinstance(old, dict):
        return []
    return sorted(file for file in old.keys() | new.keys() if old.get(file) != new.get(file))


def _outside(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in OUTSIDE)


def _of_languages(name: str, languages: tuple[str, ...]) -> bool:
    return name in languages or name == "default" or name.startswith("script_")


@cache
def _module(path: Path) -> tuple[str, list[str]]:
    """The hash of a module's tree without docstrings, and those of our modules that it may import."""
    kept = _kept(ROOT) if path.is_relative_to(ROOT) else {}
    known = kept.get(str(path))
    if known is None or known[:-2] != _state(path):
        known = kept[str(path)] = [*_state(path), *_read(path)]
        kept[""] = None  # there is something new
    return known[-2], known[-1]


@cache
def _kept(root: Path) -> dict[str, Any]:
    """Module -> its time, size, hash and imports, as an earlier process has found them. What another version of this file has
    found is not taken."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        by, kept = json.loads((root / KEPT).read_text("utf-8"))
        if by == [str(root), *_state(Path(__file__))]:
            return kept
    return {}


def _keep(root: Path) -> None:
    """Write `_kept` where it can be written and has something new."""
    kept = _kept(root)
    if "" in kept:
        del kept[""]
        with contextlib.suppress(OSError):
            (root / KEPT).parent.mkdir(exist_ok=True)
            storage.write_json(str(root / KEPT), [[str(root), *_state(Path(__file__))], kept])


def _state(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_mtime_ns, found.st_ctime_ns, found.st_size]  # times of change too: an installer may pin the first


def _read(path: Path) -> tuple[str, list[str]]:
    named: set[str] = set()
    written = _written(ast.parse(path.read_bytes()), named)
    ours = [name for name in sorted(named) if _NAMED.fullmatch(name) and not _outside(name)]
    return hashlib.sha256(written.encode()).hexdigest()[:16], ours


def _written(node: object, named: set[str]) -> str:
    """A syntax tree as text, without docstrings and other strings that stand alone, and the same from every version of
    Python: what is empty, which some versions do not have, is left out. `named` gets the modules that the tree may import.

    This is done for every module of ours, so each node is visited once."""
    if isinstance(node, list):
        return f"[{','.join([_written(one, named) for one in node if not _stands_alone(one)])}]"
    if not isinstance(node, ast.AST):
        return ascii(node)
    if isinstance(node, ast.Constant):
        named.update([node.value.partition(":")[0]] if isinstance(node.value, str) else ())
    elif isinstance(node, ast.Import):
        named.update(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        named.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    elif isinstance(node, ast.JoinedStr):  # of its pieces some versions have empty ones
        node = ast.JoinedStr([one for one in node.values if not (isinstance(one, ast.Constant) and one.value == "")])
    fields = [
        f"{name}={_written(value, named)}"
        for name in node._fields
        if (value := getattr(node, name, None)) is not None and value != []
    ]
    return f"{type(node).__name__}({','.join(fields)})"


def _stands_alone(node: object) -> bool:
    """Whether the statement is a string and nothing else, which is documentation."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
