"""Which texts `synthesize` made of which documents: one row for each that was asked for, kept or not, sorted by document."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa

from cluster import storage
from ray_jobs.run import adopted
from ray_jobs.run.graph import SYNTHESIZE

FILE = "made.parquet"
COLUMNS = pa.schema(
    [
        (name, pa.string())
        for name in ("doc_id", "made_from", "lang", "task", "made_by", "prompt", "prompt_hash", "part")
    ]
)


def write(uri: str, rows: list[dict]) -> None:
    """`uri`: of the file."""
    ordered = sorted(rows, key=lambda row: (row["made_from"], row["doc_id"]))
    storage.write_table(uri, pa.Table.from_pylist(ordered, COLUMNS))


def of(run_uri: str, column: str, ids: Collection[str]) -> list[dict]:
    """The rows whose `column` (doc_id or made_from) is among `ids`; none of a run without the stage."""
    uri = adopted.path(run_uri, SYNTHESIZE, FILE)
    if not ids or not storage.exists(uri):
        return []
    wanted = set(ids)
    found: list[dict] = []
    with storage.open_parquet(uri) as parquet:
        for batch in parquet.iter_batches(65_536):
            here = [i for i, one in enumerate(batch[column].to_pylist()) if one in wanted]
            found += batch.take(pa.array(here, pa.int64())).to_pylist() if here else []
    return found
