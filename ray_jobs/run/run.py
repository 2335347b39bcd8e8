"""A run: which stages are done, which must run again and why, and the manifest that says how each was made.

A stage is done when its manifest carries the fingerprint of (recipe keys it depends on, fingerprints of its inputs, its
code). So a changed threshold re-runs that stage and what depends on it, and nothing else.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cluster import gauges, storage
from ray_jobs.config import reader as recipes
from ray_jobs.config.recipe import Recipe
from ray_jobs.errors import StageFailed, UserError
from ray_jobs.run import files, lock
from ray_jobs.run.graph import Stage, enabled, matches
from ray_jobs.run.progress import Progress

ROOT = Path(__file__).parents[2]
PARTS = {
    "dpo": ("ray_jobs.alignment.pairs", "ray_jobs.alignment.generate")
}  # modules that are one job's, as if their text stood in its own
ENGINES = ("ray", "pyspark", "pyarrow", "torch", "transformers", "tokenizers", "fastwarc", "resiliparse")


def digest(value: object) -> str:
    """16 hex digits of the SHA-256 of `value` as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


@cache
def code_version(job: str) -> str:
    """Hash of the job's module, its parts, and every curation, mixture and train module that they import, directly or not."""
    seen: dict[str, bytes] = {}
    waiting = [f"ray_jobs.stages.{job}", *PARTS.get(job, ())]
    while waiting:
        module = waiting.pop()
        path = ROOT / (module.replace(".", "/") + ".py")
        if module in seen or not path.is_file():
            continue
        seen[module] = path.read_bytes()
        if module.startswith("curation"):
            for data in sorted((ROOT / "curation" / "languages").glob("*.yaml")) if "policy" in module else ():
                seen[data.name] = data.read_bytes()
        waiting += [m for m in _imports(seen[module]) if m.split(".")[0] in ("curation", "mixture", "train")]
    return hashlib.sha256(b"\0".join(seen[m] for m in sorted(seen))).hexdigest()[:16]


def _imports(source: bytes) -> list[str]:
    modules = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return modules


@dataclass
class Job:
    """What a job module's `run(job)` gets: the recipe, where to read and write, and the progress bar."""

    recipe: Recipe
    run_uri: str
    stage: Stage
    fingerprint: str
    progress: Progress
    address: str | None = None

    def path(self, *parts: str) -> str:
        """A URI inside this stage's folder."""
        return storage.join(self.run_uri, self.stage.name, *parts)

    def input(self, stage: str, *parts: str) -> str:
        """A URI inside the folder of an input stage."""
        assert stage in self.stage.inputs, f"{self.stage.name} does not declare its input {stage}"
        return storage.join(self.run_uri, stage, *parts)

    def has(self, stage: str) -> bool:
        """Whether `stage` is part of this run and an input of this one."""
        return stage in self.stage.inputs

    @property
    def ledger(self) -> str:
        return storage.join(self.run_uri, "dropped", self.stage.name)

    @property
    def metrics(self) -> str:
        """The folder of the training metrics of the run."""
        return storage.join(self.run_uri, "metrics")

    def manifest(self, stage: str) -> dict:
        return storage.read_json(self.input(stage, "_manifest.json"))


class Run:
    """The run directory at `uri` for `recipe`."""

    def __init__(self, uri: str, recipe: Recipe):
        # absolute, because workers have other working directories
        self.uri = os.path.abspath(storage.local(uri)) if storage.is_local(uri) else uri.rstrip("/")
        self.recipe = recipe
        self.stages = enabled(recipe)

    def manifest(self, stage: str) -> dict | None:
        return read_manifest(self.uri, stage)

    def fingerprints(self) -> dict[str, str]:
        """The fingerprint that each stage must have now. Input files count by name, size and time of change."""
        prints: dict[str, str] = {}
        for stage in self.stages:
            prints[stage.name] = digest(self._parts(stage, prints))
        return prints

    def _parts(self, stage: Stage, prints: dict[str, str]) -> dict:
        parts = {
            "config": {key: recipes.fingerprinted(self.recipe, key) for key in stage.config},
            "inputs": {name: prints[name] for name in stage.inputs},
            "code": code_version(stage.job),
        }
        if stage.files:
            parts["files"] = {key: files.listing(self.recipe, key) for key in stage.files}
        return parts

    def state(self, stage: Stage, prints: dict[str, str]) -> str:
        """`done`, `changed` (made under another fingerprint), `started` or `waiting`."""
        if manifest := self.manifest(stage.name):
            return "done" if manifest["fingerprint"] == prints[stage.name] else "changed"
        return "started" if storage.exists(storage.join(self.uri, stage.name, "_started.json")) else "waiting"

    def why(self, stage: Stage, prints: dict[str, str]) -> str:
        """One phrase: what differs from the manifest of a stage that must run again."""
        old, new = self.manifest(stage.name), self._parts(stage, prints)
        for key, value in new["config"].items():
            if old["config"].get(key) != json.loads(json.dumps(value, default=str)):
                return f"recipe key {key} changed"
        for name, value in new["inputs"].items():
            if old["inputs"].get(name) != value:
                return f"its input {name} changed"
        return "its code changed" if old["code"] != new["code"] else "its source files changed"

    def execute(
        self,
        *,
        until: str | None = None,
        start: str | None = None,
        only: str | None = None,
        address: str | None = None,
        say: Callable[[str], None] = print,
    ) -> bool:
        """Run what is not done. Returns whether anything had to run. `start` forces that stage and what follows."""
        for flag, wanted in (("--until", until), ("--from", start), ("--only", only)):
            if wanted and not any(matches(s.name, wanted) for s in self.stages):
                raise UserError(
                    f"{flag} {wanted}: this recipe has no such stage; it has {', '.join(s.name for s in self.stages)}"
                )
        with _reachable(self.uri), lock.held(self.uri, say):
            self._look_for_files(self._choose(until, only))
            storage.write_text(storage.join(self.uri, "recipe.yaml"), recipes.resolved(self.recipe))
            ran = False
            prints = self.fingerprints()
            chosen = self._choose(until, only)
            self._look_at_languages(chosen, prints)
            forced = False
            for stage in chosen:
                forced = forced or bool(start and matches(stage.name, start))
                if self.state(stage, prints) == "done" and not forced:
                    continue
                self._check_inputs(stage, prints)
                self._run_stage(stage, prints, forced, address, say)
                ran = True
            return ran

    def _look_for_files(self, chosen: list[Stage]) -> None:
        """Files that training will read, perhaps weeks from now. Raises UserError when there are none."""
        for key in sorted({key for stage in chosen for key in stage.files if key.startswith("train.")}):
            if (pattern := recipes.lookup(self.recipe, key)) is not None:
                files.named([pattern], key)

    def _look_at_languages(self, chosen: list[Stage], prints: dict[str, str]) -> None:
        """Languages and rules that a stage would refuse after all the crawling are refused before it. Raises UserError."""
        # of a language without a file the identifier does not know either, so that is said first
        for job in ("filter_policy", "language"):
            for stage in chosen:
                if stage.job == job and self.state(stage, prints) != "done":
                    try:
                        importlib.import_module(f"ray_jobs.stages.{job}").check(self.recipe)
                    except ValueError as error:
                        raise UserError(f"{stage.name}: {error}") from None

    def _choose(self, until: str | None, only: str | None) -> list[Stage]:
        if only:
            return [s for s in self.stages if matches(s.name, only)]
        if not until:
            return self.stages
        last = max(i for i, s in enumerate(self.stages) if matches(s.name, until))
        return self.stages[: last + 1]

    def _check_inputs(self, stage: Stage, prints: dict[str, str]) -> None:
        for name in stage.inputs:
            manifest = self.manifest(name)
            if manifest is None or manifest["fingerprint"] != prints[name]:
                raise UserError(
                    f"stage {stage.name} needs {name}, which is not done; run without --only, or --until {name} first"
                )

    def _run_stage(self, stage: Stage, prints: dict[str, str], forced: bool, address: str | None, say) -> None:
        folder = storage.join(self.uri, stage.name)
        started = storage.join(folder, "_started.json")
        fingerprint = prints[stage.name]
        state = self.state(stage, prints)
        if state == "changed":
            say(f"{stage.name}: runs again, {self.why(stage, prints)}")
        resumed = storage.exists(started) and storage.read_json(started)["fingerprint"] == fingerprint
        if forced or not (resumed or stage.keeps):
            _clear(self.uri, stage.name)
        elif resumed and state != "done":
            say(f"{stage.name}: continues where it stopped")
        storage.remove(storage.join(folder, "_manifest.json"))
        storage.write_json(started, {"fingerprint": fingerprint})
        begin = time.monotonic()
        with _faults(storage.join(folder, "_error.txt"), stage.name), Progress(stage.name, say, folder) as progress:
            module = importlib.import_module(f"ray_jobs.stages.{stage.job}")
            result = module.run(Job(self.recipe, self.uri, stage, fingerprint, progress, address))
            _check_counts(stage.name, result)
        parts = self._parts(stage, prints)
        manifest = {
            "stage": stage.name,
            "fingerprint": fingerprint,
            "config_hash": digest(parts["config"]),
            **parts,
            **result,
            "seconds": round(time.monotonic() - begin, 2),
            "hosts": [socket.gethostname()],
            "attempt": os.environ.get(lock.ATTEMPT),
            "versions": {"python": platform.python_version(), **_versions()},
        }
        if not result.get("bytes"):
            manifest["bytes"] = storage.size(folder)
        storage.write_json(storage.join(folder, "_manifest.json"), manifest)
        gauges.stage(stage.name, manifest)
        say(f"{stage.name}: done in {manifest['seconds']:.0f} s{_summary(manifest)}")


def _check_counts(stage: str, result: dict) -> None:
    """Every document that came in has been kept or dropped. Raises RuntimeError otherwise: the stage is not committed."""
    if "docs_in" in result and "dropped" in result and result["docs_in"] != result["docs_out"] + result["dropped"]:
        raise RuntimeError(
            f"{stage}: {result['docs_in']:,} documents in, but {result['docs_out']:,} kept and {result['dropped']:,} dropped"
        )


def read_manifest(uri: str, stage: str) -> dict | None:
    path = storage.join(uri, stage, "_manifest.json")
    return storage.read_json(path) if storage.exists(path) else None


def open_run(uri: str) -> Run:
    """An existing run, with the recipe that it was last started with. Raises UserError when there is none."""
    path = storage.join(uri, "recipe.yaml")
    try:
        found = storage.exists(path)
    except (ImportError, ValueError, *storage.faults()) as error:
        raise UserError(f"{uri}: this run directory cannot be read: {error}") from None
    if not found:
        raise UserError(f"{uri}: no run here (no recipe.yaml); give the folder that `pinisi run` printed")
    import yaml

    return Run(uri, recipes.parse(yaml.safe_load(storage.read_bytes(path)), path))


@contextmanager
def _faults(trace_uri: str, stage: str):
    """A ValueError is the user's to mend (our functions raise it with a sentence for that); anything else leaves its trace."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{stage}: {error}") from error
    except Exception as error:
        what = str(error).strip().splitlines() or [type(error).__name__]
        where = f"the trace is in {trace_uri}"
        try:
            storage.write_text(trace_uri, traceback.format_exc())
        except Exception:  # a full disk or a lost object store is often what the stage failed of
            print(traceback.format_exc(), file=sys.stderr)
            where = "the trace is above, as it could not be written to the run's folder"
        raise StageFailed(
            f"stage {stage} failed: {what[-1]}; {where}, and the same command tries again from there"
        ) from error
    storage.remove(trace_uri)


@contextmanager
def _reachable(uri: str):
    """Outside of the stages: a run directory that fails is one sentence too."""
    try:
        yield
    except ImportError as error:  # of fsspec, for a kind of storage that is not installed
        raise UserError(f"{uri}: the run directory cannot be read or written: {error}") from None
    except storage.faults() as error:
        raise StageFailed(f"{uri}: the run directory cannot be read or written: {error}; try again later") from error


def _clear(uri: str, stage: str) -> None:
    """Remove what an earlier fingerprint of the stage left, but not the folders of its sibling steps."""
    storage.remove(storage.join(uri, stage))
    storage.remove(storage.join(uri, "dropped", stage))
    storage.remove(storage.join(uri, "metrics", f"{stage.replace('/', '-')}.jsonl"))


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ENGINES}


def _summary(manifest: dict) -> str:
    parts = []
    if "docs_in" in manifest:
        parts.append(f"{manifest['docs_in']:,} documents in, {manifest['docs_out']:,} out")
    if manifest.get("tokens"):
        parts.append(f"{manifest['tokens']:,} tokens")
    return ": " + ", ".join(parts) if parts else ""
