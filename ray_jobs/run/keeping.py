"""Results that are not what is asked now: which may be kept, which must not be made again unasked, and where they lie.

A result that took longer than `run.guard_minutes` and differs by code alone is neither made again nor trusted unless somebody
says so (`--rerun`, `--keep`). One that is superseded lies aside until its successor is done (`superseded`), and comes back when
it is asked for again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cluster import storage, terminal
from ray_jobs.errors import UserError
from ray_jobs.run import adopted, superseded
from ray_jobs.run.fingerprint import changes, digest
from ray_jobs.run.graph import Stage, matches
from ray_jobs.run.progress import FILE as PROGRESS

if TYPE_CHECKING:
    from ray_jobs.run.run import Run

NAMED = 3  # of the files that changed, in a sentence


def keep(run: Run, wanted: str) -> None:
    """Accept what the stages of `wanted` have made under other code. Raises UserError where more than code differs."""
    for stage in run.stages:
        if not matches(stage.name, wanted):
            continue
        if (home := adopted.home(run.uri, stage.name)) != run.uri:
            raise UserError(f"--keep {stage.name}: it is adopted from {home}; keep it there")
        prints = run.fingerprints()
        made = run.made(stage.name)
        if made is None:
            raise UserError(f"--keep {stage.name}: nothing of it is there to be kept")
        if made["fingerprint"] == prints[stage.name]:
            continue
        parts = run.parts(stage, prints)
        if not _by_code_alone(run, stage, made):
            raise UserError(
                f"--keep {stage.name}: it must run again, as {run.difference(made, parts)}; only a change of code can be "
                f"kept out"
            )
        kept = {"fingerprint": digest(parts), "changed": changes(made.get("code", {}), parts["code"]), "at": _now()}
        name = superseded.MANIFEST if run.manifest(stage.name) else superseded.STARTED
        storage.write_json(storage.join(run.uri, stage.name, name), {**made, "kept": [*made.get("kept", ()), kept]})


def _by_code_alone(run: Run, stage: Stage, made: dict) -> bool:
    if "asked" in made:
        return made["asked"] == run.asked[stage.name]
    now = run.asked_of(stage, {name: "" for name in stage.inputs})  # of a version that did not write it
    return "config" in made and all(plain(now[key]) == made.get(key) for key in ("config", "files") if key in now)


def guard(run: Run, chosen: list[Stage], prints: dict[str, str], free: list[str]) -> None:
    """Raises UserError for stages that took long and would run again for a change of code alone."""
    held: list[str] = []
    causes: list[str] = []
    for stage in chosen:
        made = run.made(stage.name)
        if made is None or made["fingerprint"] == prints[stage.name]:
            continue
        causes += changes(made.get("code", {}), run.code(stage))
        seconds = spent(run, stage.name, made)
        dear = seconds > 60 * run.recipe.run.guard_minutes and not stage.keeps
        if dear and stage.name not in free and _by_code_alone(run, stage, made):
            held.append(f"{stage.name} ({terminal.duration(seconds)})")
    if held:
        first = held[0].partition(" ")[0]
        raise UserError(
            f"{', '.join(held)} would run again for a change of code alone{named(sorted(set(causes)))}: --keep {first} "
            f"leaves it as it is, --rerun {first} runs it and what depends on it again (run.guard_minutes: "
            f"{run.recipe.run.guard_minutes:g})"
        )


def dependent(run: Run, wanted: Sequence[str]) -> list[str]:
    """The stages of `wanted` and all that read them, directly or not."""
    found: list[str] = []
    for stage in run.stages:
        if any(matches(stage.name, name) for name in wanted) or set(stage.inputs) & set(found):
            found.append(stage.name)
    return found


def spent(run: Run, stage: str, made: dict) -> float:
    """Seconds of work on what there is of a stage, all its starts together."""
    if "seconds" in made:
        return made["seconds"]
    progress = read_json(storage.join(run.uri, stage, PROGRESS)) or {}
    return made.get("spent", 0.0) + progress.get("seconds", 0.0)


def bring_back(run: Run, stage: str, fingerprint: str, say) -> None:
    """Put what lies aside of a stage in its place again where it is what is asked for now."""
    manifest, made = run.manifest(stage), run.made(stage)
    if manifest and manifest["fingerprint"] == fingerprint:  # a move that was interrupted may have taken its ledger
        superseded.restore(run.uri, stage, fingerprint, result=False)
        return
    other = made is None or made["fingerprint"] != fingerprint
    if not superseded.holds(run.uri, stage, fingerprint, superseded.MARKERS if other else (superseded.MANIFEST,)):
        return
    if made and other:
        make_room(run, stage)
    superseded.restore(run.uri, stage, fingerprint, result=True)
    say(f"{stage}: what it made before is asked for again, and is back")


def make_room(run: Run, stage: str) -> None:
    """Move what a stage has made aside when it is finished or took long; otherwise remove it."""
    made = run.made(stage)
    if made and ("seconds" in made or spent(run, stage, made) > 60 * run.recipe.run.guard_minutes):
        superseded.set_aside(run.uri, stage)
    else:
        superseded.clear(run.uri, stage)


def plain(value: object) -> object:
    """As it comes back from JSON."""
    return json.loads(json.dumps(value, default=str))


def named(changed: list[str]) -> str:
    """` (a.py, b.py and 3 more)`."""
    more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
    return f" ({', '.join(changed[:NAMED])}{more})" if changed else ""


def read_json(uri: str) -> dict | None:
    try:
        return storage.read_json(uri)
    except FileNotFoundError:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
