"""The index of a run's kept documents, against which later runs are deduplicated without reading its texts.

    RUN/dedup/index/_index.json          MinHash settings, number of partitions, documents
                    documents/<p>.parquet  doc_id, snapshot, length, page, sketch; by hash of doc_id, sorted by it
                    pages/<p>.parquet      page, doc_id, snapshot, length; by page, sorted
                    bands/<p>.parquet      key, address; by band key, sorted

A partition of the keys of a new run meets the one file that can have them, so an index of any size is read as it lies,
never moved. The rule: what an earlier run kept stays, even where the new copy is longer, since it is already published
or tokenised. Documents of the index are nodes of the graph of near-duplicates that come before all new ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from cluster import storage
from cluster.engines.exchange import Engine, Input, partitions, place
from curation.dedup.minhash import MinHash
from curation.dedup.schema import EARLIER_BANDS, EARLIER_PAGES, KEYS, RANKED, DedupConfig, schema_with_p, with_p

ROW_BITS, FILE_BITS = 32, 20
ORIGIN = -(1 << 62)
DOCUMENTS = pa.schema([KEYS.field(name) for name in ("doc_id", "snapshot", "length", "page", "sketch")])
KEPT = pa.schema([*DOCUMENTS, KEYS.field("tie"), KEYS.field("bands")])
ADDRESSED = pa.schema([*EARLIER_PAGES, ("address", pa.int64()), KEYS.field("bands")])


@dataclass(frozen=True)
class Index:
    """An index at `uri`, number `number` of those of a run. Its documents have ids below 0: their addresses."""

    uri: str
    number: int
    partitions: int

    def pages(self, p: int, n: int) -> pa.Table:
        """EARLIER_PAGES of partition `p` of `n`, at least as many as the index has."""
        return self._partition("pages", EARLIER_PAGES, p, n)

    def bands(self, p: int, n: int) -> pa.Table:
        """EARLIER_BANDS of partition `p` of `n`."""
        table = self._partition("bands", EARLIER_BANDS, p, n)
        ids = table["id"].to_numpy() + (self.number << (ROW_BITS + FILE_BITS))
        return table.set_column(1, "id", pa.array(ids))

    def documents(self, ids: np.ndarray) -> pa.Table:
        """The documents with these ids (others are left out), as RANKED without bands; doc_id is `snapshot:doc_id`."""
        mine = ids[(ids < 0) & ((ids - ORIGIN) >> (ROW_BITS + FILE_BITS) == self.number)]
        found = []
        for number in np.unique(file_of(mine)).tolist():
            here = mine[file_of(mine) == number]
            rows = storage.read_table(_file(self.uri, "documents", number)).take(
                pa.array((here - ORIGIN) & ((1 << ROW_BITS) - 1))
            )
            name = pc.binary_join_element_wise(rows["snapshot"], rows["doc_id"], ":")
            known = {"id": pa.array(here), "doc_id": name, "sketch": rows["sketch"]}
            found.append(pa.table({f.name: known.get(f.name, pa.nulls(len(here), f.type)) for f in DOCUMENTS_OF_RUN}))
        return pa.concat_tables([DOCUMENTS_OF_RUN.empty_table(), *(one.cast(DOCUMENTS_OF_RUN) for one in found)])

    def _partition(self, kind: str, schema: pa.Schema, p: int, n: int) -> pa.Table:
        uri = _file(self.uri, kind, p % self.partitions)
        if not storage.exists(uri):
            return schema.empty_table()
        table = storage.read_table(uri).cast(schema)
        if n > self.partitions:
            table = table.filter(pc.equal(place(table[0].to_numpy(), n), p))
        return table


DOCUMENTS_OF_RUN = pa.schema([f for f in RANKED if f.name != "bands"])


def file_of(ids: np.ndarray) -> np.ndarray:
    """The number of the file `documents/<p>.parquet` that has the documents with these ids."""
    return ((ids - ORIGIN) >> ROW_BITS) & ((1 << FILE_BITS) - 1)


def open_index(uri: str, number: int, config: MinHash) -> Index:
    """The index at `uri`, or of the run at `uri`. Raises ValueError when there is none, or one of other settings."""
    places = [uri, storage.join(uri, "dedup", "index")]
    found = next((one for one in places if storage.exists(storage.join(one, "_index.json"))), None)
    if found is None:
        raise ValueError(f"dedup.indexes: {uri} has no index; give a run directory or its dedup/index")
    header = storage.read_json(storage.join(found, "_index.json"))
    if header["minhash"] != asdict(config):
        differs = ", ".join(f"{k} = {v}" for k, v in header["minhash"].items() if asdict(config)[k] != v)
        raise ValueError(f"dedup.indexes: {uri} was made with {differs}; use the same values here to compare with it")
    return Index(found, number, header["partitions"])


def write_index(  # noqa: PLR0917
    engine: Engine, keys: list[str], outputs: list[str], uri: str, config: DedupConfig, documents: int, note: dict
) -> None:
    """Index the documents of the parts `outputs`, whose KEYS are in the files `keys`; `note` goes into _index.json."""
    storage.remove(uri)
    n = partitions(documents, 12 * config.bands + config.num_perm + 100, 4 * config.partition_bytes)

    def kept(task: tuple[str, str]) -> Iterator[pa.RecordBatch]:
        source, output = task
        ids = storage.read_table(output, ["doc_id"])["doc_id"]
        rows = storage.read_table(source)
        yield from rows.filter(pc.is_in(rows["doc_id"], ids)).select(KEPT.names).cast(KEPT).to_batches()

    def by_id(batch: pa.RecordBatch) -> pa.RecordBatch:
        hashes = [xxhash.xxh3_64_intdigest(one.encode()) for one in batch["doc_id"].to_pylist()]
        return with_p(batch, place(np.array(hashes, np.uint64), n))

    def by_page(batch: pa.RecordBatch) -> pa.RecordBatch:
        return with_p(batch.select(EARLIER_PAGES.names), place(batch["page"].to_numpy(), n))

    def by_band(batch: pa.RecordBatch) -> pa.RecordBatch:
        batch = batch.filter(pc.is_valid(batch["bands"]))
        keys, ids = batch["bands"].flatten(), pa.array(np.repeat(batch["address"].to_numpy(), config.bands))
        return with_p(pa.record_batch([keys, ids], schema=EARLIER_BANDS), place(keys.to_numpy(), n))

    def addressed(p: int, rows: pa.Table) -> pa.Table:
        rows = rows.sort_by([("doc_id", "ascending"), ("length", "descending"), ("tie", "ascending")])
        ids = rows["doc_id"]
        if len(ids) > 1:  # a record that was read twice has its keys twice: the first in order stayed
            new = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)).combine_chunks()
            rows = rows.filter(pa.concat_arrays([pa.array([True]), new]))
        storage.write_table(_file(uri, "documents", p), rows.select(DOCUMENTS.names))
        address = ORIGIN + (p << ROW_BITS) + np.arange(rows.num_rows)
        return rows.append_column("address", pa.array(address)).select(ADDRESSED.names)

    def write(kind: str, order: list[str]):
        def sort(p: int, rows: pa.Table) -> pa.Table:
            rows = rows.drop_columns("p").sort_by([(name, "ascending") for name in order])
            storage.write_table(_file(uri, kind, p), rows)
            return pa.table([[p]], schema=pa.schema([("p", pa.int32())]))

        return sort

    tasks = engine.tasks(kept, list(zip(keys, outputs, strict=True)), KEPT)
    rows = engine.by_key([Input(tasks, by_id, schema_with_p(KEPT))], addressed, ADDRESSED, n)
    done: list[Any] = [
        engine.by_key(
            [Input(rows, prepare, schema_with_p(schema))], write(kind, order), pa.schema([("p", pa.int32())]), n
        )
        for kind, prepare, schema, order in (
            ("pages", by_page, EARLIER_PAGES, ["page", "doc_id"]),
            ("bands", by_band, EARLIER_BANDS, ["key", "id"]),
        )
    ]
    for one in done:
        engine.count(one)
    engine.release(tasks, rows, *done)
    header = {"minhash": asdict(config.minhash), "partitions": n, "documents": documents, **note}
    storage.write_json(storage.join(uri, "_index.json"), header)


def _file(uri: str, kind: str, p: int) -> str:
    return storage.join(uri, kind, f"{p:05d}.parquet")
