"""What deduplication does to the documents of one part, with no engine: keys out, decisions in.

`curation.spark_job.dedup` moves the keys and decides; see there for the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from cluster import storage
from cluster.shards import LEDGER
from curation import lines
from curation.minhash import MinHash, fold_bands, signatures
from curation.urls import url_keys

STAGE = "dedup"
BATCH_ROWS = 1024

KEYS = pa.schema(
    [
        ("part", pa.int32()),
        ("row", pa.int64()),
        ("doc_id", pa.string()),
        ("length", pa.int32()),  # characters
        ("page", pa.int64()),  # key of the URL, or of the doc_id where there is no URL
        ("bands", pa.list_(pa.int64())),  # null where the text has no unit: it matches nothing
        ("sketch", pa.binary()),  # low byte of each minimum
    ]
)
"""What moves for each document. Spark has no unsigned integers, so 64-bit hashes travel as signed ones."""

ACTIONS = pa.schema(
    [
        ("part", pa.int32()),
        ("row", pa.int64()),
        ("rule", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("detail", pa.string()),
        ("bucket", pa.int64()),
        ("line", pa.int64()),
    ]
)
"""What is to be done in a part: drop a row (row to detail), or cut a line from the documents of a bucket (bucket, line)."""

LINES = pa.schema([("part", pa.int32()), ("bucket", pa.int64()), ("line", pa.int64()), ("n", pa.int64())])


@dataclass(frozen=True)
class DedupConfig:
    """Settings of `dedup`; the defaults are the recipe's. Raises ValueError when bands x rows exceed num_perm."""

    num_perm: int = 256
    bands: int = 25
    rows: int = 10
    ngram: int = 5
    seed: int = 42
    threshold: float = 0.7  # estimated Jaccard below which a candidate pair is no pair; 0 trusts the bands alone
    line_max_count: int = 5  # a line seen more often than this in a bucket is dropped
    line_min_chars: int = 20  # shorter lines are never dropped
    line_bucket_documents: int = 10_000_000
    min_words_left: int = 10  # a document that lost lines and has fewer words left is dropped
    max_driver_edges: int = 20_000_000  # above it, components are found in Spark

    def __post_init__(self):
        _ = self.minhash

    @property
    def minhash(self) -> MinHash:
        return MinHash(self.num_perm, self.bands, self.rows, self.ngram, self.seed)


def part_keys(uri: str, part: int, config: MinHash) -> Iterator[pa.RecordBatch]:
    """KEYS of the documents in the Parquet file `uri`, which is part number `part`."""
    first = 0
    for batch in _read(uri, ("doc_id", "url", "crawl", "lang", "text")):
        yield _keys(batch, part, first, config)
        first += batch.num_rows


def _keys(batch: pa.RecordBatch, part: int, first: int, config: MinHash) -> pa.RecordBatch:
    n = batch.num_rows
    ids = batch["doc_id"].to_pylist()
    urls = _column(batch, "url")
    if "crawl" in batch.schema.names:  # outside a crawl a URL is a citation: the chapters of a book share it
        urls = [url if crawl else "" for url, crawl in zip(urls, _column(batch, "crawl"), strict=True)]
    pages = url_keys(urls)
    for i in np.flatnonzero(pages == 0):  # no page: only the same record read twice is the same
        pages[i] = xxhash.xxh3_64_intdigest(b"doc_id " + ids[i].encode())
    minima = signatures(batch["text"], config.num_perm, config.seed, config.ngram)
    bands, valid = fold_bands(minima, config)
    bands ^= np.array([xxhash.xxh3_64_intdigest(lang.encode()) for lang in _column(batch, "lang")], np.uint64)[:, None]
    columns = [
        np.full(n, part, np.int32),
        np.arange(first, first + n),
        batch["doc_id"],
        pc.fill_null(pc.utf8_length(batch["text"]), 0),
        pages.view(np.int64),
        [keys if ok else None for keys, ok in zip(bands.view(np.int64), valid, strict=True)],
        [row.tobytes() for row in minima.astype(np.uint8)],
    ]
    return _batch(columns, KEYS)


def part_lines(uri: str, actions: pa.Table, n_buckets: int, config: DedupConfig) -> pa.RecordBatch:
    """Occurrences (LINES) of each line of the documents that `actions` leave in the part."""
    part = actions["part"][0].as_py()
    dropped = actions["row"].drop_null().to_numpy()
    seen = [np.zeros((0, 2), np.uint64)]
    first = 0
    for batch in _read(uri, ("doc_id", "text")):
        keep = ~np.isin(np.arange(first, first + batch.num_rows), dropped)
        first += batch.num_rows
        batch = batch.filter(pa.array(keep))
        rows, hashes = lines.line_hashes(batch["text"], config.line_min_chars)
        bucket = lines.buckets(batch["doc_id"].to_pylist(), n_buckets)[rows]
        seen.append(np.column_stack([bucket.astype(np.uint64), hashes]))
    pairs, n = np.unique(np.concatenate(seen), axis=0, return_counts=True)
    bucket, line = np.ascontiguousarray(pairs.T).view(np.int64)
    return _batch([np.full(len(n), part, np.int32), bucket, line, n], LINES)


def part_cleaned(
    uri: str, actions: pa.Table, n_buckets: int, config: DedupConfig
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Batches of the part (documents that stay, ledger rows) with `actions` carried out."""
    drops = actions.filter(pc.is_valid(actions["row"])).sort_by("row")
    drop_rows = drops["row"].to_numpy()
    cuts = actions.filter(pc.is_valid(actions["line"]))
    bucket, line = cuts["bucket"].to_numpy(), cuts["line"].to_numpy().view(np.uint64)
    frequent = {int(b): np.sort(line[bucket == b]) for b in np.unique(bucket)}
    with storage.open_parquet(uri) as parquet:
        empty = pa.RecordBatch.from_pylist([], parquet.schema_arrow)
    yield empty, pa.RecordBatch.from_pylist([], LEDGER)
    first = 0
    for batch in _read(uri):
        low, high = np.searchsorted(drop_rows, [first, first + batch.num_rows])
        gone = drop_rows[low:high] - first
        first += batch.num_rows
        here = drops.slice(low, high - low)
        ledger = _ledger(batch.take(pa.array(gone)), *(here[name] for name in ("rule", "value", "threshold", "detail")))
        stays = np.ones(batch.num_rows, bool)
        stays[gone] = False
        kept, short = _without(batch.filter(pa.array(stays)), frequent, n_buckets, config)
        yield kept, pa.concat_batches([ledger, short])


def _without(
    batch: pa.RecordBatch, frequent: dict[int, np.ndarray], n_buckets: int, config: DedupConfig
) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Documents without their frequent lines, and ledger rows of those that have too little left."""
    bucket = lines.buckets(batch["doc_id"].to_pylist(), n_buckets)
    text, removed = lines.remove_lines(batch["text"], bucket, frequent, config.line_min_chars)
    words = lines.count_words(text)
    short = (removed > 0) & (words < config.min_words_left)
    n = int(short.sum())
    ledger = _ledger(
        batch.filter(pa.array(short)),
        ["frequent_lines"] * n,
        words[short],
        [config.min_words_left] * n,
        [f"{count} lines cut" for count in removed[short]],
    )
    at = batch.schema.get_field_index("text")
    cleaned = batch.set_column(at, batch.schema.field(at), text.cast(batch.schema.field(at).type))
    return cleaned.filter(pa.array(~short)), ledger


def _ledger(documents: pa.RecordBatch, *verdict) -> pa.RecordBatch:
    """Ledger rows of dropped documents; `verdict` are the columns rule, value, threshold, detail."""
    n = documents.num_rows
    names = [documents[c] if c in documents.schema.names else pa.nulls(n) for c in ("doc_id", "url", "lang")]
    return _batch([*names, [STAGE] * n, *verdict], LEDGER)


def _batch(columns: list, schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for column, field in zip(columns, schema, strict=True):
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        arrays.append(column.cast(field.type) if isinstance(column, pa.Array) else pa.array(column, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _column(batch: pa.RecordBatch, name: str) -> list[str]:
    """Strings of a column, "" where it or the value is missing."""
    if name not in batch.schema.names:
        return [""] * batch.num_rows
    return [value or "" for value in batch[name].to_pylist()]


def _read(uri: str, columns: tuple[str, ...] | None = None) -> Iterator[pa.RecordBatch]:
    with storage.open_parquet(uri) as parquet:
        names = None if columns is None else [name for name in columns if name in parquet.schema_arrow.names]
        yield from parquet.iter_batches(BATCH_ROWS, columns=names)
