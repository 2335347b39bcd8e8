"""Annotations of a part as columns of its documents."""

from __future__ import annotations

import pyarrow as pa

from cluster import storage
from cluster.shards import Kernel


class Beside:
    """The kernel of one shard: `kernel`, and behind its columns those of the table `side`, which has the same documents in the
    same order (`curation.annotations.join`). The batches of the shard must come in order, and `kernel` may drop none."""

    def __init__(self, kernel: Kernel, side: str):
        self.kernel, self.side = kernel, side
        self.rows: pa.Table | None = None
        self.begin = 0

    def __call__(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        if self.rows is None:
            self.rows = storage.read_table(self.side)
        mine = self.rows.slice(self.begin, batch.num_rows)
        self.begin += batch.num_rows
        kept, drops = self.kernel(batch)
        if mine["doc_id"].to_pylist() != kept["doc_id"].to_pylist():
            raise RuntimeError(f"{self.side} has not the documents of its part; remove the folder and run again")
        for name in mine.column_names[2:]:
            column = mine[name].combine_chunks()
            kept = kept.append_column(name, column if isinstance(column, pa.Array) else pa.array([], mine[name].type))
        return kept, drops
