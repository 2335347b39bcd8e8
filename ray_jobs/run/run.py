"""A run: which stages are done, which must run again and why, and the manifest that says how each was made.

A stage is done when its manifest carries the fingerprint of (recipe keys it depends on, fingerprints of its inputs, its
code: `ray_jobs/run/fingerprint.py`). So a changed threshold re-runs that stage and what depends on it, and nothing else. What a
stage made before lies aside until its successor is done (`ray_jobs/run/superseded.py`), and what took long is not made again
for a change of code alone unless somebody says so.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import platform
import socket
import sys
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from contextlib import contextmanager
from functools import cache, cached_property

from cluster import gauges, storage, terminal
from cluster.engines import embedded
from cluster.fetch import reachable
from ray_jobs.config import reader as recipes
from ray_jobs.config.recipe import Recipe
from ray_jobs.errors import StageFailed, UserError
from ray_jobs.run import adopted, contact, files, keeping, lock, preflight, superseded
from ray_jobs.run.fingerprint import changes, code, digest, users_code
from ray_jobs.run.graph import CRAWL, Stage, enabled, matches
from ray_jobs.run.job import Job, Share, ShareDone
from ray_jobs.run.progress import Progress

ENGINES = ("ray", "pyspark", "pyarrow", "torch", "transformers", "tokenizers", "fastwarc", "resiliparse")
NAMED = 3  # of the files that changed, in a sentence


class Run:
    """The run directory at `uri` for `recipe`."""

    def __init__(self, uri: str, recipe: Recipe):
        # absolute, because workers have other working directories
        self.uri = os.path.abspath(storage.local(uri)) if storage.is_local(uri) else uri.rstrip("/")
        self.recipe = recipe
        self.stages = enabled(recipe)
        adopted.read.cache_clear()

    def manifest(self, stage: str) -> dict | None:
        return read_manifest(self.uri, stage)

    def fingerprints(self) -> dict[str, str]:
        """The fingerprint that each stage must have now. Input files count by name, size and time of change.

        A result that was kept in spite of changed code (`--keep`) has its own for as long as the code is what it was then."""
        prints: dict[str, str] = {}
        for stage in self.stages:
            prints[stage.name] = self._fingerprint(stage, self.parts(stage, prints))
        return prints

    def _fingerprint(self, stage: Stage, parts: dict) -> str:
        own, made = digest(parts), self.made(stage.name) or {}
        kept = any(one["fingerprint"] == own for one in made.get("kept", ()))
        return made["fingerprint"] if kept else own

    def parts(self, stage: Stage, prints: dict[str, str]) -> dict:
        return {**self.asked_of(stage, prints), "code": self.code(stage)}

    def code(self, stage: Stage) -> dict[str, str]:
        named = [recipes.lookup(self.recipe, key) for key in stage.functions]
        own = [name for value in named for name in (value if isinstance(value, list) else [value]) if name]
        jobs = [stage.job, *(one.job for one in self.stages if one.name in stage.after)]
        files = {name: made for job in jobs for name, made in code(job, tuple(self.recipe.languages)).items()}
        return {**files, **users_code(own, os.getcwd())}

    def asked_of(self, stage: Stage, prints: dict[str, str]) -> dict:
        parts = {
            "config": recipes.all_fingerprinted(self.recipe, stage.config),
            "inputs": {name: prints[name] for name in stage.inputs},
        }
        listed = self._files(stage)
        return {**parts, "files": listed} if listed else parts

    def _files(self, stage: Stage) -> dict[str, object]:
        listed = {key: files.listing(self.recipe, key) for key in stage.files}
        return {key: found for key, found in listed.items() if found or key not in recipes.LATER_FILES}

    @cached_property
    def asked(self) -> dict[str, str]:
        """What the recipe and its files ask of each stage, whatever the code: equal where only code has changed."""
        asked: dict[str, str] = {}
        for stage in self.stages:
            asked[stage.name] = digest(self.asked_of(stage, asked))
        return asked

    def made(self, stage: str) -> dict | None:
        """The manifest of a stage that is done, else what is known of one that was begun."""
        return self.manifest(stage) or keeping.read_json(storage.join(self.uri, stage, superseded.STARTED))

    def state(self, stage: Stage, prints: dict[str, str]) -> str:
        """`done`, `changed` (made under another fingerprint), `started` or `waiting`."""
        if manifest := self.manifest(stage.name):
            return "done" if manifest["fingerprint"] == prints[stage.name] else "changed"
        return "started" if storage.exists(storage.join(self.uri, stage.name, superseded.STARTED)) else "waiting"

    def stands(self, name: str) -> bool:
        """Whether the stage `name` is done as the recipe and the results that it read are now. Unlike in `state`, code and files
        from outside count as they were when it was made: what is handed on need not be made anew for a newer version of
        Pinisi, nor do its sources have to be there still."""
        prints: dict[str, str | None] = {}
        for stage in self.stages:
            manifest = self.manifest(stage.name)
            if manifest is None:  # begun anew, or removed to make room
                prints[stage.name] = (self.made(stage.name) or {}).get("fingerprint")
                continue
            read, listed = manifest.get("inputs", {}), manifest.get("files")
            if listed is not None and not isinstance(listed, dict):  # of a version whose crawl wrote a number there
                listed = self._files(stage)
            parts: dict = {
                "config": recipes.all_fingerprinted(self.recipe, stage.config),
                "inputs": {one: prints[one] or read.get(one) for one in stage.inputs},
                **({"files": listed} if listed else {}),
            }
            codes = [manifest.get("code"), *([self.code(stage)] if manifest.get("kept") else [])]
            wanted = [self._fingerprint(stage, {**parts, "code": code}) for code in codes]
            prints[stage.name] = manifest["fingerprint"] if manifest["fingerprint"] in wanted else wanted[0]
            if stage.name == name:
                return manifest["fingerprint"] in wanted
        return False

    def why(self, stage: Stage, prints: dict[str, str]) -> str:
        """One phrase: what differs from the manifest of a stage that must run again."""
        made = self.manifest(stage.name)
        assert made is not None, f"{stage.name} was never done"
        return self.difference(made, self.parts(stage, prints))

    def difference(self, old: dict, new: dict) -> str:
        for key, value in new["config"].items():
            if old.get("config", {}).get(key) != keeping.plain(value):
                return f"recipe key {key} changed"
        for name, value in new["inputs"].items():
            if old.get("inputs", {}).get(name) != value:
                return f"its input {name} changed"
        if old.get("code", {}) != new["code"]:
            return f"its code changed{keeping.named(changes(old['code'], new['code']))}"
        return "its source files changed"

    def execute(
        self,
        *,
        until: str | None = None,
        start: str | None = None,
        only: str | None = None,
        among: Collection[str] | None = None,
        rerun: Sequence[str] = (),
        keep: Sequence[str] = (),
        address: str | None = None,
        ray: bool = True,
        begin: bool = False,
        say: Callable[[str], None] = print,
    ) -> bool:
        """Run what is not done. Returns whether anything had to run. `start` forces that stage and what follows;
        `among` are the only stages that may run, where it is given. Without `ray` the work stays on this machine and the ranks
        of torchrun. With `begin` the stages are only made ready for `share`.

        Of stages that took longer than `run.guard_minutes` and differ by code alone, those of `rerun` run again with what
        depends on them, and those of `keep` stay as they are. Raises UserError when one is in neither."""
        flags = [("--until", until), ("--from", start), ("--only", only)]
        for flag, wanted in [*flags, *(("--rerun", name) for name in rerun), *(("--keep", name) for name in keep)]:
            if wanted and not any(matches(s.name, wanted) for s in self.stages):
                raise UserError(
                    f"{flag} {wanted}: this recipe has no such stage; it has {', '.join(s.name for s in self.stages)}"
                )
        with _reachable(self.uri), lock.held(self.uri, say):
            storage.write_text(storage.join(self.uri, "recipe.yaml"), recipes.resolved(self.recipe))
            for stage in self.stages:
                superseded.end_clearing(self.uri, stage.name)
            for name in keep:
                keeping.keep(self, name)
            ran = False
            try:
                prints = self.fingerprints()
            except UserError:  # of a place that cannot be listed; what else is missing is said with it
                chosen = self._choose(until, only)
                preflight.check(self.recipe, self.uri, chosen, chosen, say=say, address=address)
                raise
            self._leave(prints)
            aside = superseded.of(self.uri, [stage.name for stage in self.stages])
            chosen = [stage for stage in self._choose(until, only) if among is None or stage.name in among]
            first = next(
                (i for i, stage in enumerate(self.stages) if start and matches(stage.name, start)), len(self.stages)
            )
            forced = self.stages[first:]
            for stage in chosen:
                if stage.name in aside and stage not in forced:
                    keeping.bring_back(self, stage.name, prints[stage.name], say)
            keeping.guard(self, chosen, prints, [*(stage.name for stage in forced), *keeping.dependent(self, rerun)])
            waiting = [stage for stage in chosen if stage in forced or self.state(stage, prints) != "done"]
            preflight.check(self.recipe, self.uri, chosen, waiting, say=say, address=address)
            if any(stage.name == CRAWL for stage in waiting):
                contact.settle(self.recipe)
            for stage in chosen:
                again = self.state(stage, prints) != "done" or stage in forced
                if again:
                    self._check_inputs(stage, prints)
                    if begin:
                        self._begin_stage(stage, prints, stage in forced, say)
                        ran = True
                        continue
                    if address:
                        _join(address, say)
                    self._run_stage(stage, prints, stage in forced, say, address=address, ray=ray)
                    ran = True
                if again or stage.name in aside:
                    superseded.forget(self.uri, stage.name)
            return ran

    def _leave(self, prints: dict[str, str]) -> None:
        """Adopt no longer what another run has made anew, or this recipe no longer asks for."""
        states = {stage.name: self.state(stage, prints) for stage in self.stages}
        found = adopted.read(self.uri)
        adopted.write(self.uri, {name: run for name, run in found.items() if states.get(name) == "done"})

    def _choose(self, until: str | None, only: str | None) -> list[Stage]:
        if only:
            return [s for s in self.stages if matches(s.name, only)]
        if not until:
            return self.stages
        last = max(i for i, s in enumerate(self.stages) if matches(s.name, until))
        return self.stages[: last + 1]

    def _check_inputs(self, stage: Stage, prints: dict[str, str]) -> None:
        for name in (*stage.inputs, *stage.after):
            manifest = self.manifest(name)
            if manifest is None or manifest["fingerprint"] != prints[name]:
                raise UserError(
                    f"stage {stage.name} needs {name}, which is not done; run without --only, or --until {name} first"
                )

    def share(self, name: str, share: Share, say: Callable[[str], None] = print) -> bool:
        """Do a share of the items of a stage that was made ready (`execute(begin=True)`), beside other processes that do theirs.
        Whoever runs the stage afterwards finds it done. Returns whether the stage was not done.

        Raises UserError for a stage that was not made ready, or that other settings or code want now."""
        stage = next(one for one in self.stages if one.name == name)
        prints = self.fingerprints()
        if self.state(stage, prints) == "done":
            return False
        folder = storage.join(self.uri, stage.name)
        begun = keeping.read_json(storage.join(folder, superseded.STARTED)) or {}
        if begun.get("fingerprint") != prints[name]:
            raise UserError(f"{name}: this stage was not begun as it is wanted now; --begin does that")
        self._check_inputs(stage, prints)
        with _faults(storage.join(folder, f"_error-{share.number}.txt"), name), Progress(name, say) as progress:
            module = importlib.import_module(f"ray_jobs.stages.{stage.job}")
            with contextlib.suppress(ShareDone):
                module.run(Job(self.recipe, self.uri, stage, prints[name], progress, ray=False, share=share))
        return True

    def _begin_stage(self, stage: Stage, prints: dict[str, str], forced: bool, say) -> tuple[float, dict, dict]:
        """Make room and say what is begun; returns seconds spent on it before, the marks of its manifest, and its parts."""
        adopted.leave(self.uri, stage.name)
        folder = storage.join(self.uri, stage.name)
        started = storage.join(folder, superseded.STARTED)
        fingerprint = prints[stage.name]
        state = self.state(stage, prints)
        if state == "changed":
            say(f"{stage.name}: runs again, {self.why(stage, prints)}")
        begun = keeping.read_json(started) or {}
        resumed = begun.get("fingerprint") == fingerprint and not forced
        if not (resumed or (stage.keeps and not forced)):
            keeping.make_room(self, stage.name)
        elif resumed and state != "done":
            say(f"{stage.name}: continues where it stopped")
        spent = keeping.spent(self, stage.name, begun) if resumed else 0.0
        kept = {"kept": begun["kept"]} if resumed and "kept" in begun else {}
        parts = self.parts(stage, prints)
        storage.remove(storage.join(folder, superseded.MANIFEST))
        same = {"fingerprint": fingerprint, "asked": self.asked[stage.name], **kept}
        storage.write_json(started, {**same, "code": parts["code"], "spent": round(spent, 2)})
        return spent, same, parts

    def _run_stage(
        self, stage: Stage, prints: dict[str, str], forced: bool, say, *, address: str | None, ray: bool
    ) -> None:
        spent, same, parts = self._begin_stage(stage, prints, forced, say)
        folder = storage.join(self.uri, stage.name)
        begin = time.monotonic()
        with _faults(storage.join(folder, "_error.txt"), stage.name), Progress(stage.name, say, folder) as progress:
            module = importlib.import_module(f"ray_jobs.stages.{stage.job}")
            result = module.run(Job(self.recipe, self.uri, stage, prints[stage.name], progress, address, ray))
            _check_counts(stage.name, result)
        few = _few(result)
        if few:
            result = {**result, "warnings": [*result.get("warnings", ()), f"{stage.name}: {few}"]}
        manifest = {
            "stage": stage.name,
            **same,
            "config_hash": digest(parts["config"]),
            **result,
            **parts,  # what decides the fingerprint, under names that no result takes
            "seconds": round(spent + time.monotonic() - begin, 2),
            "hosts": [socket.gethostname()],
            "attempt": os.environ.get(lock.ATTEMPT),
            "versions": {"python": platform.python_version(), **_versions()},
        }
        if not result.get("bytes"):
            manifest["bytes"] = storage.size(folder)
        for written in (folder, storage.join(self.uri, "dropped", stage.name)):
            storage.remove_unfinished(written)
        storage.write_json(storage.join(folder, superseded.MANIFEST), manifest)
        gauges.stage(stage.name, manifest)
        say(
            f"{stage.name}: done in {terminal.duration(manifest['seconds'])}{_summary(manifest)}{f'; {few}' if few else ''}"
        )
        for note in result.get("notes", ()):
            say(f"{stage.name}: {note}")


def _join(address: str, say: Callable[[str], None]) -> None:
    """Before a stage begins, so that a cluster that cannot be joined leaves nothing half done. Raises UserError."""
    try:
        embedded.start(address, say=say)
    except ValueError as error:
        raise UserError(str(error)) from None


def _check_counts(stage: str, result: dict) -> None:
    """Every document that came in has been kept or dropped. Raises RuntimeError otherwise: the stage is not committed."""
    if "docs_in" in result and "dropped" in result and result["docs_in"] != result["docs_out"] + result["dropped"]:
        raise RuntimeError(
            f"{stage}: {result['docs_in']:,} documents in, but {result['docs_out']:,} kept and {result['dropped']:,} dropped"
        )


def read_manifest(uri: str, stage: str) -> dict | None:
    return keeping.read_json(adopted.path(uri, stage, superseded.MANIFEST))


def open_run(uri: str) -> Run:
    """An existing run, with the recipe that it was last started with. Raises UserError when there is none."""
    path = storage.join(uri, "recipe.yaml")
    _check_reachable(uri)
    try:
        found = storage.exists(path)
    except files.unreadable() as error:
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


def _check_reachable(uri: str) -> None:
    if why := reachable.fault(uri):
        raise UserError(f"{uri}: the run directory cannot be reached ({why}); mend the network, or AWS_ENDPOINT_URL")


@contextmanager
def _reachable(uri: str):
    """Outside of the stages: a run directory that fails is one sentence too."""
    _check_reachable(uri)
    try:
        yield
    except ImportError as error:  # of fsspec, for a kind of storage that is not installed
        raise UserError(f"{uri}: the run directory cannot be read or written: {error}") from None
    except storage.faults() as error:
        raise StageFailed(f"{uri}: the run directory cannot be read or written: {error}; try again later") from error


@cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ENGINES}


def _few(result: dict) -> str:
    """What is said of a stage that keeps under half of its rows of conversations or pairs; empty for any other."""
    rows, kept, rules = result.get("rows_in", 0), result.get("rows_kept", 0), result.get("dropped_by_rule", {})
    if 2 * kept >= rows:
        return ""
    most = max(rules, key=lambda rule: rules[rule], default=None)
    return f"keeps {kept:,} of {rows:,} rows{f', most go by {most} ({rules[most]:,})' if most else ''}"


def _summary(manifest: dict) -> str:
    parts = []
    if "docs_in" in manifest:
        parts.append(f"{manifest['docs_in']:,} documents in, {manifest['docs_out']:,} out")
    if manifest.get("tokens"):
        parts.append(f"{manifest['tokens']:,} tokens")
    return ": " + ", ".join(parts) if parts else ""
