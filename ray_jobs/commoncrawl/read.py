"""Read one shard of a crawl of Common Crawl: ranges of WARC files, or a whole WET or WARC file.

Ranges are fetched a few ahead of the one that is read, by threads of the worker; how many requests the whole cluster may have
under way is the shared rate limit's affair. Rows come in the order of the plan, whatever order the answers come in.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import polars as pl
import pyarrow as pa

from cluster import storage
from cluster.fetch.fetcher import Fetcher, Missing, OutOfRange
from cluster.shards import Batches
from curation.commoncrawl import records
from curation.commoncrawl import select as commoncrawl_select
from curation.commoncrawl.select import Select
from curation.schema import Limits, batches, drop
from curation.sources.warc import read_records
from ray_jobs.commoncrawl.plan import Piece, select_of
from ray_jobs.config.curation import Source

THREADS = 4  # that fetch for one worker
AHEAD = 6  # ranges that are fetched or wait to be read: what a worker holds in memory
BLOCK_BYTES = 16_000_000  # of a whole file, at a request


def read(piece: Piece, source: Source, limits: Limits) -> Batches:
    """The pages of one shard as pairs of (`RAW` batch, ledger batch).

    Each wanted record gives one row of either. Rules of the ledger beside those of the WARC reader: `bad_record` (it came
    corrupt and came so again), `digest_mismatch` and `not_found`.
    """
    fetcher = piece.reach.fetcher()
    columns = {"source": source.name, "crawl": piece.snapshot, "licence": source.licence}
    if piece.path:
        yield from _whole(fetcher, piece.path, select_of(source), columns, limits)
    else:
        yield from batches(_rows(fetcher, _planned(piece), columns, limits), limits)


def _planned(piece: Piece) -> pl.DataFrame:
    """The rows of the shard, reading only the row groups of the plan that hold them."""
    end = piece.first_row + piece.rows
    with storage.open_parquet(piece.plan_uri) as parquet:
        groups, skipped, position = [], 0, 0
        for i in range(parquet.metadata.num_row_groups):
            rows = parquet.metadata.row_group(i).num_rows
            if position < end and position + rows > piece.first_row:
                groups.append(i)
            elif position + rows <= piece.first_row:
                skipped += rows
            position += rows
        table = parquet.read_row_groups(groups)
    return pl.DataFrame(table.slice(piece.first_row - skipped, piece.rows))


def _rows(fetcher: Fetcher, planned: pl.DataFrame, columns: dict, limits: Limits) -> Iterator[dict]:
    """Rows of all records, range by range."""
    waiting: deque[tuple[list[dict], int, Future]] = deque()
    pool = ThreadPoolExecutor(THREADS)

    def first() -> Iterator[dict]:
        wanted, begin, data = waiting.popleft()
        named = {**columns, "warc_file": wanted[0]["file"]}
        again = lambda record: _bytes(fetcher, record["file"], record["offset"], record["length"])  # noqa: E731
        yield from records.rows(wanted, data.result(), begin, columns=named, limits=limits, again=again)

    try:
        for part in planned.partition_by("range", maintain_order=True):
            wanted = part.to_dicts()
            begin, end = wanted[0]["offset"], max(r["offset"] + r["length"] for r in wanted)
            readable = any(r["length"] <= limits.max_record_bytes for r in wanted)
            task = (fetcher, wanted[0]["file"], begin, end - begin if readable else 0)
            waiting.append((wanted, begin, pool.submit(_bytes, *task)))
            if len(waiting) >= AHEAD:
                yield from first()
        while waiting:
            yield from first()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _bytes(fetcher: Fetcher, path: str, start: int, n_bytes: int) -> bytes | None:
    """The bytes, as many as the file has; None when it has none there."""
    try:
        return fetcher.some(path, start, n_bytes) if n_bytes else None
    except (Missing, OutOfRange):
        return None


def _whole(fetcher: Fetcher, path: str, select: Select, columns: dict, limits: Limits) -> Batches:
    """Pages of a whole file that `select` wants, by URL and, in WET files, by the first language that the record names."""
    with tempfile.NamedTemporaryFile(prefix="pinisi-", suffix=".gz") as copy:
        try:
            fetcher.download(path, copy.name, BLOCK_BYTES)
        except Missing:
            rows = [drop("not_found", record_id=path, detail=f"{fetcher.access.base} has no such file")]
            yield from batches(rows, limits)
            return
        _mended(fetcher, path, copy.name)
        with open(copy.name, "rb") as file:
            for kept, drops in batches(read_records(file, {**columns, "warc_file": path}, limits), limits):
                yield _wanted(kept, select), _wanted(drops, select)


def _mended(fetcher: Fetcher, path: str, copy: str) -> None:
    """Fetch again what does not unpack, until it does or comes again the same: then the archive itself is broken there."""
    tries, last = 0, 0
    while broken := records.broken_at(copy, last):
        start, end = broken
        tries = tries + 1 if start == last else 1
        last = start
        second = fetcher.some(path, start, end - start)
        with open(copy, "r+b") as file:
            file.seek(start)
            same = file.read(len(second)) == second
            file.seek(start)
            file.write(second)
        if same or tries == records.TRIES:
            return


def _wanted(batch: pa.RecordBatch, select: Select) -> pa.RecordBatch:
    """The rows of pages that are wanted. A ledger row without a URL concerns the file and stays."""
    if not batch.num_rows:
        return batch
    rows = pl.DataFrame({"url": batch["url"].to_pylist()}, schema={"url": pl.String})
    condition = commoncrawl_select.by_url(select) | pl.col("url").is_null()
    if select.languages and "lang_hint" in batch.schema.names:
        rows = rows.with_columns(hint=pl.Series(batch["lang_hint"].to_pylist(), dtype=pl.String))
        known = pl.col("hint").is_in(list(select.languages))
        condition &= known | ((pl.col("hint") == "") & select.unknown_language)
    return batch.filter(pa.array(rows.select(condition).to_series().to_list()))
