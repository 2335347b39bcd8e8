"""`pinisi status`: one row per stage with its state, documents, bytes, tokens and time, how far the running one is, and what is
left of the run.

All of it is read from the run's folder, so it works on any machine that reaches the folder, also while the run goes on.
"""

from __future__ import annotations

import json
import socket
import time

from rich.console import Console
from rich.text import Text

from cluster import storage, terminal
from cluster.terminal import Column, clean, numbers, sizes
from ray_jobs.commands import time_left
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.report import curves
from ray_jobs.report.names import named
from ray_jobs.run import adopted, lock, progress
from ray_jobs.run.fingerprint import digest
from ray_jobs.run.graph import Stage
from ray_jobs.run.run import Run, open_run

KEYS = ("docs_in", "docs_out", "bytes", "tokens", "seconds")
COLOURS = {"done": "green", "changed": "yellow", "running": "cyan", "started": "magenta", "waiting": "dim"}
MAX_FAULTS = 60  # of storage in a row, until watching ends


def rows(run: Run) -> list[dict]:
    """`name, state, docs_in, docs_out, bytes, tokens, seconds, warnings` of every stage; null where it has no such number.

    States: done, changed (must run again: the recipe, code or input differs), running, started (and stopped), waiting.
    A running or started stage has `progress`: done, total (null when unknown), unit, per_second, seconds_left; and `training`,
    where it trains: its newest record (docs/training.md). One that is not done has `seconds_left`, null when nothing is known
    of it, and `estimate`: what that number is from.
    """
    manifests = {stage.name: run.manifest(stage.name) for stage in run.stages}
    made = [manifest for manifest in manifests.values() if manifest]
    here = all(m["hosts"] == [socket.gethostname()] and not m.get("attempt") for m in made)
    prints = _fingerprints(run) if here else None  # source files and code of other machines cannot be compared here
    alive = lock.alive(run.uri)
    result = []
    for stage in run.stages:
        manifest = manifests[stage.name] or {}
        state = run.state(stage, prints) if prints else _state(run, stage, manifests)
        if state == "started" and alive:
            state = "running"
        row = {"name": stage.name, "state": state, **{key: manifest.get(key) for key in KEYS}}
        row["warnings"] = manifest.get("warnings", [])
        if state in ("running", "started"):
            row["progress"] = _progress(run, stage, state)
            if records := curves.records(run.uri, stage.name):
                row["training"] = curves.newest(records)
        result.append(row)
    time_left.estimate(run, result)
    return result


def _fingerprints(run: Run) -> dict[str, str] | None:
    """None where files that the recipe names cannot be listed now."""
    try:
        return run.fingerprints()
    except UserError:
        return None


def _state(run: Run, stage: Stage, manifests: dict[str, dict | None]) -> str:
    """As `Run.state`, from manifests and the recipe alone."""
    manifest = manifests[stage.name]
    if manifest is None:
        return "started" if storage.exists(storage.join(run.uri, stage.name, "_started.json")) else "waiting"
    config = recipes.all_fingerprinted(run.recipe, stage.config)
    inputs = {name: (manifests[name] or {}).get("fingerprint") for name in stage.inputs}
    same = digest(manifest["config"]) == digest(config) and manifest["inputs"] == inputs
    return "done" if same else "changed"


def _progress(run: Run, stage: Stage, state: str) -> dict:
    """From the file that the running stage writes; without it, from the markers of finished shards."""
    uri = storage.join(run.uri, stage.name, progress.FILE)
    found: dict = {"unit": "shards"}
    rate = None
    if storage.exists(uri):
        found = storage.read_json(uri)
        rate = _rate(found, lock.holder(run.uri) if state == "running" else {})
    else:
        parts = [storage.glob(adopted.path(run.uri, name, "part-*.parquet")) for name in stage.inputs[:1]]
        found["done"] = len(storage.glob(storage.join(run.uri, stage.name, "_shards", "*.json")))
        found["total"] = len(parts[0]) if parts else 0
    left = (found["total"] - found["done"]) / rate if rate and found["total"] else None
    return {
        "done": found["done"],
        "total": found["total"] or None,
        "unit": found["unit"],
        "per_second": rate and round(rate, 6),
        "seconds_left": left if left is None else round(left),
    }


def _rate(found: dict, holder: dict) -> float | None:
    """Units a second by a progress file. Of a running stage the lock's `holder` has written it, by the same clock."""
    silence = 0.0
    if holder:
        if found.get("at", 0.0) < holder["started"]:
            return None  # the file is of a process before, and this one has not come so far yet
        silence = max(0.0, holder["at"] - found["at"] - progress.EVERY_SECONDS)  # the time between two writes is none
    return progress.per_second(found.get("lately", (0, 0.0)), silence)


def show(rows: list[dict]) -> None:
    terminal.show(lines(rows))


def lines(rows: list[dict]) -> list[Text]:
    """The table, how far the stage under way is, what is left of the run, and warnings."""
    columns = [
        Column("stage"),
        Column("state", style=lambda state: COLOURS[state]),
        numbers("docs in", drop=1),
        numbers("docs out"),
        sizes("size"),
        numbers("tokens"),
        Column("time", terminal.duration, right=True),
        Column("rate", terminal.rate, right=True, drop=2),
    ]
    cells = []
    for row in rows:
        amount = row["docs_in"] or row["tokens"]
        rate = amount / row["seconds"] if amount and row["seconds"] else None
        size = row["bytes"]
        cells.append(
            (row["name"], row["state"], row["docs_in"], row["docs_out"], size, row["tokens"], row["seconds"], rate)
        )
    found = [*terminal.table(columns, cells), Text()]
    for said in (*map(_under_way, rows), time_left.left(rows)):
        found += terminal.paragraph(said, style="bold")
    warnings = [warning for row in rows for warning in row["warnings"]]
    for row in rows:
        if training := row.get("training"):
            found += _training(row["name"], training)
            warnings += [f"{row['name']}: {said}" for said in training.get("warnings", [])]
    for warning in warnings:
        found += terminal.paragraph(warning, style="yellow")
    return found


def _under_way(row: dict) -> str:
    """One line on a stage that has begun and is not done; empty for others."""
    if row["state"] not in ("running", "started"):
        return ""
    found = row["progress"]
    running = row["state"] == "running"
    speed = (found["per_second"], found["seconds_left"]) if running else (None, None)
    said = progress.sentence(found["done"], found["total"], found["unit"], *speed)
    return f"{row['name']}: {said}" if running else f"{row['name']}: stopped at {said}"


def write_page(run: Run, rows: list[dict], target: str, every: float | None = None) -> None:
    """Write the HTML page of `ray_jobs.commands.status_page`. Raises UserError for a place that cannot be written."""
    from ray_jobs.commands import status_page  # it draws, and matplotlib takes a second to import

    try:
        status_page.write(run, rows, target, every)
    except OSError as error:
        raise UserError(
            f"--page {target}: {error.strerror or error}; name a file in a folder that you may write"
        ) from None


def watch(uri: str, every: float, *, as_json: bool = False, page: str | None = None) -> int:
    """Show the run at `uri` every so many seconds until nobody works on it; without a terminal, a line for each change.
    `page`: where it is also written as HTML.

    Returns 0 when all its stages are done, 1 when it ended before, 130 after Ctrl-C."""
    console, faults = Console(), 0
    shown: list[str] | None = None
    try:
        while True:
            try:
                alive = lock.alive(uri)  # before the rest: whatever its last act was is then seen
                run = open_run(uri)
                found = rows(run)
                if page:
                    write_page(run, found, page, every if alive else None)
                faults = 0
            except Exception as error:
                faults += 1
                passing = isinstance(error, UserError | OSError) or storage.at_fault(error)
                if not passing or shown is None or faults > MAX_FAULTS:
                    raise
                time.sleep(every)
                continue
            if console.is_terminal and not as_json:
                console.clear()
                show(found)
                shown = []
            else:
                said = [json.dumps(found)] if as_json else changes(found)
                for line in said:
                    if line not in (shown or ()):
                        print(line, flush=True)
                shown = said
            if not alive:
                return 0 if all(row["state"] == "done" for row in found) else 1
            time.sleep(every)
    except KeyboardInterrupt:
        return 130


def changes(rows: list[dict]) -> list[str]:
    """A line for each stage that has begun; that of the one under way, or else the last, says what is left of the run."""
    said = []
    for row in rows:
        if row["state"] in ("done", "changed"):
            took = f" in {terminal.duration(row['seconds'])}" if row["state"] == "done" and row["seconds"] else ""
            said.append(f"{row['name']}: {row['state']}{took}")
        elif under_way := _under_way(row):
            said.append(f"{under_way}; {time_left.left(rows, names=False)}")
    return said if any(map(_under_way, rows)) else [*said, time_left.left(rows, names=False)]


def _training(stage: str, record: dict) -> list[Text]:
    """A paragraph on the newest record, and a table of languages."""
    formats = {
        "step": "update {:,}",
        "loss": "loss {:.4g}",
        "tokens_per_second": "{:,.0f} tokens/s",
        "mfu": "MFU {:.1%}",
        "teraflops": "{:.3g} TFLOP/s a worker",
        "data_wait": "{:.1%} waiting for data",
    }
    parts = [text.format(record[key]) for key, text in formats.items() if key in record]
    parts += [terminal.size(record["memory_bytes"])] if "memory_bytes" in record else []
    found = [Text(), *terminal.paragraph(f"{stage}: {', '.join(parts)}")]
    of_language = {
        "loss": record.get("loss_by_language", {}),
        "held-out loss": record.get("validation_loss", {}),
        "accuracy": record.get("validation_accuracy", {}),
        "margin": record.get("validation_margin", {}),
        "bits/byte": record.get("bits_per_byte", {}),
        "since start": record.get("bits_per_byte_change") or record.get("validation_loss_change", {}),
    }
    of_language = {title: values for title, values in of_language.items() if values}
    if not of_language:
        return found
    write = {"since start": "{:+.3f}".format}
    columns = [Column(title, write.get(title, "{:.3f}".format), right=True) for title in of_language]
    languages = sorted({lang for values in of_language.values() for lang in values})
    cells = [(lang, *(values.get(lang) for values in of_language.values())) for lang in languages]
    return found + terminal.table([Column("language", named, clean), *columns], cells)
