"""The tasks that make the plan of a crawl: find wanted captures in one index file; group those of some WARC files to ranges."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, TypeVar, cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from cluster import storage
from cluster.fetch.fetcher import Access, Fetcher, RemoteFile
from cluster.fetch.rate import Limiter
from curation.commoncrawl import cdx, ranges
from curation.commoncrawl import select as commoncrawl_select
from curation.commoncrawl import table as commoncrawl_table
from curation.commoncrawl.layout import Unreadable
from curation.commoncrawl.select import FOUND, Select
from ray_jobs.commoncrawl import blocks as crawl_blocks
from ray_jobs.run.locate import Keys

BUCKETS = 256
ROW_GROUP = 16_384
TRIES = 3  # of a file that came corrupt
THREADS = 16  # an object store answers many small requests at once
CDX_BYTES = 8_000_000  # of compressed blocks, read and parsed together


@dataclass(frozen=True)
class Reach:
    """How the workers reach the base: its address, and the rate limit that they share (none on a plain file system)."""

    access: Access
    limiter: Limiter | None

    def fetcher(self) -> Fetcher:
        return Fetcher(self.access, self.limiter)


T = TypeVar("T")


def tried(function: Callable[[], T], path: str) -> T:
    """`function()`, again while what it fetches is corrupt. Raises ValueError naming the file when it stays so."""
    for last in (*[False] * (TRIES - 1), True):
        try:
            return function()
        except Unreadable as error:
            if last:
                raise ValueError(f"{path}: {error} ({TRIES} times)") from None
        except ValueError as error:
            raise type(error)(f"{path}: {error}") from None
    raise AssertionError


@dataclass(frozen=True)
class IndexFile:
    """One file of an index, what is wanted of it, and where its captures go."""

    path: str
    snapshot: str
    select: Select
    share: float
    most: int | None  # captures, those with the smallest keys
    target: str
    reach: Reach
    blocks: pl.DataFrame | None = None  # of a CDXJ file: those that may hold a wanted URL


def cdx_blocks(fetcher: Fetcher, path: str, select: Select) -> dict[str, pl.DataFrame]:
    """For each file of a CDXJ index, by name, its blocks that may hold a wanted URL; `path` is that of its cluster.idx."""
    found = tried(lambda: cdx.blocks(fetcher.whole(path), select), path)
    return {key[0]: rows for key, rows in found.partition_by("file", as_dict=True).items()}


def find(index: IndexFile) -> dict:
    """Write the wanted captures of one index file, by bucket, file and offset. Returns `records`, their number."""
    if storage.exists(index.target):
        with storage.open_parquet(index.target) as parquet:
            return {"records": parquet.metadata.num_rows}
    captures = _columnar(index) if index.blocks is None else _cdx(index, index.blocks)
    if index.share < 1.0:
        captures = captures.filter(pl.col("key") < pl.lit(int(index.share * 2**64), pl.UInt64))
    if index.most:
        captures = captures.bottom_k(index.most, by="key")
    of_file = commoncrawl_select.capture_keys(captures["file"], pl.zeros(captures.height, pl.Int64, eager=True))
    captures = captures.with_columns(bucket=pl.Series(of_file % BUCKETS, dtype=pl.Int32)).sort(
        "bucket", "file", "offset"
    )
    with storage.atomic(index.target) as local:
        pq.write_table(captures.to_arrow(), local, compression="zstd", row_group_size=ROW_GROUP)
    return {"records": captures.height}


def _columnar(index: IndexFile) -> pl.DataFrame:
    fetcher = index.reach.fetcher()
    return tried(lambda: commoncrawl_table.captures(_parquet(fetcher, index.path), index.select), index.path)


def _parquet(fetcher: Fetcher, path: str) -> BinaryIO:
    """A remote file with all that reading Parquet asks of a file, which is not all that a BinaryIO has."""
    return cast(BinaryIO, RemoteFile(fetcher, path))


def _cdx(index: IndexFile, blocks: pl.DataFrame) -> pl.DataFrame:
    fetcher = index.reach.fetcher()
    runs = ranges.runs(blocks["offset"].to_numpy(), blocks["length"].to_numpy(), 0, CDX_BYTES)
    parts = [pl.DataFrame(schema=FOUND)]
    for run in blocks.with_columns(run=pl.Series(runs)).partition_by("run", maintain_order=True):
        start, n_bytes = run["offset"][0], int(run["length"].sum())

        def read(start: int = start, n_bytes: int = n_bytes) -> pl.DataFrame:
            return cdx.captures(fetcher.part(index.path, start, n_bytes), index.select)

        parts.append(tried(read, index.path))
    return pl.concat(parts)


def smallest_keys(uris: list[str], most: int) -> int:
    """The `most`-th smallest key of all captures in the files, or the largest there is."""
    with ThreadPoolExecutor(THREADS) as pool:
        keys = [table["key"].to_numpy() for table in pool.map(lambda uri: storage.read_table(uri, ["key"]), uris)]
    every = np.concatenate([np.zeros(0, np.uint64), *keys])
    return int(np.partition(every, most - 1)[most - 1]) if len(every) > most else 2**64 - 1


@dataclass(frozen=True)
class Group:
    """Captures of some buckets of the index files at `uris`, and where their ranges and the ledger of blocked ones go."""

    uris: list[str]
    buckets: tuple[int, int]  # the first, and that after the last
    most_key: int
    sizes: dict[str, int]  # the settings of `commoncrawl_ranges.plan`
    lists: crawl_blocks.Lists
    target: str
    run_uri: str
    ledger: str


def group(task: Group) -> dict:
    """Put the captures in ranges and shards, and write them. Returns their `shards`, and how many were `blocked`, by rule."""
    if storage.exists(task.target):
        planned = pl.DataFrame(storage.read_table(task.target))
        blocked = storage.read_table(task.ledger, ["rule"]) if storage.exists(task.ledger) else crawl_blocks.NOTHING
    else:
        with ThreadPoolExecutor(THREADS) as pool:
            parts = list(pool.map(lambda uri: _buckets(uri, *task.buckets), task.uris))
        chosen = pl.concat(parts).filter(pl.col("key") <= pl.lit(task.most_key, pl.UInt64))
        chosen, blocked = crawl_blocks.refuse_captures(chosen, task.lists)
        if blocked.num_rows:
            storage.write_table(task.ledger, pa.Table.from_batches([blocked]))
            keys = Keys()
            keys.add(blocked)
            keys.write(task.run_uri, task.ledger.rsplit("/", 1)[1])
        planned = ranges.plan(chosen.drop("bucket", "key"), **task.sizes)
        with storage.atomic(task.target) as local:
            pq.write_table(planned.to_arrow(), local, compression="zstd", row_group_size=ROW_GROUP)
    sizes = ranges.sizes(planned).drop("shard").to_dicts()
    keys_N = commoncrawl_select.capture_keys(planned["file"], planned["offset"])
    for one in sizes:
        of_shard = keys_N[one["first_row"] : one["first_row"] + one["rows"]]
        one["pages"] = xxhash.xxh3_64_hexdigest(of_shard.tobytes())
    return {"shards": sizes, "blocked": crawl_blocks.counted(blocked)}


def _buckets(uri: str, first: int, end: int) -> pl.DataFrame:
    """Rows of one file of captures whose bucket is in [first, end), reading only the row groups that may hold them."""
    with storage.open_parquet(uri) as parquet:
        column = parquet.schema_arrow.names.index("bucket")
        bounds = [
            parquet.metadata.row_group(i).column(column).statistics for i in range(parquet.metadata.num_row_groups)
        ]
        groups = [i for i, bound in enumerate(bounds) if bound.min < end and bound.max >= first]
        rows = pl.DataFrame(parquet.read_row_groups(groups))
    return rows.filter(pl.col("bucket").is_between(first, end, closed="left"))
