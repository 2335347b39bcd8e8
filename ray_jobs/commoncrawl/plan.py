"""What a crawl of Common Crawl will fetch: planned once, stored, and followed by every later start of the same crawl.

    RUN/crawl/_plan/ID/found/     wanted captures of each file of the index, sorted by WARC file
    RUN/crawl/_plan/ID/records/   those that are not blocked with `shard` and `range`, a group of WARC files a part
    RUN/crawl/_plan/ID/shards.parquet   one row a shard, that is a part of the crawl, with its rows, ranges and bytes
    RUN/crawl/_plan/ID/plan.json        totals, written last
    RUN/crawl/_plan/asked.json    what was asked of the base so far, in all starts of the crawl

ID is the source's `identity`: what it selects, no code, nothing of other sources and no block list. So a plan, and with it what
was fetched, outlives a change of anything else. When a page that was blocked is wanted again, the plan is made anew.

Index files are read as Ray tasks under the same rate limit as the records. No table is ever in one memory whole: captures are
bucketed by a hash of their WARC file, and a task puts together as many buckets as hold a million captures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TypedDict

import polars as pl
import xxhash

from cluster import storage
from cluster.engines import embedded
from cluster.fetch.fetcher import Access, Missing
from cluster.fetch.rate import Limiter, Rate
from curation.commoncrawl import layout
from curation.commoncrawl import select as commoncrawl_select
from curation.commoncrawl.select import Select
from ray_jobs.commoncrawl import blocks as crawl_blocks
from ray_jobs.commoncrawl.index import BUCKETS, Group, IndexFile, Reach, cdx_blocks, find, group, smallest_keys, tried
from ray_jobs.config.curation import Source
from ray_jobs.errors import UserError
from ray_jobs.run import contact
from ray_jobs.run.fingerprint import digest
from ray_jobs.run.job import Job
from ray_jobs.work.tasks import map_on_ray

RECORDS_AT_ONCE = 1_000_000
ASKED = "asked.json"
SECONDS_AFTER_FAULT = 5.0  # that the rate limit, which may have ended by the same signal, has to answer

FORMAT = 1
"""Of plans and of fetched rows. A change of code that makes either other raises it, and all is fetched again; no other change of
code does that. tests/ray_jobs/commoncrawl/test_crawl_format.py fails when rows are other and this is not."""

SELECTION = ("name", "licence", "share", "kind", "index", "select", "max_records", "max_files", "max_index_files")
LIMITS = ("shard_bytes", "max_record_bytes", "max_line_bytes")

SHARD = {
    "snapshot": pl.String,
    "plan": pl.String,  # the file below records/; empty for a whole file
    "path": pl.String,  # of a whole file, below the base
    "first_row": pl.Int64,
    "rows": pl.Int64,
    "ranges": pl.Int64,
    "wanted_bytes": pl.Int64,
    "fetch_bytes": pl.Int64,
    "pages": pl.String,  # a hash of which they are
}


@dataclass(frozen=True)
class Piece:
    """One shard of the plan: rows of `plan_uri`, or the whole file `path`."""

    snapshot: str
    path: str
    plan_uri: str
    first_row: int
    rows: int
    reach: Reach
    pages: str

    def __str__(self) -> str:
        return self.path or f"{self.plan_uri}, rows {self.first_row} to {self.first_row + self.rows}"


class Found(TypedDict):
    """The captures of one snapshot: files of them, and how many there are."""

    uris: list[str]
    records: int


@dataclass(frozen=True)
class Planned:
    """The plan of a source: its identity, its shards, and how many of its pages are blocked, by rule."""

    identity: str
    pieces: list[Piece]
    blocked: dict[str, int]

    def fingerprint(self, piece: Piece) -> str:
        """Of what is fetched for a shard."""
        return digest([self.identity, piece.snapshot, piece.path, piece.pages])


def identity(job: Job, source: Source) -> str:
    """A hash of what decides which pages are wanted and which rows they become, not of how they are reached."""
    limits = job.recipe.crawl.model_dump(include=set(LIMITS))
    selection = source.model_dump(include=set(SELECTION), exclude_defaults=True)
    return digest({"format": FORMAT, "selection": selection, "snapshots": _snapshots(source), "limits": limits})


def plans(job: Job, lists: crawl_blocks.Lists) -> dict[str, Planned]:
    """The plan of each `commoncrawl` source by its name, made where it is not there."""
    sources = [source for source in job.recipe.sources if source.type == "commoncrawl"]
    if not sources:
        return {}
    reach = _reach(job)
    with counted(job, reach.limiter):
        return {source.name: _plan(job, source, reach, lists) for source in sources}


@contextmanager
def counted(job: Job, limiter: Limiter | None) -> Iterator[None]:
    """Add what is asked of the base in the block to `asked.json`, also when the block fails. What a kill ends is not counted."""
    if limiter is None:
        yield
        return
    before = asdict(limiter.asked())

    def add(wait: float | None) -> None:
        now, uri = asdict(limiter.asked(wait)), job.path("_plan", ASKED)
        so_far = storage.read_json(uri) if storage.exists(uri) else dict.fromkeys(now, 0)
        storage.write_json(uri, {key: so_far[key] + max(0, now[key] - before[key]) for key in now})

    try:
        yield
    except BaseException:
        with suppress(
            Exception
        ):  # a Ray or a store that is gone too must neither hide what ended the block nor hold it up
            add(SECONDS_AFTER_FAULT)
        raise
    add(None)


def _plan(job: Job, source: Source, reach: Reach, lists: crawl_blocks.Lists) -> Planned:
    own = identity(job, source)
    folder = job.path("_plan", own)
    ledgers = storage.glob(storage.join(job.ledger, f"{plan_part(own)}*.parquet"))
    if not all(crawl_blocks.all_refused(storage.read_table(uri), lists) for uri in ledgers):
        for stale in ("plan.json", "shards.parquet", "records"):
            storage.remove(storage.join(folder, stale))
        for uri in ledgers:
            storage.remove(uri)
    _make(job, source, reach, lists, folder)
    pieces = []
    for row in pl.DataFrame(storage.read_table(storage.join(folder, "shards.parquet"))).iter_rows(named=True):
        uri = storage.join(folder, "records", row["plan"]) if row["plan"] else ""
        pieces.append(Piece(row["snapshot"], row["path"], uri, row["first_row"], row["rows"], reach, row["pages"]))
    return Planned(own, pieces, storage.read_json(storage.join(folder, "plan.json"))["blocked"])


def plan_part(identity: str) -> str:
    """What the names of the ledger parts of a plan begin with."""
    return f"part-plan-{identity[:12]}-"


def select_of(source: Source) -> Select:
    wanted = source.select
    return Select(
        languages=layout.iso_639_3(wanted.languages),
        unknown_language=wanted.unknown_language,
        mimes=tuple(wanted.mimes),
        statuses=tuple(wanted.statuses),
        tlds=tuple(wanted.tlds),
        domains=tuple(wanted.domains),
        urls=tuple(wanted.urls),
        not_urls=tuple(wanted.not_urls),
    )


def _reach(job: Job) -> Reach:
    fetch = job.recipe.fetch
    access = Access(
        base=fetch.base.rstrip("/"),
        timeout_seconds=fetch.timeout_seconds,
        attempts=fetch.attempts,
        contact=contact.known(job.recipe),
        anonymous=fetch.anonymous,
        region=fetch.region,
    )
    if storage.is_local(access.base):
        return Reach(access, None)
    from cluster.fetch.rate_actor import SharedLimiter  # imports Ray, which local files do not need

    embedded.start(job.address, job.recipe.cluster.cpus)
    return Reach(access, SharedLimiter(Rate(fetch.requests_per_second, fetch.bytes_per_second, fetch.concurrency)))


def _make(job: Job, source: Source, reach: Reach, lists: crawl_blocks.Lists, folder: str) -> None:
    """Write the plan, or what is still missing of it, to `folder`, which is called by the source's identity."""
    if storage.exists(storage.join(folder, "plan.json")):
        return
    commoncrawl_select.check(select_of(source))
    names = _snapshots(source)
    blocked: Counter[str] = Counter()
    if source.kind == "warc":
        found = _found(job, source, names, reach, folder)
        rows, blocked = _grouped(job, source, found, lists, folder)
    else:
        rows = _files(source, names, reach)
    if not rows and not blocked and not source.optional:
        raise UserError(f"sources: {source.name}: nothing in {', '.join(names)} matches `select`")
    table = pl.DataFrame(rows, schema=SHARD, orient="row")
    storage.write_table(storage.join(folder, "shards.parquet"), table.to_arrow())
    totals = table.select("rows", "ranges", "wanted_bytes", "fetch_bytes").sum().row(0, named=True)
    totals = {"records": totals.pop("rows"), **totals, "blocked": dict(sorted(blocked.items()))}
    storage.write_json(storage.join(folder, "plan.json"), {"source": source.name, "shards": table.height, **totals})


def _snapshots(source: Source) -> list[str]:
    known = layout.SNAPSHOTS
    if source.collinfo:
        known = layout.known_snapshots(storage.read_bytes(source.collinfo))
    names = layout.snapshots(source.snapshots, known)
    early = [name for name in names if name < layout.LANGUAGES_SINCE]
    if early and source.select.languages and not source.select.unknown_language:
        raise UserError(
            f"sources: {source.name}: Common Crawl says the languages of pages from {layout.LANGUAGES_SINCE} on, not "
            f"in {early[0]}; begin later, select by tlds or domains in a source of its own, or set "
            "select.unknown_language: true to take every page of earlier snapshots"
        )
    return names


def _listed(reach: Reach, snapshot: str, kind: str) -> list[str]:
    path = layout.list_path(snapshot, kind)
    fetcher = reach.fetcher()
    try:
        paths = tried(lambda: layout.listed(fetcher.whole(path), kind), path)
    except Missing:
        raise UserError(
            f"fetch.base: {reach.access.base} has no {path}; is {snapshot} a snapshot that it holds?"
        ) from None
    if not paths:
        raise UserError(f"fetch.base: {reach.access.base}/{path} lists nothing")
    return paths


def _some(paths: list[str], most: int | None, share: float) -> list[str]:
    """The paths whose hash lies in the first `share` of the hashes, the `most` least of them, in their order."""
    hashes = {path: xxhash.xxh3_64_intdigest(path.encode()) for path in paths}
    chosen = sorted((path for path in paths if hashes[path] < share * 2**64), key=hashes.__getitem__)[:most]
    return sorted(chosen)


def _files(source: Source, names: list[str], reach: Reach) -> list[dict]:
    """Rows of `SHARD` of whole files, one each."""
    nothing = {"plan": "", "first_row": 0, "rows": 0, "ranges": 0, "wanted_bytes": 0, "fetch_bytes": 0, "pages": ""}
    return [
        {"snapshot": snapshot, "path": path, **nothing}
        for snapshot in names
        for path in _some(_listed(reach, snapshot, source.kind), source.max_files, source.share)
    ]


def _found(job: Job, source: Source, names: list[str], reach: Reach, folder: str) -> dict[str, Found]:
    """By snapshot the files of captures that the index has of `select`, and how many they are."""
    select, tasks = select_of(source), []
    for snapshot in names:
        paths = _listed(reach, snapshot, source.index)
        blocks = {}
        if source.index == "cdx":
            folder_of_cdx = paths[0].rsplit("/", 1)[0]
            blocks = cdx_blocks(reach.fetcher(), f"{folder_of_cdx}/cluster.idx", select)
            paths = [path for path in paths if path.rsplit("/", 1)[1] in blocks]
        for path in _some(paths, source.max_index_files, 1.0):
            name = path.rsplit("/", 1)[1]
            target = storage.join(folder, "found", snapshot, f"{name}.parquet")
            most, of_file = source.max_records, blocks.get(name)
            tasks.append(IndexFile(path, snapshot, select, source.share, most, target, reach, of_file))
    found: dict[str, Found] = {snapshot: {"uris": [], "records": 0} for snapshot in names}
    before = len(storage.present(task.target for task in tasks))
    most = job.recipe.fetch.concurrency if reach.limiter else None
    for task, count in zip(tasks, map_on_ray(job, find, tasks, "index files", finished=before, most=most), strict=True):
        if count["records"]:
            found[task.snapshot]["uris"].append(task.target)
            found[task.snapshot]["records"] += count["records"]
    return found


def _grouped(
    job: Job, source: Source, found: dict[str, Found], lists: crawl_blocks.Lists, folder: str
) -> tuple[list[dict], Counter[str]]:
    """Rows of `SHARD` of the captures, put together by WARC file, and how many of them are blocked."""
    uris = [uri for entry in found.values() for uri in entry["uris"]]
    most_key = smallest_keys(uris, source.max_records) if source.max_records else 2**64 - 1
    fetch, tasks, snapshots = job.recipe.fetch, [], []
    ledger = plan_part(folder.rsplit("/", 1)[1])
    sizes = {"gap_bytes": fetch.gap_bytes, "max_range_bytes": fetch.max_range_bytes}
    sizes["shard_bytes"] = job.recipe.crawl.shard_bytes
    for snapshot, entry in found.items():
        parts = min(BUCKETS, -(-entry["records"] // RECORDS_AT_ONCE))
        for part in range(parts):
            buckets = part * BUCKETS // parts, (part + 1) * BUCKETS // parts
            name = f"{snapshot}-{part:03d}.parquet"
            target, blocked = storage.join(folder, "records", name), storage.join(job.ledger, f"{ledger}{name}")
            tasks.append(Group(entry["uris"], buckets, most_key, sizes, lists, target, job.run_uri, blocked))
            snapshots.append(snapshot)
    before = len(storage.present(task.target for task in tasks))
    results = map_on_ray(job, group, tasks, "groups of WARC files", finished=before)
    rows = [
        {"snapshot": snapshot, "plan": task.target.rsplit("/", 1)[1], "path": "", **row}
        for snapshot, task, result in zip(snapshots, tasks, results, strict=True)
        for row in result["shards"]
    ]
    return rows, sum((Counter(result["blocked"]) for result in results), Counter())
