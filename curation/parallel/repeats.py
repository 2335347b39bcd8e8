"""Pairs of which one side was there before: near-duplicates by MinHash on either side, within a pair of languages.

The same English sentence may be translated into ten languages, so pairs of other languages are no repeats of each other. The
first pair stays: sources in the order of the recipe, files by name, pairs by place.

Memory: of all pairs of two languages about 300 bytes each, most of it band keys.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from cluster.shards import ledger_rows
from curation.dedup import conversations
from curation.parallel.schema import named

STAGE = "parallel/dedup"
READ_ROWS = 4096

REPEATS = pa.schema(
    [
        ("part", pa.string()),
        ("row", pa.int64()),
        ("rule", pa.string()),
        ("threshold", pa.float64()),
        ("detail", pa.string()),
    ]
)
"""A pair that goes: its part and row there; `detail` names the side and the pair that stays."""


def found(parts: list[str], lang: str, threshold: float) -> pa.Table:
    """The `REPEATS` of one pair of languages among the `PAIR` parts, which are in order."""
    config = conversations.bands(threshold)
    ids: list[pa.ChunkedArray] = []
    places: list[np.ndarray] = []  # part and row, int64 [pairs, 2]
    keys: dict[str, list[np.ndarray]] = {"a": [], "b": []}
    names: dict[str, str] = {}
    for part, numbered, batch in _of(parts, lang):
        ids.append(batch["doc_id"])
        places.append(np.stack([np.full(len(numbered), part), numbered], 1))
        for side, made in keys.items():
            names[side] = batch[f"lang_{side}"][0].as_py()
            made.append(conversations.keys(batch[f"text_{side}"], config))
    if not ids:
        return pa.Table.from_pylist([], REPEATS)
    named = pa.chunked_array([chunk for one in ids for chunk in one.chunks]).combine_chunks()
    part_row = np.concatenate(places)
    numbers = named.dictionary_encode().indices.to_numpy()
    _, first = np.unique(numbers, return_index=True)
    first = first[numbers]
    left = np.flatnonzero(first == np.arange(len(first)))
    gone: list[tuple[int, str, float | None, str]] = [
        (int(i), "repeated_pair", None, named[int(first[i])].as_py())
        for i in np.flatnonzero(first != np.arange(len(first)))
    ]
    for side, of_side in keys.items():
        owner = conversations.copies(np.concatenate(of_side)[left], np.arange(len(left)))
        for i in np.flatnonzero(owner >= 0):
            said = f"{names[side]} of {named[int(left[owner[i]])].as_py()}"
            gone.append((int(left[i]), "near_duplicate", threshold, said))
        left = left[owner < 0]
    rows = [
        {"part": parts[part_row[i, 0]].rsplit("/", 1)[-1], "row": int(part_row[i, 1])}
        | {"rule": rule, "threshold": bound, "detail": detail}
        for i, rule, bound, detail in sorted(gone, key=lambda one: one[0])
    ]
    return pa.Table.from_pylist(rows, REPEATS)


def _of(parts: list[str], lang: str) -> Iterator[tuple[int, np.ndarray, pa.Table]]:
    """(number of the part, row numbers there, the rows) of the pairs of languages `lang`."""
    columns = ["doc_id", "lang", "lang_a", "lang_b", "text_a", "text_b"]
    for part, uri in enumerate(parts):
        with storage.open_parquet(uri) as parquet:
            begin = 0
            for batch in parquet.iter_batches(READ_ROWS, columns=columns):
                mine = np.flatnonzero(pc.equal(batch["lang"], lang).to_numpy(zero_copy_only=False))
                if len(mine):
                    yield part, begin + mine, pa.Table.from_batches([batch]).take(pa.array(mine))
                begin += batch.num_rows


def without(batch: pa.RecordBatch, begin: int, repeats: pa.Table) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """(pairs that stay, ledger) of the rows from number `begin` on of a part, whose `REPEATS` are in order."""
    rows = repeats["row"].to_numpy()
    low, high = np.searchsorted(rows, [begin, begin + batch.num_rows])
    gone = np.zeros(batch.num_rows, bool)
    ledger = []
    for one in repeats.slice(low, high - low).to_pylist():
        i = one["row"] - begin
        gone[i] = True
        ledger.append({**named(batch, i), **{name: one[name] for name in ("rule", "threshold", "detail")}})
    return batch.filter(pa.array(~gone)), ledger_rows(STAGE, ledger)
