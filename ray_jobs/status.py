"""`pinisi status`: one row per stage with its state, documents, bytes, tokens and time."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster import storage
from ray_jobs.run import Run

KEYS = ("docs_in", "docs_out", "bytes", "tokens", "seconds")


def rows(run: Run) -> list[dict]:
    """`name, state, docs_in, docs_out, bytes, tokens, seconds, warnings` of every stage; null where it has no such number.

    States: done, changed (must run again, the recipe, code or input differs), started, waiting."""
    prints = run.fingerprints()
    result = []
    for stage in run.stages:
        manifest = run.manifest(stage.name) or {}
        state = run.state(stage, prints)
        row = {"name": stage.name, "state": state, **{key: manifest.get(key) for key in KEYS}}
        row["warnings"] = manifest.get("warnings", [])
        if state == "started":
            row["shards_done"] = len(storage.glob(storage.join(run.uri, stage.name, "_shards", "*.json")))
        result.append(row)
    return result


def show(rows: list[dict]) -> None:
    table = Table(box=None, header_style="bold")
    table.add_column("stage", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for title in ("docs in", "docs out", "size", "tokens", "seconds", "per s"):
        table.add_column(title, justify="right")
    colours = {"done": "green", "changed": "yellow", "started": "cyan", "waiting": "dim"}
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
        )
    Console().print(table)
    for warning in (warning for row in rows for warning in row["warnings"]):
        Console().print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)


def _n(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _size(value: int | None) -> str:
    return "" if value is None else f"{value / 1e6:,.1f} MB"
