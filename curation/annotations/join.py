"""Annotations brought to the documents that they are of, on any engine: keys move, texts stay where they are.

1. Keys of the documents of each part, and keys with values of each file of annotations, are sent to partitions by their key.
   A partition fits in memory, however large the table is.
2. There a document takes the row of its key; of several rows the first, in the order of the names of files and of rows.
3. What was found goes back to the parts: `out_uri/<part>.parquet` has `doc_id`, `lang` and a column a signal, one row for each
   document of the part and in its order. What nobody annotated is null.

A killed run does steps 1 and 2 again, and of 3 what is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from cluster.engines.exchange import Engine, Input, Progress, partitions, place
from cluster.shards import Marker, Shard, done, finished, ledger_rows, write_shard
from curation.annotations import table
from curation.annotations.table import TYPES, Annotation

PARTITION_BYTES = 64_000_000
PARTS_AT_ONCE = 8  # written by one task: what was found for a part is a small file
BATCH_ROWS = 1 << 16
P = pa.field("p", pa.int32())
WANTED = pa.schema([("key", pa.int64()), ("part", pa.int32()), ("row", pa.int64())])
COUNTS = pa.schema([P, ("part", pa.int32()), ("found", pa.int64())])


class Placed(Marker):
    matched: list[dict[str, int]]  # of each annotation: language -> documents that have a row


def annotate(
    engine: Engine,
    shards: Sequence[Shard],
    annotations: Sequence[Annotation],
    progress: Progress | None = None,
    partition_bytes: int = PARTITION_BYTES,
) -> list[dict]:
    """Write the annotations of each shard's documents. Returns of each annotation `rows` (of its files) and `matched`, the
    documents that have one by language. Raises ValueError for a file whose columns are not those of the others."""
    output, mark = shards[0].output, shards[0].fingerprint
    work, counted = storage.join(output, "_work"), storage.join(output, "_rows.json")
    whole = storage.join(work, "_done.json")  # what was found is removed once each part has it
    known = storage.exists(counted) and storage.read_json(counted)["fingerprint"] == mark
    if not known or not (storage.exists(whole) or finished(shards) == len(shards)):
        storage.remove(work)
        numbers = [
            _find(engine, shards, annotation, number, work, partition_bytes)
            for number, annotation in enumerate(annotations)
        ]
        storage.write_json(whole, {})
        storage.write_json(counted, {"fingerprint": mark, "rows": numbers})
    placed = engine.run(_place(annotations, work), list(enumerate(shards)), progress)
    storage.remove(work)
    result = []
    for number, rows in enumerate(storage.read_json(counted)["rows"]):
        sums: Counter[str] = Counter()
        for marker in placed:
            sums.update(marker["matched"][number])
        result.append({"rows": rows, "matched": dict(sorted(sums.items()))})
    return result


def _find(  # noqa: PLR0917
    engine: Engine, shards: Sequence[Shard], one: Annotation, number: int, work: str, partition_bytes: int
) -> int:
    """Steps 1 and 2 of one annotation: what it says of part i lies in `<number>/<i>.parquet` below `work`. Returns its rows."""
    values = pa.schema([(f"v{i}", TYPES[one.types[name]]) for i, name in enumerate(one.columns)])
    given = pa.schema([("key", pa.int64()), ("file", pa.int32()), ("at", pa.int64()), *values])
    hits = pa.schema([("part", pa.int32()), ("row", pa.int64()), *values])
    documents = engine.tasks(_wanted(one), [(i, shard.input) for i, shard in enumerate(shards)], WANTED)
    rows = engine.tasks(_given(one, given), list(enumerate(one.files)), given)
    n_rows = engine.count(rows)
    n = partitions(n_rows + engine.count(documents), 40 + 16 * len(values), partition_bytes)

    def by_key(batch: pa.RecordBatch) -> pa.RecordBatch:
        return _with_p(batch, place(batch["key"].to_numpy(), n))

    def matched(p: int, wanted: pa.Table, found: pa.Table) -> pa.Table:
        return _matched(wanted, found, hits)

    inputs = [Input(documents, by_key, pa.schema([P, *WANTED])), Input(rows, by_key, pa.schema([P, *given]))]
    met = engine.by_key(inputs, matched, hits, n)
    groups = -(-len(shards) // PARTS_AT_ONCE)

    def by_part(batch: pa.RecordBatch) -> pa.RecordBatch:
        return _with_p(batch, pa.array(batch["part"].to_numpy() % groups))

    def write(p: int, found: pa.Table) -> pa.Table:
        found = found.drop_columns("p").sort_by([("part", "ascending"), ("row", "ascending")])
        parts = pc.unique(found["part"]).to_pylist()
        for part in parts:
            mine = found.filter(pc.equal(found["part"], part))
            storage.write_table(storage.join(work, str(number), f"{part}.parquet"), mine)
        return pa.table([[p] * len(parts), parts, [0] * len(parts)], schema=COUNTS)

    written = engine.by_key([Input(met, by_part, pa.schema([P, *hits]))], write, COUNTS, groups)
    engine.table(written, COUNTS)
    engine.release(documents, rows, met, written)
    return n_rows


def _wanted(one: Annotation) -> Callable[[tuple[int, str]], Iterator[pa.RecordBatch]]:
    """Step 1 of the documents of a part."""
    kind, sources = one.key, pa.array(one.sources, pa.string())
    columns = [table.key_needs(kind), *(["source"] if one.sources else [])]

    def read(task: tuple[int, str]) -> Iterator[pa.RecordBatch]:
        part, uri = task
        begin = 0
        with storage.open_parquet(uri) as parquet:
            for batch in parquet.iter_batches(4096, columns=columns):
                keys = table.document_keys(kind, batch)
                asked = keys != 0
                if one.sources:
                    asked &= pc.is_in(batch["source"], sources).to_numpy(zero_copy_only=False)
                at = np.flatnonzero(asked)
                arrays = [keys[at], np.full(len(at), part, np.int32), begin + at]
                yield pa.RecordBatch.from_arrays([pa.array(array) for array in arrays], schema=WANTED)
                begin += batch.num_rows
        yield _none(WANTED)

    return read


def _none(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema)


def _given(one: Annotation, schema: pa.Schema) -> Callable[[tuple[int, str]], Iterator[pa.RecordBatch]]:
    """Step 1 of a file of annotations."""

    def read(task: tuple[int, str]) -> Iterator[pa.RecordBatch]:
        number, file = task
        begin = 0
        for keys, columns in table.rows(one, file):
            kept = keys != 0
            at = begin + np.arange(len(keys))
            arrays = [pa.array(keys), pa.array(np.full(len(keys), number, np.int32)), pa.array(at), *columns]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema).filter(pa.array(kept))
            begin += len(keys)
        yield _none(schema)

    return read


def _matched(wanted: pa.Table, given: pa.Table, schema: pa.Schema) -> pa.Table:
    """The values of each wanted document that has a row, in no order that matters."""
    given = given.sort_by([("key", "ascending"), ("file", "ascending"), ("at", "ascending")])
    keys, asked = given["key"].to_numpy(), wanted["key"].to_numpy()
    place_of = np.searchsorted(keys, asked)  # the first of equal ones
    hit = place_of < len(keys)
    hit[hit] = keys[place_of[hit]] == asked[hit]
    values = given.take(pa.array(place_of[hit]))
    chosen = wanted.filter(pa.array(hit))
    columns = [chosen["part"], chosen["row"], *(values[name] for name in schema.names[2:])]
    return pa.table(columns, schema=schema)


def _place(annotations: Sequence[Annotation], work: str) -> Callable[[tuple[int, Shard]], Placed]:
    """Step 3, for one part."""

    def write(task: tuple[int, Shard]) -> Placed:
        part, shard = task
        if (former := done(shard)) and "matched" in former:
            return cast("Placed", former)
        with storage.open_parquet(shard.input) as parquet:
            documents = parquet.read(["doc_id", "lang"])
        columns: dict[str, pa.ChunkedArray | pa.Array] = {name: documents[name] for name in ("doc_id", "lang")}
        matched: list[dict[str, int]] = []
        for number, one in enumerate(annotations):
            source = storage.join(work, str(number), f"{part}.parquet")
            found = storage.read_table(source) if storage.exists(source) else None
            at = np.full(len(documents), -1)
            if found is not None:
                at[found["row"].to_numpy()] = np.arange(len(found))
            where = pa.array(at, mask=at < 0)
            for i, name in enumerate(one.columns):
                kind = TYPES[one.types[name]]
                columns[name] = pa.nulls(len(at), kind) if found is None else found[f"v{i}"].take(where).cast(kind)
            counts = pc.value_counts(documents["lang"].filter(pa.array(at >= 0))).to_pylist()
            matched.append({row["values"] or "?": row["counts"] for row in counts})
        rows = pa.table(columns).combine_chunks()
        batches = (
            (batch, ledger_rows("annotate", [])) for batch in rows.to_batches(BATCH_ROWS) or [_none(rows.schema)]
        )
        marker = write_shard(batches, shard, documents["doc_id"].to_pylist())
        placed: Placed = {**marker, "matched": matched}
        storage.write_json(shard.marker, placed)
        return placed

    return write


def _with_p(batch: pa.RecordBatch, p: pa.Array) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([p.cast(pa.int32()), *batch.columns], [P.name, *batch.schema.names])
