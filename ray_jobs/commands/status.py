"""`pinisi status`: one row per stage with its state, documents, bytes, tokens and time, and how far the running one is.

All of it is read from the run's folder, so it works on any machine that reaches the folder, also while the run goes on.
"""

from __future__ import annotations

import socket

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster import storage
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.report import curves
from ray_jobs.run import lock, progress
from ray_jobs.run.fingerprint import digest
from ray_jobs.run.graph import Stage
from ray_jobs.run.run import Run

KEYS = ("docs_in", "docs_out", "bytes", "tokens", "seconds")


def rows(run: Run) -> list[dict]:
    """`name, state, docs_in, docs_out, bytes, tokens, seconds, warnings` of every stage; null where it has no such number.

    States: done, changed (must run again: the recipe, code or input differs), running, started (and stopped), waiting.
    A running or started stage has `progress`: done, total (null when unknown), unit, per_second, seconds_left; and `training`,
    where it trains: its newest record (docs/training.md).
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
            row["progress"] = _progress(run, stage)
            if records := curves.records(run.uri, stage.name):
                row["training"] = curves.newest(records)
        result.append(row)
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
    config = {key: recipes.fingerprinted(run.recipe, key) for key in stage.config}
    inputs = {name: (manifests[name] or {}).get("fingerprint") for name in stage.inputs}
    same = digest(manifest["config"]) == digest(config) and manifest["inputs"] == inputs
    return "done" if same else "changed"


def _progress(run: Run, stage: Stage) -> dict:
    """From the file that the running stage writes; without it, from the markers of finished shards."""
    uri = storage.join(run.uri, stage.name, progress.FILE)
    if storage.exists(uri):
        found = storage.read_json(uri)
    else:
        shards = storage.glob(storage.join(run.uri, stage.name, "_shards", "*.json"))
        parts = [storage.glob(storage.join(run.uri, name, "part-*.parquet")) for name in stage.inputs[:1]]
        found = {"done": len(shards), "total": len(parts[0]) if parts else 0, "unit": "shards", "seconds": 0}
    rate = found["done"] / found["seconds"] if found["seconds"] else None
    left = (found["total"] - found["done"]) / rate if rate and found["total"] else None
    return {
        "done": found["done"],
        "total": found["total"] or None,
        "unit": found["unit"],
        "per_second": rate and round(rate, 3),
        "seconds_left": left if left is None else round(left),
    }


def show(rows: list[dict]) -> None:
    table = Table(box=None, header_style="bold")
    table.add_column("stage", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for title in ("docs in", "docs out", "size", "tokens", "seconds", "per s", "progress"):
        table.add_column(title, justify="right")
    colours = {"done": "green", "changed": "yellow", "running": "cyan", "started": "magenta", "waiting": "dim"}
    for row in rows:
        amount = row["docs_in"] or row["tokens"]
        rate = f"{amount / row['seconds']:,.0f}" if amount and row["seconds"] else ""
        state = f"[{colours[row['state']]}]{row['state']}[/]"
        size = _size(row["bytes"])
        table.add_row(
            row["name"],
            state,
            _n(row["docs_in"]),
            _n(row["docs_out"]),
            size,
            _n(row["tokens"]),
            _n(row["seconds"]),
            rate,
            _so_far(row.get("progress")),
        )
    Console().print(table)
    warnings = [warning for row in rows for warning in row["warnings"]]
    for row in rows:
        if training := row.get("training"):
            _show_training(row["name"], training)
            warnings += [f"{row['name']}: {said}" for said in training.get("warnings", [])]
    for warning in warnings:
        Console().print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)


def _show_training(stage: str, record: dict) -> None:
    """One line on the newest record, and a table of languages."""
    formats = {
        "step": "update {:,}",
        "loss": "loss {:.4g}",
        "tokens_per_second": "{:,.0f} tokens/s",
        "mfu": "MFU {:.1%}",
        "teraflops": "{:.3g} TFLOP/s a worker",
        "data_wait": "{:.1%} waiting for data",
    }
    parts = [text.format(record[key]) for key, text in formats.items() if key in record]
    parts += [_size(record["memory_bytes"])] if "memory_bytes" in record else []
    console = Console()
    console.print(f"\n[bold]{stage}[/]: {', '.join(parts)}", soft_wrap=True, highlight=False)
    columns = {
        "loss": record.get("loss_by_language", {}),
        "held-out loss": record.get("validation_loss", {}),
        "accuracy": record.get("validation_accuracy", {}),
        "margin": record.get("validation_margin", {}),
        "bits per byte": record.get("bits_per_byte", {}),
        "since the start": record.get("bits_per_byte_change") or record.get("validation_loss_change", {}),
    }
    columns = {title: values for title, values in columns.items() if values}
    if not columns:
        return
    table = Table("language", box=None, header_style="bold")
    for title in columns:
        table.add_column(title, justify="right")
    for lang in sorted({lang for values in columns.values() for lang in values}):
        cells = [(title, values.get(lang)) for title, values in columns.items()]
        shown = ["" if v is None else f"{v:+.3f}" if title == "since the start" else f"{v:.3f}" for title, v in cells]
        table.add_row(lang, *shown)
    console.print(table)


def _so_far(found: dict | None) -> str:
    if not found:
        return ""
    total = f"/{found['total']:,}" if found["total"] else ""
    rate = f", {found['per_second']:,.1f}/s" if found["per_second"] else ""
    left = f", {found['seconds_left']:,} s left" if found["seconds_left"] is not None else ""
    return f"{found['done']:,}{total} {found['unit']}{rate}{left}"


def _n(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _size(value: int | None) -> str:
    return "" if value is None else f"{value / 1e6:,.1f} MB"
