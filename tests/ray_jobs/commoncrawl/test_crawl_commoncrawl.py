"""A crawl of a small Common Crawl: every wanted record once and exactly, whatever the server does, never faster than allowed."""

import gzip
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from commoncrawl_run import LIMITS, NAME, crawl, recipe, sorted_rows
from commoncrawl_site import FAULTS, Page, Server, Snapshot, build, faults, index, listing, pages, surt

from cluster import storage
from cluster.fetch.rate import Asked
from curation.sources.warc import read_warc
from ray_jobs.commoncrawl import plan as crawl_plan
from ray_jobs.errors import UserError
from ray_jobs.work import tasks


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("site")
    build(root, [Snapshot(NAME, [pages(40, seed=i) for i in range(6)])])
    return root


def plan_of(uri):
    (found,) = Path(uri, "crawl", "_plan").glob("*/plan.json")
    return storage.read_json(str(found))


def asked(uri):
    return storage.read_json(f"{uri}/crawl/_plan/asked.json")


def direct(root, pattern="warc/*.warc.gz", keep=lambda row: True):
    """What reading the whole files from disk gives."""
    rows = []
    for path in sorted(root.glob(f"crawl-data/{NAME}/segments/*/{pattern}")):
        for kept, _ in read_warc(str(path), source="cc", crawl=NAME):
            rows += [{**row, "warc_file": str(path.relative_to(root))} for row in kept.to_pylist()]
    return sorted_rows([row for row in rows if keep(row)])


def said(root, *codes):
    """A condition on rows: that the index says one of these languages of the page."""
    tables = [pq.read_table(path) for path in root.glob("cc-index/table/**/subset=warc/*.parquet")]
    languages = {r["url"]: r["content_languages"] or "" for table in tables for r in table.to_pylist()}
    return lambda row: bool(set(languages[row["url"]].split(",")) & set(codes))


def files(uri):
    return {
        str(path.relative_to(uri)): path.read_bytes()
        for part in ("crawl", "dropped/crawl")
        for path in sorted(Path(uri, part).rglob("*"))
        if path.suffix == ".parquet" or path.parent.name == "_shards"
    }


def most_allowed(seconds):
    rate, concurrency = LIMITS["requests_per_second"], LIMITS["concurrency"]
    return rate * seconds + rate * 0.1 + concurrency


@pytest.mark.slow
def test_every_wanted_record_once_while_the_server_misbehaves(site, tmp_path):
    want = direct(site, keep=said(site, "khm", "lao", "mya"))
    with Server(site, fault=faults(0.25, FAULTS, times=2), slow_seconds=2.0) as server:
        wanted = recipe(server.url, {"gap_bytes": 0}, select={"languages": ["km", "lo", "my"]})
        got = crawl(tmp_path / "run", wanted)
        assert len(server.log) > 100
        for seconds in (0.5, 1.0, 3.0):
            assert server.most_in(seconds) <= most_allowed(seconds)
        assert Counter(seen.status for seen in server.log)[206] > 50
    assert got == want and len(got) > 60
    assert storage.read_json(f"{tmp_path}/run/crawl/_manifest.json")["rules"] == {}


@pytest.mark.slow
def test_two_workers_share_one_rate_and_few_requests_are_made(site, tmp_path, monkeypatch):
    most, run_tasks = [], tasks.run_tasks
    monkeypatch.setattr(tasks, "run_tasks", lambda *of, **how: most.append(how["most"]) or run_tasks(*of, **how))
    with Server(site, latency_seconds=0.05) as server:
        got = crawl(tmp_path / "run", recipe(server.url, select={"languages": ["km", "lo", "my", "id"]}))
        for seconds in (0.25, 1.0):
            assert server.most_in(seconds) <= most_allowed(seconds)
        assert 2 <= max(seen.together for seen in server.log) <= LIMITS["concurrency"]
        data = [seen for seen in server.log if seen.path.startswith("crawl-data") and seen.path.endswith(".warc.gz")]
        assert len(data) < len(got) * 0.8  # ranges hold several records
        plan = plan_of(tmp_path / "run")
        assert plan["ranges"] == len(data) and plan["records"] == len(got)
        assert plan["fetch_bytes"] == sum(seen.sent for seen in data) > plan["wanted_bytes"]
    disk = crawl(tmp_path / "disk", recipe(site, select={"languages": ["km", "lo", "my", "id"]}))
    assert most == [4, None, 4] + 3 * [None]  # what asks a host: no more tasks than requests, which would only be nodes
    assert disk == got == direct(site, keep=said(site, "khm", "lao", "mya", "ind"))
    assert files(tmp_path / "run") == files(tmp_path / "disk")  # the base, the rate and the gap leave no trace
    cdx = crawl(tmp_path / "cdx", recipe(site, index="cdx", select={"languages": ["km", "lo", "my", "id"]}))
    assert cdx == got


@pytest.mark.slow
def test_a_403_stops_the_crawl_which_then_continues_at_another_base(site, tmp_path):
    wanted = {"languages": ["km", "lo", "my"]}
    whole = crawl(tmp_path / "whole", recipe(site, select=wanted))
    with Server(site) as server:
        count = iter(range(10**6))
        server.fault = lambda path, start, attempt: "403" if path.endswith(".warc.gz") and next(count) >= 20 else None
        with pytest.raises(UserError, match=r"answered 403 for crawl-data.*blocked.*fetch.requests_per_second"):
            crawl(tmp_path / "run", recipe(server.url, select=wanted))
        refused = [seen for seen in server.log if seen.status == 403]
        assert 1 <= len(refused) <= LIMITS["concurrency"]
        before = len(server.log)
        assert asked(tmp_path / "run")["requests"] == before
    out = tmp_path / "run" / "crawl"
    done = {path.stem for path in (out / "_shards").glob("*.json")}
    total = plan_of(tmp_path / "run")["shards"]
    assert 0 < len(done) < total
    assert {path.stem for path in out.glob("part-*.parquet")} == done  # nothing half written
    with Server(site) as server:  # another address, another rate, another gap: the same crawl
        other = {"requests_per_second": 100.0, "gap_bytes": 0}
        assert crawl(tmp_path / "run", recipe(server.url, other, select=wanted)) == whole
        assert all(
            seen.path.endswith(".warc.gz") and "crawl-data" in seen.path for seen in server.log
        )  # no index again
        assert len(server.log) < plan_of(tmp_path / "run")["ranges"]
        assert asked(tmp_path / "run")["requests"] == before + len(server.log)
    assert files(tmp_path / "run") == files(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wet", "files"])
def test_whole_files(site, tmp_path, kind):
    select = {"languages": ["km"]} if kind == "wet" else {"tlds": ["kh", "la"]}
    with Server(site, fault=faults(0.8, ("short", "drop", "corrupt", "503"), times=1, seed=3)) as server:
        got = crawl(tmp_path / "run", recipe(server.url, kind=kind, select=select))
        corrupt = [seen for seen in server.log if server.fault(seen.path, seen.start, 0) == "corrupt"]
        assert corrupt
    if kind == "wet":
        want = direct(site, "wet/*.warc.wet.gz", lambda row: row["lang_hint"] == "khm")
    else:
        want = direct(site, keep=lambda row: row["url"].split("/")[2].rsplit(".", 1)[1] in ("kh", "la"))
    assert got == want and len(got) > 10
    drops = storage.read_table(f"{tmp_path}/run/dropped/crawl").to_pylist()
    assert {row["rule"] for row in drops} <= {"not_html"}
    few = crawl(tmp_path / "few", recipe(site, kind=kind, select=select, max_files=2))
    assert len({row["warc_file"] for row in few}) == 2 and few == [
        row for row in got if row["warc_file"] in {r["warc_file"] for r in few}
    ]


@pytest.mark.slow
def test_share_and_most_records_are_taken_by_hash(site, tmp_path):
    everything = crawl(tmp_path / "all", recipe(site))
    half = crawl(tmp_path / "half", recipe(site, share=0.5))
    assert 0.35 < len(half) / len(everything) < 0.65
    ids = {row["doc_id"] for row in everything}
    assert {row["doc_id"] for row in half} < ids
    some = crawl(tmp_path / "some", recipe(site, max_records=30))
    again = crawl(tmp_path / "again", recipe(site, max_records=30, index="cdx"))
    assert len(some) == 30 and some == again
    few = crawl(tmp_path / "few", recipe(site, max_records=10))
    assert {row["doc_id"] for row in few} < {row["doc_id"] for row in some} < ids
    part = crawl(tmp_path / "part", recipe(site, max_index_files=1))
    assert 0 < len(part) < len(everything)


@pytest.mark.slow
def test_what_is_broken_in_the_archive_is_in_the_ledger(site, tmp_path):
    root = tmp_path / "site"
    shutil.copytree(site, root)
    found = [
        r for path in root.glob("cc-index/table/**/subset=warc/*.parquet") for r in pq.read_table(path).to_pylist()
    ]
    html = sorted((r for r in found if r["content_mime_type"] == "text/html"), key=lambda r: r["url"])
    flipped, gone = html[0], html[1]["warc_filename"]
    file = root / flipped["warc_filename"]
    data = bytearray(file.read_bytes())
    data[flipped["warc_record_offset"] + flipped["warc_record_length"] // 2] ^= 0xFF
    file.write_bytes(bytes(data))
    gone = next(r["warc_filename"] for r in html if r["warc_filename"] != flipped["warc_filename"])
    os.remove(root / gone)
    with Server(root) as server:
        got = crawl(tmp_path / "run", recipe(server.url))
    drops = storage.read_table(f"{tmp_path}/run/dropped/crawl").to_pylist()
    rules = Counter(row["rule"] for row in drops)
    assert rules == {"bad_record": 1, "not_found": sum(r["warc_filename"] == gone for r in html)}
    [bad] = [row for row in drops if row["rule"] == "bad_record"]
    assert bad["url"] == flipped["url"] and bad["doc_id"] and "gzip" in bad["detail"]
    assert len(got) + len(drops) == len(html) and len(
        {row["doc_id"] for row in got} | {r["doc_id"] for r in drops}
    ) == len(html)
    with pytest.raises(UserError, match="are broken, more than"):
        crawl(tmp_path / "strict", recipe(root, crawl={"max_bad_share": 0.01}))


def test_errors_are_one_sentence(site, tmp_path):
    for source, message in (
        ({"snapshots": "CC-MAIN-2024-10"}, r"has no crawl-data/CC-MAIN-2024-10/cc-index-table.paths.gz"),
        (
            {"snapshots": "CC-MAIN-2016-07", "select": {"languages": ["km"]}},
            r"from CC-MAIN-2018-39 on, not in CC-MAIN-2016-07",
        ),
        ({"select": {"urls": ["a(?=b)"]}}, r"is not a regular expression"),
    ):
        with pytest.raises(UserError, match=message):
            crawl(tmp_path / "run", recipe(site, **source))
    for source, message in (
        ({"path": "/x"}, "has `snapshots` and no `path`"),
        ({"snapshots": []}, "needs `snapshots`"),
        ({"snapshots": "CC-MAIN-24"}, "is no snapshot"),
        ({"select": {"languages": ["xx"]}}, "no ISO 639-1 code"),
        ({"kind": "files", "select": {"languages": ["km"]}}, "does not say the languages"),
        ({"kind": "wet", "max_records": 5}, "limited by max_files"),
        ({"max_files": 5}, "use max_records"),
        ({"type": "warc", "path": "/x", "snapshots": [NAME]}, "is for sources of type commoncrawl"),
        ({"type": "warc", "snapshots": []}, "needs a `path`"),
    ):
        with pytest.raises(UserError, match=message):
            recipe(site, **source)


def test_a_plan_needs_a_match(site, tmp_path):
    with pytest.raises(UserError, match=r"nothing in CC-MAIN-2024-18 matches `select`"):
        crawl(tmp_path / "run", recipe(site, select={"tlds": ["zz"]}))


@pytest.mark.slow
@pytest.mark.skipif("PINISI_SAMPLE_DIR" not in os.environ, reason="PINISI_SAMPLE_DIR names the sample data")
def test_real_pages_by_their_own_index(tmp_path):
    """The WARC files of the sample, found through its CDXJ index, over a server that misbehaves."""
    sample = Path(os.environ["PINISI_SAMPLE_DIR"]) / "warc"
    if not (sample / "index.cdxj.gz").exists():
        pytest.skip("this sample has no CDXJ index")
    root, captures = tmp_path / "site", []
    folder = f"crawl-data/{NAME}/segments/1.0/warc"
    for line in gzip.decompress((sample / "index.cdxj.gz").read_bytes()).decode().splitlines():
        fields = json.loads(line[line.index(" {") :])
        language = {"km": "khm", "my": "mya", "id": "ind"}.get(fields["filename"].split("-")[-2], "eng")
        page = Page(fields["url"], b"", language, int(fields["status"]), fields["mime"])
        captures.append(
            (page, f"{folder}/{fields['filename']}", int(fields["offset"]), int(fields["length"]), fields["digest"])
        )
    (root / folder).mkdir(parents=True)
    for name in {capture[1] for capture in captures}:
        shutil.copy(sample / name.rsplit("/", 1)[1], root / name)
    index(root, NAME, sorted(captures, key=lambda c: (surt(c[0].url), c[1], c[2])))
    listing(root, NAME, "warc.paths.gz", sorted({capture[1] for capture in captures}))
    keys = {"gap_bytes": 20_000, "max_range_bytes": 500_000, "requests_per_second": 200.0}
    with Server(root, fault=faults(0.2, ("short", "drop", "corrupt", "503", "500"))) as server:
        got = crawl(
            tmp_path / "run", recipe(server.url, keys, {"shard_bytes": 1_000_000}, select={"languages": ["km", "my"]})
        )
        plan = plan_of(tmp_path / "run")
    assert got == direct(root, keep=lambda row: row["warc_file"].split("-")[-2] in ("km", "my"))
    assert len(got) == plan["records"] > 500 and plan["ranges"] < len(got) / 10


def test_a_stop_does_not_wait_for_a_rate_limit_that_has_ended_too():
    """A signal to a group of processes ends Ray with the run: nobody answers, and asking without a limit never returned."""
    waits = []

    def asked(wait=None):
        waits.append(wait)
        if len(waits) > 1:
            raise TimeoutError
        return Asked(requests=3)

    job, limiter = SimpleNamespace(path=lambda *parts: "/".join(parts)), SimpleNamespace(asked=asked)
    with pytest.raises(KeyboardInterrupt), crawl_plan.counted(job, limiter):
        raise KeyboardInterrupt
    assert waits[0] is None and 0 < waits[1] <= 10
