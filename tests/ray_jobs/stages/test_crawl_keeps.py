"""What was fetched of Common Crawl stays: it is asked for again only when other pages are wanted, or other rows made of them."""

import os
from collections import Counter

import pytest
from commoncrawl_run import NAME, crawl, recipe, sorted_rows
from commoncrawl_site import Server, Snapshot, build, pages

from cluster import storage
from ray_jobs.commands import explain
from ray_jobs.commoncrawl import plan as crawl_plan
from ray_jobs.config import reader as recipes
from ray_jobs.run import run as runs
from ray_jobs.run.job import Job
from ray_jobs.run.run import Run

pytestmark = pytest.mark.slow
FAST = {"requests_per_second": 500.0}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("site")
    build(root, [Snapshot(NAME, [pages(40, seed=i) for i in range(3)])])
    return root


@pytest.fixture
def server(site):
    with Server(site) as server:
        yield server


def with_source(wanted, source):
    plain = wanted.model_dump(exclude_defaults=True)
    return recipes.parse({**plain, "sources": [source, *plain["sources"]]}, "test")


def requests(server, since):
    return [seen.path for seen in server.log[since:]]


def ledger(uri):
    return storage.read_table(f"{uri}/dropped/crawl").to_pylist()


def hosts(rows):
    return Counter(row["url"].split("/")[2] for row in rows)


def test_other_reasons_fetch_nothing(server, tmp_path, monkeypatch):
    uri = tmp_path / "run"
    first = crawl(uri, recipe(server.url, FAST))
    since = len(server.log)
    monkeypatch.setattr(runs, "code", lambda job, languages: {"crawl.py": "other code"})
    assert (
        Run(str(uri), recipe(server.url, FAST)).state(crawl_stage(), prints(uri, recipe(server.url, FAST))) == "changed"
    )
    assert crawl(uri, recipe(server.url, FAST)) == first
    (tmp_path / "own.jsonl").write_text('{"id": "1", "text": "satu"}\n')
    more = with_source(recipe(server.url, FAST), {"name": "own", "type": "jsonl", "path": str(tmp_path / "own.jsonl")})
    assert len(crawl(uri, more)) == len(first) + 1
    lenient = recipe(server.url, FAST, crawl={"max_bad_share": 0.9})
    assert crawl(uri, lenient) == first  # and the row of the source that is gone went with it
    assert requests(server, since) == []
    assert storage.read_json(f"{uri}/crawl/_manifest.json")["docs_out"] == len(first)
    smaller = recipe(server.url, FAST, crawl={"max_record_bytes": 3000})
    assert crawl(uri, smaller) != first
    assert any(".warc.gz" in path for path in requests(server, since))


def crawl_stage():
    from ray_jobs.run.graph import STAGES

    return next(stage for stage in STAGES if stage.name == "crawl")


def prints(uri, wanted):
    return Run(str(uri), wanted).fingerprints()


def test_blocked_pages_are_not_requested_and_are_in_the_ledger(server, tmp_path):
    everything = crawl(tmp_path / "all", recipe(server.url, {**FAST, "gap_bytes": 0}))
    (domain, n_blocked), (other, _) = hosts(everything).most_common(2)
    (tmp_path / "domains.txt").write_text(f"{domain}\n")
    lists = {"block_domains": [str(tmp_path / "*.txt")]}
    uri, since = tmp_path / "run", len(server.log)
    got = crawl(uri, recipe(server.url, {**FAST, "gap_bytes": 0}, crawl=lists))
    assert got == [row for row in everything if row["url"].split("/")[2] != domain]
    refused = [row for row in everything if row["url"].split("/")[2] == domain]
    asked = [seen for seen in server.log[since:] if seen.path.endswith(".warc.gz") and "crawl-data" in seen.path]
    places = {(seen.path, seen.start) for seen in asked}
    assert asked and not places & {(row["warc_file"], row["warc_offset"]) for row in refused}
    rows = [row for row in ledger(uri) if row["rule"] == "blocked_domain"]
    assert sorted(row["url"] for row in rows) == sorted(row["url"] for row in refused)
    manifest = storage.read_json(f"{uri}/crawl/_manifest.json")
    assert manifest["rules"]["blocked_domain"] == n_blocked == manifest["docs_in"] - len(got)
    [event] = explain.events(Run(str(uri), recipe(server.url)), refused[0]["url"])
    assert (event["outcome"], event["rule"], event["detail"]) == ("dropped", "blocked_domain", domain)

    # a longer list takes pages away, a shorter one fetches those that it gives back
    since = len(server.log)
    (tmp_path / "more.txt").write_text(f"{other}\n")
    fewer = crawl(uri, recipe(server.url, FAST, crawl=lists))
    assert fewer == [row for row in everything if row["url"].split("/")[2] not in (domain, other)]
    assert requests(server, since) == []
    os.remove(tmp_path / "more.txt")
    assert crawl(uri, recipe(server.url, FAST, crawl=lists)) == got
    assert len(requests(server, since)) > 0 and not any("cc-index" in path for path in requests(server, since))
    (tmp_path / "domains.txt").write_text("nothing.example\n")
    assert crawl(uri, recipe(server.url, FAST, crawl=lists)) == sorted_rows(everything)
    assert not any(path.endswith(".parquet") for path in requests(server, since))  # what the index said is kept
    assert storage.read_json(f"{uri}/crawl/_manifest.json")["rules"].get("blocked_domain") is None
    assert Counter(row["rule"] for row in ledger(uri))["blocked_domain"] == 0


def test_an_identity_is_of_what_is_wanted(tmp_path):
    def identity(wanted):
        job = Job(wanted, str(tmp_path), crawl_stage(), "f", None)
        return crawl_plan.identity(job, wanted.sources[0])

    base = identity(recipe("https://a"))
    for same in (
        recipe("s3://b", {"requests_per_second": 1.0, "gap_bytes": 7}),
        recipe("https://a", crawl={"block_domains": ["/x"], "max_bad_share": 0.1}),
        recipe("https://a", trust_language=True),
    ):
        assert identity(same) == base
    others = [
        recipe("https://a", crawl={"shard_bytes": 1}),
        recipe("https://a", crawl={"max_record_bytes": 1}),
        *(
            recipe("https://a", **{key: value})
            for key, value in {
                "share": 0.5,
                "kind": "wet",
                "index": "cdx",
                "select": {"tlds": ["id"]},
                "max_records": 5,
                "max_index_files": 5,
                "licence": "x",
                "snapshots": ["CC-MAIN-2024-10"],
            }.items()
        ),
    ]
    assert len({base, *map(identity, others)}) == len(others) + 1
