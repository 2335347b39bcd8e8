"""Range requests for selected records of Common Crawl: what putting them together saves, and what it costs in bytes.

    python benchmarks/cluster_crawl.py

Prints a table and writes benchmarks/results/cluster-crawl.json. Two parts:

* Counts, on places as they lie in Common Crawl: 20 WARC files of 35,000 pages each, lengths log-normal with a mean of 28 kB
  compressed (about 1 GB a file), 1.5 kB of request and metadata records between them; a share of the pages, chosen at random,
  is wanted: 0.3 % (one language of middle size), 4 % (South-East Asia), 30 %. Requests per record and bytes fetched per byte
  wanted, for gaps from 0 to 2 MB; what it takes at the default limits of 10 requests and 50 MB a second.
* Time, against a server of its own process on loopback that answers after 20 ms, with 4 threads: at a limit of 50 requests a
  second, and without one. Records are checked and parsed as in a crawl. The naive way, one request for each record, goes
  through the same fetcher with the same limit.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from table import row, write

from cluster.fetch.fetcher import Access, Fetcher
from cluster.fetch.rate import LocalLimiter, Rate
from curation.commoncrawl import ranges, table
from curation.commoncrawl.select import FOUND, Select
from curation.schema import Limits
from ray_jobs.commoncrawl import read as crawl_commoncrawl
from ray_jobs.config.curation import Fetch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from commoncrawl_site import Server, Snapshot, build, pages

NAIVE = "one request per record"
SHARES = {"0.3 %": 0.003, "4 %": 0.04, "30 %": 0.3}
GAPS = {"0": 0, "100 kB": 100_000, "500 kB": 500_000, "2 MB": 2_000_000}
DEFAULTS = Fetch()
LATENCY_SECONDS = 0.02


def main() -> None:
    write("cluster-crawl", [*counts(), *timed()], tuned_on="nothing")


def counts() -> list[dict]:
    chance = np.random.default_rng(0)
    rows = []
    for name, share in SHARES.items():
        records = pl.concat([places(chance, file, share) for file in range(20)])
        naive_seconds = seconds(records.height, records["length"].sum())
        for gap, gap_bytes in GAPS.items():
            size = ranges.sizes(ranges.plan(records, gap_bytes, DEFAULTS.max_range_bytes, 64_000_000)).sum()
            requests, fetched, wanted = (size[c][0] for c in ("ranges", "fetch_bytes", "wanted_bytes"))
            where = f"{name} wanted, gap {gap}"
            rows.append(row(f"requests per record, {where}", "1", requests / records.height, peer=(NAIVE, 1.0)))
            rows.append(row(f"bytes fetched per byte wanted, {where}", "1", fetched / wanted, peer=(NAIVE, 1.0)))
            rate = records.height / seconds(requests, fetched)
            peer = (NAIVE, records.height / naive_seconds)
            rows.append(row(f"records/s at the default limits (computed), {where}", "records/s", rate, peer=peer))
    return rows


def places(chance: np.random.Generator, file: int, share: float) -> pl.DataFrame:
    length = np.maximum(500, chance.lognormal(np.log(28_000) - 0.5, 1.0, 35_000)).astype(np.int64)
    offset = np.cumsum(length + 1500) - length
    wanted = chance.random(len(length)) < share
    columns = {"file": [f"warc-{file:05d}"] * int(wanted.sum()), "offset": offset[wanted], "length": length[wanted]}
    return pl.DataFrame(columns).with_columns(digest=None, url=pl.lit(""), key=0).select(list(FOUND)).cast(FOUND)


def seconds(requests: int, n_bytes: int) -> float:
    """Time that the default limits allow: whichever of the two is reached."""
    return max(requests / DEFAULTS.requests_per_second, n_bytes / DEFAULTS.bytes_per_second)


def serve(root: str, address) -> None:
    with Server(Path(root), latency_seconds=LATENCY_SECONDS) as server:
        address.put(server.url)
        time.sleep(3600)


def timed() -> list[dict]:
    rows = []
    with tempfile.TemporaryDirectory() as root:
        build(Path(root), [Snapshot("CC-MAIN-2024-18", [pages(2000, seed=i, kilobytes=8) for i in range(2)])])
        found = [
            table.captures(path.open("rb"), Select(languages=("khm", "lao")))
            for path in sorted(Path(root).glob("cc-index/table/**/subset=warc/*.parquet"))
        ]
        address = multiprocessing.Queue()
        process = multiprocessing.Process(target=serve, args=(root, address), daemon=True)
        process.start()
        url = address.get()
        records = pl.concat(found)
        some = records.sort("key").head(300)
        for name, chosen, limit in (("50 requests/s", some, 50.0), ("no limit", records, 1e6)):
            naive = rate(url, chosen, -1, limit)
            for gap in ("0", "100 kB"):
                ours = rate(url, chosen, GAPS[gap], limit)
                rows.append(row(f"records/s (measured), {name}, gap {gap}", "records/s", ours, peer=(NAIVE, naive)))
        process.kill()
    return rows


def rate(url: str, records: pl.DataFrame, gap_bytes: int, requests_per_second: float) -> float:
    """Records a second, fetched, checked and parsed by one worker. A gap of -1 puts nothing together."""
    planned = ranges.plan(records, gap_bytes, DEFAULTS.max_range_bytes if gap_bytes >= 0 else 1, 10**12)
    fetcher = Fetcher(Access(url), LocalLimiter(Rate(requests_per_second, 1e12, 8)))
    columns = {"source": "s", "crawl": "c", "licence": ""}
    begin = time.perf_counter()
    rows = list(crawl_commoncrawl._rows(fetcher, planned, columns, Limits()))
    assert len(rows) == planned.height and not any("rule" in each for each in rows)
    return len(rows) / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
