"""Judged texts as files that other parts of Pinisi read: what people called good, and what they called noise."""

from __future__ import annotations

import json

from cluster import storage
from ray_jobs.errors import UserError
from ray_jobs.inspect import judgements, samples, scores
from ray_jobs.run.run import Run

GOOD, NOISE = "good.jsonl", "noise.jsonl"
SOURCE = "judged"


def write(run: Run, per_layer: int, folder: str) -> dict[str, int]:
    """Write `good.jsonl` and `noise.jsonl` of rows {lang, text, good, source, doc_id, label}; file -> rows.

    Each text is there once, with the code of whoever judged it last; on whose goodness people are divided it is in neither. The
    first `samples.MAX_CHARS` characters of a text are written. Raises UserError where nothing has been judged."""
    table, _ = samples.drawn(run, per_layer)
    people = judgements.everybody(run.uri)
    said = scores.judged(people)
    rows = {row["key"]: row for row in table.to_pylist()}
    written: dict[str, list[str]] = {GOOD: [], NOISE: []}
    for key in sorted(rows.keys() & said.keys()):
        if said[key] == 0.5:
            continue
        row, good = rows[key], said[key] < 0.5
        alike = [of[key] for of in people.values() if key in of and scores.noise(of[key]) == float(not good)]
        label = max(alike, key=lambda one: one.get("at", ""))["label"]
        line = {
            "lang": row["lang"],
            "text": row["text"],
            "good": good,
            "source": SOURCE,
            "doc_id": row["doc_id"],
            "label": label,
        }
        written[GOOD if good else NOISE].append(json.dumps(line, ensure_ascii=False) + "\n")
    if not any(written.values()):
        raise UserError(
            f"{run.uri}: nothing has been judged yet, so there is nothing to export; `pinisi inspect` opens the page"
        )
    for name, lines in written.items():
        storage.write_text(storage.join(folder, name), "".join(lines))
    return {name: len(lines) for name, lines in written.items()}
