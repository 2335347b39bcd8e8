"""Chat and preference rows of a recipe: read, checked, sampled; what is refused goes to the ledger."""

from __future__ import annotations

import json

import pyarrow as pa
import xxhash

from cluster import storage
from cluster.shards import LEDGER, ledger_rows
from ray_jobs import files
from ray_jobs.errors import UserError
from ray_jobs.run import Job
from train import chat, preference


def conversations(job: Job, pattern: str, limit: int | None) -> list[dict]:
    """Valid chat rows {id, lang, messages, …} in the recipe's languages; at most `limit`, chosen by a hash of their id."""
    kept, rejects = _in_languages(files.rows(pattern), job)
    kept, faults = chat.validate(kept)
    write_ledger(job, rejects + faults)
    if not kept:
        raise UserError(
            f"{pattern}: no valid conversation in the recipe's languages; see {job.ledger} for what is wrong"
        )
    return sample(kept, limit)


def preferences(job: Job, pattern: str, limit: int | None) -> list[dict]:
    """Valid rows {id, lang, prompt: messages, chosen, rejected}; at most `limit`, chosen by a hash of their id."""
    kept, rejects = _in_languages(files.rows(pattern), job)
    kept, faults = preference.validate(kept)
    write_ledger(job, rejects + faults)
    if not kept:
        raise UserError(
            f"{pattern}: no valid preference pair in the recipe's languages; see {job.ledger} for what is wrong"
        )
    return sample(kept, limit)


def sample(rows: list[dict], limit: int | None) -> list[dict]:
    """The `limit` rows whose ids hash lowest, in the order given."""
    if limit is None or len(rows) <= limit:
        return rows
    chosen = sorted(range(len(rows)), key=lambda i: xxhash.xxh3_64_intdigest(rows[i]["id"].encode()))[:limit]
    return [rows[i] for i in sorted(chosen)]


def _in_languages(rows: list[dict], job: Job) -> tuple[list[dict], list[dict]]:
    inside = [row for row in rows if row.get("lang") in job.recipe.languages]
    outside = [
        {"doc_id": str(row.get("id")), "lang": str(row.get("lang")), "rule": "language_outside"}
        for row in rows
        if row.get("lang") not in job.recipe.languages
    ]
    return inside, outside


def write_ledger(job: Job, rows: list[dict], part: str = "part-chats") -> None:
    batch = ledger_rows(job.stage.name, rows)
    storage.write_table(storage.join(job.ledger, f"{part}.parquet"), pa.Table.from_batches([batch], LEDGER))


def write_rows(uri: str, rows: list[dict]) -> None:
    storage.write_text(uri, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_rows(uri: str) -> list[dict]:
    return [json.loads(line) for line in storage.read_bytes(uri).decode().split("\n") if line]


def per_language(rows: list[dict]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["lang"]] = counts.get(row["lang"], 0) + 1
    return dict(sorted(counts.items()))
