"""Rows that a stage reads whole: which of them are a sample, and the ledger of those that it drops."""

from __future__ import annotations

import pyarrow as pa
import xxhash

from cluster import storage
from cluster.shards import LEDGER, ledger_rows
from ray_jobs.run.job import Job


def sampled(ids: list[str], limit: int | None) -> list[int]:
    """The places of the `limit` ids that hash lowest, in order."""
    if limit is None or len(ids) <= limit:
        return list(range(len(ids)))
    return sorted(sorted(range(len(ids)), key=lambda i: xxhash.xxh3_64_intdigest(ids[i].encode()))[:limit])


def write_ledger(job: Job, rows: list[dict], part: str) -> None:
    """Write what a stage drops, and why, as one file of its ledger."""
    batch = ledger_rows(job.stage.name, rows)
    storage.write_table(storage.join(job.ledger, f"{part}.parquet"), pa.Table.from_batches([batch], LEDGER))
