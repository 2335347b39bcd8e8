"""`pinisi explain RUN ID` for a conversation or a preference pair: what each alignment stage did with it, and why."""

from __future__ import annotations

import pyarrow.compute as pc

from cluster import storage
from ray_jobs.alignment import chats
from ray_jobs.config.given import given
from ray_jobs.run import adopted
from ray_jobs.run.graph import SFT_SELECT
from ray_jobs.run.run import Run

STAGES = ("reward", "sft/", "dpo/")  # how the names of alignment stages begin
ROWS = ("rows.jsonl", "pairs.jsonl")  # what a stage has kept, and where it trains a model trained on


def events(run: Run, row_id: str) -> list[dict]:
    """Events as of `ray_jobs.commands.explain.events`, in the order of the stages; none where no stage has seen this id."""
    found = []
    for stage in run.stages:
        if not stage.name.startswith(STAGES) or run.manifest(stage.name) is None:
            continue
        own = _selection(run, row_id) if stage.name == SFT_SELECT else _dropped(run, stage.name, row_id)
        own = own or _kept(run, stage.name, row_id)
        found += [{"doc_id": row_id, "url": None, "stage": stage.name, **_EMPTY, **event} for event in own]
    return found


_EMPTY = {"rule": None, "value": None, "threshold": None, "detail": None}


def _dropped(run: Run, stage: str, row_id: str) -> list[dict]:
    rows = []
    for part in storage.glob(adopted.ledger(run.uri, stage, "*.parquet")):
        rows += _rows(part, "doc_id", row_id)
    return [{"outcome": "dropped", **{key: row.get(key) for key in _EMPTY}} for row in rows]


def _kept(run: Run, stage: str, row_id: str) -> list[dict]:
    outcome = "trained on" if storage.exists(adopted.path(run.uri, stage, "model")) else "kept"
    for name in ROWS:
        uri = adopted.path(run.uri, stage, name)
        if storage.exists(uri) and any(row["id"] == row_id for row in chats.read_rows(uri)):
            return [{"outcome": outcome}]
    return []


def _selection(run: Run, row_id: str) -> list[dict]:
    """The decision of sft/select in four events: reward, perplexity, their score, and the nearest that was taken before."""
    rows = _rows(adopted.path(run.uri, SFT_SELECT, "decisions.parquet"), "id", row_id)
    if not rows:
        return []
    row, limit = rows[0], given(given(run.recipe.train).sft).select.max_similarity
    cell = f"{row['lang']}, {row['category']}"
    said = {
        "taken": "taken",
        "too_similar": "too similar to one taken before",
        "quota": "its language and category were full",
    }[row["rule"]]
    kept = "kept" if row["rule"] == "taken" else "dropped"
    parts: list[tuple[str, float | None, float | None, str]] = [
        ("reward", row["reward"], None, f"percentile {row['reward_percentile']:.3f} of {cell}"),
        ("perplexity", row["perplexity"], None, f"percentile {row['perplexity_percentile']:.3f} of {cell}"),
        ("score", row["score"], None, f"rank {row['rank']:,} of {cell}"),
    ]
    nearest = "none was taken before it" if row["rule"] != "quota" else "not compared"
    nearest = f"nearest taken before: {row['nearest']}" if row["nearest"] else nearest
    parts.append((row["rule"], row["cosine"], limit if row["nearest"] else None, f"{said}; {nearest}"))
    names = ("rule", "value", "threshold", "detail")
    return [{"outcome": kept, **dict(zip(names, part, strict=True))} for part in parts]


def _rows(uri: str, key: str, value: str) -> list[dict]:
    return storage.read_table(uri).filter(pc.field(key) == value).to_pylist() if storage.exists(uri) else []
