"""A crawl of the local stand-in of Common Crawl, for tests of several folders."""

from cluster import storage
from ray_jobs.config import reader as recipes
from ray_jobs.run.run import Run

NAME = "CC-MAIN-2024-18"
LIMITS = {"requests_per_second": 60.0, "concurrency": 4}


def recipe(base, fetch=None, crawl=None, **source):
    keys = {"gap_bytes": 3000, "max_range_bytes": 20_000, "timeout_seconds": 1.0, **LIMITS, **(fetch or {})}
    return recipes.parse(
        {
            "name": "t",
            "cluster": {"cpus": 2},
            "crawl": {"shard_bytes": 60_000, **(crawl or {})},
            "fetch": {"base": str(base), "contact": "crawl@example.org", **keys},
            "sources": [{"name": "cc", "type": "commoncrawl", "snapshots": NAME, **source}],
        },
        "test",
    )


def crawl(uri, wanted):
    Run(str(uri), wanted).execute(until="crawl", say=lambda text: None)
    return sorted_rows(storage.read_table(f"{uri}/crawl").to_pylist())


def sorted_rows(rows):
    return sorted(rows, key=lambda row: (row["warc_file"], row["warc_offset"]))
