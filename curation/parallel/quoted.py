"""Pairs of which one side holds a passage of an evaluation set (FLORES, NTREX, …): `curation.decontaminate`, on both sides.

A side is often a sentence, and so is an item of such a set. So a side that is a whole string of an item goes too, however it is
punctuated, where the string has `LEAST_WORDS` words: one that is shorter than what is searched for within a document.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.shards import Kernel, ledger_rows
from curation import decontaminate
from curation.parallel.lengths import words
from curation.parallel.schema import named
from curation.schema import file_name
from curation.text.form import in_one_form

STAGE = "parallel/decontaminate"
LEAST_WORDS = 4.0


def kernel(files: Sequence[str], fields: Sequence[str], lengths: decontaminate.Lengths) -> Kernel:
    """A kernel PAIR batch -> (pairs without a passage of the sets, ledger). Rule `contaminated`: value = places found in that
    side, detail = evaluation file, id of the item found first, and the side."""
    index = decontaminate.build(files, fields, lengths)
    wholes = _wholes(files, fields)

    def clean(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        rows = []
        gone = np.zeros(batch.num_rows, bool)
        for side in ("a", "b"):
            hits, first = decontaminate.search(batch[f"text_{side}"], index)
            items = [" ".join(index.items[item]) if item >= 0 else None for item in first.tolist()]
            for i, text in enumerate(_bare(batch[f"text_{side}"]).to_pylist()):
                if not hits[i] and text in wholes:
                    hits[i], items[i] = 1, wholes[text]
            gone |= hits > 0
            for i in np.flatnonzero(hits).tolist():
                said = f"{items[i]} in {batch[f'lang_{side}'][i].as_py()}"
                cells = {"rule": "contaminated", "value": float(hits[i]), "threshold": 1.0, "detail": said}
                rows.append({**named(batch, i), **cells})
        return batch.filter(pa.array(~gone)), ledger_rows(STAGE, rows)

    return clean


def _wholes(files: Sequence[str], fields: Sequence[str]) -> dict[str, str]:
    """Each string of the sets that is long enough, without what is no letter -> file and id of its first item."""
    texts: list[str] = []
    items: list[str] = []
    for uri in files:
        for number, row in decontaminate._rows(uri):
            values = [row[field] for field in fields if field in row] if fields else list(row.values())
            found = list(decontaminate.strings(values))
            texts += found
            items += [f"{file_name(uri)} {row.get('id', number)}"] * len(found)
    strings = in_one_form(pa.array(texts, pa.string()))
    wholes: dict[str, str] = {}
    for text, item, size in zip(_bare(strings).to_pylist(), items, words(strings).tolist(), strict=True):
        if size >= LEAST_WORDS:
            wholes.setdefault(text, item)
    return wholes


def _bare(texts: pa.Array) -> pa.Array:
    """Letters, marks and digits of each text, in lower case."""
    return pc.replace_substring_regex(pc.utf8_lower(texts), r"[^\p{L}\p{M}\p{N}]+", "")
