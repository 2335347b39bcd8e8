"""`pinisi status RUN --page OUT.html`: the status as a page that a browser loads anew by itself while the run goes on.

One HTML file without scripts, at any URI, written whole or not at all. `--watch` writes it until nobody works on the run, and
its last writing asks for no further one. What it shows is what `pinisi status` prints, with the losses as plots.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from markupsafe import Markup

from cluster import storage, terminal
from ray_jobs.commands import time_left
from ray_jobs.report import curves, page
from ray_jobs.run import progress
from ray_jobs.run.run import Run

WORDS = {"changed": "must run again", "started": "stopped on the way"}


def write(run: Run, rows: Sequence[dict], target: str, every: float | None) -> None:
    """`rows`: of `ray_jobs.commands.status.rows`. `every`: seconds until the next writing, None when this is the last."""
    records = {row["name"]: read for row in rows if (read := curves.records(run.uri, row["name"]))}
    done = [row for row in rows if row["state"] == "done"]
    warnings = [warning for row in rows for warning in row["warnings"]]
    warnings += [f"{row['name']}: {said}" for row in rows for said in row.get("training", {}).get("warnings", ())]
    text = (
        page.environment()
        .get_template("status.html")
        .render(
            name=run.recipe.name,
            uri=run.uri,
            languages=run.recipe.languages,
            refresh=every and max(2, round(every)),
            at=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            share=len(done) / len(rows) if rows else 0.0,
            done=len(done),
            rows=[{**row, "said": _said(row), "word": WORDS.get(row["state"], row["state"])} for row in rows],
            left=time_left.left(list(rows)),
            curves=[(title, Markup(svg)) for title, svg in curves.losses(records)],
            training=[(row["name"], row["training"]) for row in rows if "training" in row],
            warnings=warnings,
            duration=terminal.duration,
            short=terminal.short,
            size=terminal.size,
        )
    )
    storage.write_text(target, text)


def _said(row: dict) -> str:
    """How far a stage that has begun is."""
    found = row.get("progress")
    if not found:
        return ""
    running = row["state"] == "running"
    speed = (found["per_second"], found["seconds_left"]) if running else (None, None)
    return progress.sentence(found["done"], found["total"], found["unit"], *speed)
