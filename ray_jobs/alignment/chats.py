"""Chat and preference rows of a recipe: read, checked, sampled; what is refused goes to the ledger."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import islice
from typing import NamedTuple

from cluster import storage
from curation.lid.tags import code
from ray_jobs.errors import UserError
from ray_jobs.run import files, row_files
from ray_jobs.run.job import Job
from ray_jobs.work.rows import sampled, write_ledger
from train.chat import conversations as chat
from train.chat import formats, pair_formats
from train.selection import preference

BATCH_ROWS = 5000
PART = "part-chats"  # of the ledger
REPEATED = {"rule": "repeated_id", "detail": "an earlier row has the same id"}


class Pairs(NamedTuple):
    """Valid preference rows; how many rows were read, how many of them each rule dropped, and how many have each ignored key."""

    rows: list[dict]
    rows_in: int
    rules: Counter[str]
    ignored: Counter[str]


def batches(
    uri: str, languages: Collection[str], default: str | None = None, ignored: Counter[str] | None = None
) -> Iterator[tuple[list[dict], list[dict]]]:
    """Rows of one file in any layout (`train.chat.formats`), `BATCH_ROWS` at a time: (valid rows, ledger rows).

    `default`: the language of rows that name none. `ignored` counts the keys that nobody reads. Raises UserError for a file
    that cannot be read at all.
    """
    for raw, rejects in _rows(uri):
        inside, outside = _in_languages([formats.row(one, default, ignored) for one in raw], languages)
        kept, faults = chat.validate(inside)
        yield kept, rejects + outside + faults


def _rows(uri: str) -> Iterator[tuple[list[dict], list[dict]]]:
    """(rows of one file as they stand, ledger rows of what is no row), `BATCH_ROWS` at a time."""
    found = row_files.read(uri)
    while True:
        try:
            batch = list(islice(found, BATCH_ROWS))
        except ValueError as error:
            raise UserError(str(error)) from None
        if not batch:
            return
        wrong = [
            {"doc_id": where, "lang": None, "rule": "not_a_row", "detail": why}
            for where, raw, why in batch
            if raw is None
        ]
        yield [raw for _, raw, _ in batch if raw is not None], wrong


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
    write_ledger(job, rejects, PART)
    if not kept:
        raise UserError(
            f"{pattern}: no valid conversation in the recipe's languages; see {job.ledger} for what is wrong"
        )
    return sample(kept, limit)


def preferences(job: Job, pattern: str) -> Pairs:
    """Pairs of any layout (`train.chat.pair_formats`) in the recipe's languages: {id, lang, prompt: messages, chosen, rejected}.

    A row that names no language has that of `train.sft.data.language`, as a chat has. Raises UserError when none is valid.
    """
    sft = job.train.sft
    default = sft.data.language if sft else None
    rows, rejects, n, ignored = [], [], 0, Counter[str]()
    if not (uris := files.expand(pattern)):
        raise UserError(f"{pattern}: no file matches; correct the path")
    for uri in uris:
        for raw, wrong in _rows(uri):
            n += len(raw) + len(wrong)
            inside, outside = _in_languages([_identified(one, default) for one in raw], job.recipe.languages)
            rows += inside
            rejects += wrong + outside
    kept, faults = preference.validate(rows, ignored=ignored)
    write_ledger(job, rejects + faults, PART)
    if not kept:
        raise UserError(
            f"{pattern}: no valid preference pair in the recipe's languages; see {job.ledger} for what is wrong"
        )
    return Pairs(kept, n, Counter(row["rule"] for row in rejects + faults), ignored)


def _identified(raw: dict, default: str | None) -> dict:
    """A preference row with `id` and `lang`, whatever names them; an id that is missing is a hash of the row."""
    rest = {key: value for key, value in raw.items() if key not in (*pair_formats.IDS, *formats.LANGS)}
    return {**rest, **formats.identity(raw, default, raw, pair_formats.IDS)}


def account(
    rows_in: int, rules: Counter[str] | dict[str, int], ignored: Counter[str] | dict[str, int] | None = None
) -> dict:
    """What a manifest says of the rows that a stage read: each is kept, or dropped by one rule."""
    found = {
        "rows_in": rows_in,
        "rows_kept": rows_in - sum(rules.values()),
        "dropped_by_rule": dict(sorted((rule, n) for rule, n in rules.items() if n)),
    }
    return found if ignored is None else {**found, "ignored_keys": dict(sorted(ignored.items()))}


def sample(rows: list[dict], limit: int | None) -> list[dict]:
    """The `limit` rows whose ids hash lowest, in the order given."""
    return [rows[i] for i in sampled([row["id"] for row in rows], limit)]


def _in_languages(rows: list[dict], languages: Collection[str]) -> tuple[list[dict], list[dict]]:
    """(rows of these languages, ledger rows of the others); `th-TH` and `tha` become `th`."""
    inside, outside = [], []
    for row in rows:
        if row["lang"] not in languages:
            row["lang"] = code(row["lang"] or "") or None
        if row["lang"] in languages:
            inside.append(row)
        else:
            outside.append({"doc_id": row["id"], "lang": row["lang"], "rule": "language_outside"})
    return inside, outside


def write_rows(uri: str, rows: list[dict]) -> None:
    """As JSON Lines; what JSON has no form for (a date of a Parquet file) becomes text, half a surrogate pair is replaced."""
    lines = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    storage.write_bytes(uri, lines.encode("utf-8", "replace"))


def read_rows(uri: str) -> list[dict]:
    return [json.loads(line) for line in storage.read_bytes(uri).decode().split("\n") if line]


def per_language(rows: list[dict]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["lang"]] = counts.get(row["lang"], 0) + 1
    return dict(sorted(counts.items()))
