"""Pairs of which one side holds a passage of an evaluation set (FLORES, NTREX, …): `curation.decontaminate`, on both sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cluster.shards import Kernel, ledger_rows
from curation import decontaminate
from curation.parallel.schema import named

STAGE = "parallel/decontaminate"


def kernel(files: Sequence[str], fields: Sequence[str], lengths: decontaminate.Lengths) -> Kernel:
    """A kernel PAIR batch -> (pairs without a passage of the sets, ledger). Rule `contaminated`: value = places found in that
    side, detail = evaluation file, id of the item found first, and the side."""
    index = decontaminate.build(files, fields, lengths)

    def clean(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        rows = []
        gone = np.zeros(batch.num_rows, bool)
        for side in ("a", "b"):
            hits, first = decontaminate.search(batch[f"text_{side}"], index)
            gone |= hits > 0
            for i in np.flatnonzero(hits).tolist():
                said = " ".join([*index.items[first[i]], f"in {batch[f'lang_{side}'][i].as_py()}"])
                cells = {"rule": "contaminated", "value": float(hits[i]), "threshold": 1.0, "detail": said}
                rows.append({**named(batch, i), **cells})
        return batch.filter(pa.array(~gone)), ledger_rows(STAGE, rows)

    return clean
