"""Block lists of a crawl: applied to a plan of Common Crawl, so that nothing blocked is requested, and to all that is read.

When the lists change, a shard that was fetched is not fetched again: what they now block is taken out of it. Only a page that
was refused and is not blocked any more must be asked for.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from cluster.shards import Batches, Shard, ledger_rows
from curation.schema import STAGE, doc_id
from curation.sources import block_lists
from ray_jobs.run import files
from ray_jobs.run.fingerprint import digest
from ray_jobs.run.job import Job

KEYS = ("block_domains", "block_urls")
RULES = ("blocked_domain", "blocked_url")
BATCH_ROWS = 256
NOTHING = ledger_rows(STAGE, [])


@dataclass(frozen=True)
class Lists:
    """The files of the block lists, and a fingerprint of their names, sizes and times of change."""

    domains: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    fingerprint: str = ""

    def __bool__(self) -> bool:
        return bool(self.domains or self.urls)


def of(job: Job) -> Lists:
    """The lists that the recipe names. Raises ValueError for a wrong entry, before anything is read."""
    crawl = job.recipe.crawl
    domains, urls = (tuple(files.named(getattr(crawl, key), f"crawl.{key}")) for key in KEYS)
    lists = Lists(domains, urls, digest([files.listing(job.recipe, f"crawl.{key}") for key in KEYS]))
    block_lists.load(lists.domains, lists.urls)
    return lists


@lru_cache(maxsize=1)
def _loaded(lists: Lists) -> block_lists.BlockLists:
    """Read once a worker process."""
    return block_lists.load(lists.domains, lists.urls)


def refuse(batch: pa.RecordBatch, lists: Lists) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """(Rows that are not blocked, ledger rows of the others) of a batch with `doc_id` and `url`."""
    return block_lists.block(batch, _loaded(lists)) if lists else (batch, NOTHING)


def refuse_captures(captures: pl.DataFrame, lists: Lists) -> tuple[pl.DataFrame, pa.RecordBatch]:
    """The same of captures that an index names; their ids are those of records that could not be read."""
    places = zip(captures["file"].to_list(), captures["offset"].to_list(), captures["url"].to_list(), strict=True)
    ids = [doc_id(f"{file}:{offset}", url) for file, offset, url in places] if lists else []
    if not ids:
        return captures, NOTHING
    kept, refused = refuse(pa.record_batch({"doc_id": ids, "url": captures["url"].to_arrow().cast(pa.string())}), lists)
    return captures.filter(pl.Series(ids).is_in(kept["doc_id"].to_pylist())), refused


def all_refused(ledger: pa.Table, lists: Lists) -> bool:
    """Whether these lists refuse every page that a ledger says was blocked."""
    rows = ledger.filter(pc.is_in(ledger["rule"], pa.array(RULES)))
    batches = rows.combine_chunks().to_batches()
    return all(refuse(batch, lists)[0].num_rows == 0 for batch in batches)


def counted(ledger: pa.Table | pa.RecordBatch) -> dict[str, int]:
    return dict(sorted(Counter(ledger["rule"].to_pylist()).items()))


def fetched_before(shard: Shard, lists: Lists) -> Batches | None:
    """The rows of a shard that was fetched under other lists, less what these block; None when it must be fetched.

    Its fingerprint is that of what is fetched, a hyphen, and that of the lists.
    """
    if not storage.exists(shard.marker):
        return None
    before = storage.read_json(shard.marker)["fingerprint"]
    if before.partition("-")[0] != shard.fingerprint.partition("-")[0]:
        return None
    ledger = storage.read_table(shard.ledger_part)
    return _again(shard, ledger, lists) if all_refused(ledger, lists) else None


def _again(shard: Shard, ledger: pa.Table, lists: Lists) -> Batches:
    table = storage.read_table(shard.part)
    empty = pa.RecordBatch.from_pylist([], table.schema)
    yield empty, NOTHING
    for drops in ledger.combine_chunks().to_batches():
        yield empty, drops
    for batch in table.to_batches(BATCH_ROWS):
        yield refuse(batch, lists)
