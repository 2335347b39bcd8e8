"""Chat and preference rows of a recipe: read, checked, sampled; what is refused goes to the ledger."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from itertools import islice

import pyarrow as pa
import xxhash

from cluster import storage
from cluster.shards import LEDGER, ledger_rows
from curation.lid.identify import code
from ray_jobs.errors import UserError
from ray_jobs.run import files, row_files
from ray_jobs.run.job import Job
from train.chat import conversations as chat
from train.chat import formats
from train.selection import preference

BATCH_ROWS = 5000
REPEATED = {"rule": "repeated_id", "detail": "an earlier row has the same id"}


def batches(
    uri: str, languages: Collection[str], default: str | None = None
) -> Iterator[tuple[list[dict], list[dict]]]:
    """Rows of one file in any layout (`train.chat.formats`), `BATCH_ROWS` at a time: (valid rows, ledger rows).

    `default`: the language of rows that name none. Raises UserError for a file that cannot be read at all.
    """
    found = row_files.read(uri)
    while True:
        rows, rejects, n = [], [], 0
        try:
            for where, raw, wrong in islice(found, BATCH_ROWS):
                n += 1
                if raw is None:
                    rejects.append({"doc_id": where, "lang": None, "rule": "not_a_row", "detail": wrong})
                    continue
                row = formats.row(raw, default)
                if row["lang"] not in languages:
                    row["lang"] = code(row["lang"] or "") or None
                rows.append(row)
        except ValueError as error:
            raise UserError(str(error)) from None
        if not n:
            return
        inside = [row for row in rows if row["lang"] in languages]
        rejects += [
            {"doc_id": row["id"], "lang": row["lang"], "rule": "language_outside"}
            for row in rows
            if row["lang"] not in languages
        ]
        kept, faults = chat.validate(inside)
        yield kept, rejects + faults


def conversations(job: Job, pattern: str, limit: int | None) -> list[dict]:
    """Valid chat rows {id, lang, messages, …} in the recipe's languages; at most `limit`, chosen by a hash of their id."""
    kept, rejects, seen = [], [], set()
    for uri in files.named([pattern], "train.sft.instruct"):
        for rows, faults in batches(uri, job.recipe.languages, job.sft.data.language):
            rejects += faults
            for row in rows:
                if row["id"] in seen:
                    rejects.append({"doc_id": row["id"], "lang": row["lang"], **REPEATED})
                else:
                    kept.append(row)
                    seen.add(row["id"])
    write_ledger(job, rejects)
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
    return [rows[i] for i in sampled([row["id"] for row in rows], limit)]


def sampled(ids: list[str], limit: int | None) -> list[int]:
    """The places of the `limit` ids that hash lowest, in order."""
    if limit is None or len(ids) <= limit:
        return list(range(len(ids)))
    return sorted(sorted(range(len(ids)), key=lambda i: xxhash.xxh3_64_intdigest(ids[i].encode()))[:limit])


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
