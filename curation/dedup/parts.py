"""What deduplication does to the documents of one part, with no engine: keys out, decisions in.

`curation.dedup.steps` says what moves between these and `curation.dedup.decisions`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from cluster import storage
from cluster.shards import LEDGER
from curation.dedup import cut, lines, substring
from curation.dedup.minhash import MinHash, fold_bands, shingle_sets, signatures
from curation.dedup.schema import ANCHORS, CONTEXTS, KEYS, LINES, SHINGLES, STAGE, DedupConfig
from curation.text.units import text_buffers
from curation.text.urls import url_keys

BATCH_ROWS = 1024


def part_keys(uri: str, part: int, name: str, config: MinHash) -> Iterator[pa.RecordBatch]:
    """KEYS of the documents in the Parquet file `uri`, part number `part`; `name` is the snapshot of those without."""
    first = 0
    for batch in read(uri, ("doc_id", "url", "crawl", "lang", "text")):
        yield _keys(batch, part, first, name, config)
        first += batch.num_rows


def _keys(batch: pa.RecordBatch, part: int, first: int, name: str, config: MinHash) -> pa.RecordBatch:
    n = batch.num_rows
    ids = batch["doc_id"].to_pylist()
    urls, crawls = _column(batch, "url"), _column(batch, "crawl")
    citation = "crawl" in batch.schema.names  # outside a crawl a URL is a citation: the chapters of a book share it
    pages = url_keys([url if crawl or not citation else "" for url, crawl in zip(urls, crawls, strict=True)])
    for i in np.flatnonzero(pages == 0):  # no page: only the same record read twice is the same
        pages[i] = xxhash.xxh3_64_intdigest(b"doc_id " + ids[i].encode())
    minima = signatures(batch["text"], config.num_perm, config.seed, config.ngram)
    bands, valid = fold_bands(minima, config)
    bands ^= np.array([xxhash.xxh3_64_intdigest(lang.encode()) for lang in _column(batch, "lang")], np.uint64)[:, None]
    offsets = np.zeros(n + 1, np.int32)
    np.cumsum(valid * config.bands, out=offsets[1:])
    flat = pa.array(bands[valid].view(np.int64).ravel())
    columns = [
        np.full(n, part, np.int32),
        np.arange(first, first + n),
        batch["doc_id"],
        [crawl or name for crawl in crawls],
        pc.fill_null(pc.utf8_length(batch["text"]), 0),
        _ties(batch["text"], urls),
        pages.view(np.int64),
        pa.ListArray.from_arrays(pa.array(offsets), flat, mask=pa.array(~valid)),
        pa.Array.from_buffers(
            pa.binary(),
            n,
            [
                None,
                pa.py_buffer(np.arange(n + 1, dtype=np.int32) * config.num_perm),
                pa.py_buffer(minima.astype(np.uint8)),
            ],
        ),
    ]
    return as_batch(columns, KEYS)


def _ties(text: pa.Array, urls: list[str]) -> np.ndarray:
    data, offsets = text_buffers(text)
    raw = data.data
    seeds = [xxhash.xxh3_64_intdigest(url.encode()) for url in urls]
    hashes = [
        xxhash.xxh3_64_intdigest(raw[start:stop], seed)
        for start, stop, seed in zip(offsets[:-1].tolist(), offsets[1:].tolist(), seeds, strict=True)
    ]
    return np.array(hashes, np.uint64).view(np.int64)


def part_shingles(uri: str, part: int, rows: np.ndarray, ngram: int) -> Iterator[pa.RecordBatch]:
    """SHINGLES of the given rows (sorted, distinct) of a part."""
    first = 0
    for batch in read(uri, ("text",)):
        low, high = np.searchsorted(rows, [first, first + batch.num_rows])
        here = rows[low:high]
        if len(here):
            sets = shingle_sets(batch["text"].take(pa.array(here - first)), ngram)
            yield as_batch([np.full(len(here), part, np.int32), here, [one.tobytes() for one in sets]], SHINGLES)
        first += batch.num_rows


def part_lines(uri: str, part: int, drops: pa.Table, n_buckets: int, config: DedupConfig) -> pa.RecordBatch:
    """Occurrences (LINES) of each line of the documents that `drops` (DROPS) leave in the part."""
    dropped = drops["row"].to_numpy()
    seen = [np.zeros((0, 2), np.uint64)]
    first = 0
    for batch in read(uri, ("doc_id", "text")):
        keep = ~np.isin(np.arange(first, first + batch.num_rows), dropped)
        first += batch.num_rows
        batch = batch.filter(pa.array(keep))
        rows, hashes = lines.line_hashes(batch["text"], config.line_min_chars)
        bucket = lines.buckets(batch["doc_id"].to_pylist(), n_buckets)[rows]
        seen.append(np.column_stack([bucket.astype(np.uint64), hashes]))
    pairs, n = np.unique(np.concatenate(seen), axis=0, return_counts=True)
    bucket, line = np.ascontiguousarray(pairs.T).view(np.int64)
    return as_batch([np.full(len(n), part, np.int32), bucket, line, n], LINES)


class Remaining:
    """The documents of a part without those that `drops` (DROPS) name, and without the lines that `frequent` names."""

    def __init__(self, uri: str, drops: pa.Table, frequent: pa.Table, n_buckets: int, config: DedupConfig):
        self.uri, self.n_buckets, self.config = uri, n_buckets, config
        self.drops = drops.sort_by("row")
        bucket, line = frequent["bucket"].to_numpy(), frequent["line"].to_numpy().view(np.uint64)
        self.frequent = {int(b): np.sort(line[bucket == b]) for b in np.unique(bucket)}

    def batches(self, columns: tuple[str, ...] | None = None) -> Iterator[tuple[pa.RecordBatch, np.ndarray, list]]:
        """(documents, their rows in the part, ledger rows of the others), of all columns or some with doc_id and text."""
        drop_rows = self.drops["row"].to_numpy()
        first = 0
        for batch in read(self.uri, columns):
            low, high = np.searchsorted(drop_rows, [first, first + batch.num_rows])
            gone = drop_rows[low:high] - first
            here = self.drops.slice(low, high - low)
            verdict = [here[name] for name in ("rule", "value", "threshold", "detail")]
            stays = np.ones(batch.num_rows, bool)
            stays[gone] = False
            rows = np.flatnonzero(stays)
            kept, keep, short = self._without_lines(batch.filter(pa.array(stays)) if len(gone) else batch)
            yield kept, rows[keep] + first, [ledger(batch.take(pa.array(gone)), *verdict), short]
            first += batch.num_rows

    def _without_lines(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, np.ndarray, pa.RecordBatch]:
        config = self.config
        bucket = lines.buckets(batch["doc_id"].to_pylist(), self.n_buckets)
        text, removed = lines.remove_lines(batch["text"], bucket, self.frequent, config.line_min_chars)
        detail = [f"{count} lines cut" for count in removed]
        return left_over(batch, text, removed, "frequent_lines", detail, config.min_words_left)


def left_over(  # noqa: PLR0917
    batch: pa.RecordBatch, text: pa.Array, removed: np.ndarray, rule: str, detail: list[str], min_words: int
) -> tuple[pa.RecordBatch, np.ndarray, pa.RecordBatch]:
    """(documents with their new text, which of the batch they are, ledger rows of those that have too little left)."""
    changed = np.flatnonzero(removed)
    words = lines.count_words(text.take(pa.array(changed)))
    short, words = changed[words < min_words], words[words < min_words]
    stays = np.ones(batch.num_rows, bool)
    stays[short] = False
    n = len(short)
    dropped = ledger(batch.take(pa.array(short)), [rule] * n, words, [min_words] * n, [detail[i] for i in short])
    at = batch.schema.get_field_index("text")
    batch = batch.set_column(at, batch.schema.field(at), text.cast(batch.schema.field(at).type))
    return batch.filter(pa.array(stays)) if n else batch, np.flatnonzero(stays), dropped


def part_anchors(remaining: Remaining, part: int) -> pa.RecordBatch:
    """ANCHORS of the documents that remain, each once with the number of its occurrences."""
    seen = [np.zeros(0, np.uint64)]
    for batch, _, _ in remaining.batches(("doc_id", "text")):
        seen.append(substring.anchors(batch["text"], remaining.config.substring_min_chars)[3])
    anchor, n = np.unique(np.concatenate(seen), return_counts=True)
    return as_batch([np.full(len(n), part, np.int32), anchor.view(np.int64), n], ANCHORS)


def part_contexts(remaining: Remaining, part: int, wanted: np.ndarray) -> Iterator[pa.RecordBatch]:
    """CONTEXTS of the anchors in `wanted` (sorted uint64)."""
    for batch, rows, _ in remaining.batches(("doc_id", "text")):
        texts = batch["text"]
        at, first, windows, anchor, text = substring.contexts(texts, remaining.config.substring_min_chars, wanted)
        where = pa.array(at)
        length = pc.fill_null(pc.utf8_length(texts), 0)
        columns = [np.full(len(at), part, np.int32), rows[at], batch["doc_id"].take(where), length.take(where)]
        yield as_batch([*columns, anchor.view(np.int64), first, windows, text], CONTEXTS)


def part_cleaned(remaining: Remaining, cuts: pa.Table) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """(documents that stay, ledger rows) of the part, with `cuts` (CUTS) carried out."""
    with storage.open_parquet(remaining.uri) as parquet:
        empty = pa.RecordBatch.from_pylist([], parquet.schema_arrow)
    yield empty, pa.RecordBatch.from_pylist([], LEDGER)
    cuts = cuts.sort_by("row")
    cut_rows = cuts["row"].to_numpy()
    for batch, rows, gone in remaining.batches():
        if len(rows):
            low, high = np.searchsorted(cut_rows, [rows[0], rows[-1] + 1])
            batch, short = _without_copies(batch, rows, cuts.slice(low, high - low), remaining.config.min_words_left)
            gone.append(short)
        yield batch, pa.concat_batches(gone)


def _without_copies(
    batch: pa.RecordBatch, rows: np.ndarray, cuts: pa.Table, min_words: int
) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    at = np.searchsorted(rows, cuts["row"].to_numpy())
    start, stop = cuts["start"].to_numpy(), cuts["stop"].to_numpy()
    text, removed = cut.cut(batch["text"], at, start, stop)
    longest: dict[int, tuple[int, str]] = {}  # the document that has the longest copy, of equals the smallest id
    for i, size, source in zip(at.tolist(), (start - stop).tolist(), cuts["source"].to_pylist(), strict=True):
        longest[i] = min(longest.get(i, (0, "")), (size, source))
    detail = [f"{n} characters cut, copies of {longest[i][1]}" if n else "" for i, n in enumerate(removed)]
    kept, _, short = left_over(batch, text, removed, "substring_duplicate", detail, min_words)
    return kept, short


def ledger(documents: pa.RecordBatch, *verdict) -> pa.RecordBatch:
    """Ledger rows of dropped documents; `verdict` are the columns rule, value, threshold, detail."""
    n = documents.num_rows
    names = [documents[c] if c in documents.schema.names else pa.nulls(n) for c in ("doc_id", "url", "lang")]
    return as_batch([*names, [STAGE] * n, *verdict], LEDGER)


def as_batch(columns: list, schema: pa.Schema) -> pa.RecordBatch:
    """A record batch of columns (arrays or lists) that are cast to `schema`."""
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


def read(uri: str, columns: tuple[str, ...] | None = None) -> Iterator[pa.RecordBatch]:
    """Batches of a Parquet file; columns that it does not have are left out."""
    with storage.open_parquet(uri) as parquet:
        names = None if columns is None else [name for name in columns if name in parquet.schema_arrow.names]
        yield from parquet.iter_batches(BATCH_ROWS, columns=names)
