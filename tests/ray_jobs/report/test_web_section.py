"""The report of a crawl: what pages say of their use, the counts of sites, and the sentences above it."""

import pyarrow as pa
import pytest

from cluster import storage
from curation.schema import RAW, raw
from ray_jobs.config import reader as recipes
from ray_jobs.report import page as report
from ray_jobs.report import web

CC, LICENSE, TDM, NOAI, NOINDEX = web.SIGNALS


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        (b'<a href="https://creativecommons.org/licenses/by/4.0/">CC</a>', {CC}),
        (b'<a class=x rel="nofollow license" href="/terms">terms</a>', {LICENSE}),
        (b"<LINK REL=license HREF='https://creativecommons.org/publicdomain/zero/1.0/'>", {CC, LICENSE}),
        (b'<meta name="tdm-reservation" content="1">', {TDM}),
        (b'<meta name="tdm-reservation" content="0">', set()),
        (b'<meta name="robots" content="index, noai">', {NOAI}),
        (b"<meta name=robots content=noimageai>", {NOAI}),
        (b'<meta name="CCBot" content="noindex,noarchive">', {NOINDEX}),
        (b'<meta name="robots" content="all"><p>noai noindex</p>', set()),
        (b'<meta name="description" content="robots noindex">', set()),
        (b"<p>rel=license, creativecommons.org</p>", set()),
    ],
)
def test_what_a_page_says(html, expected):
    seen = web.Seen()
    web._scan(seen, [{"payload": b"<html><head>" + html + b"</head></html>"}])
    assert set(seen.signals) == expected and seen.scanned == 1


def rows(part, hosts):
    return [
        raw(
            f"{part}-{number}",
            f"https://{host}/{number}",
            source="web",
            crawl="CC-MAIN-2024-18",
            fetched_at=f"2024-04-{10 + number}T01:02:03Z",
            payload=b"<p>text</p>",
        )
        for number, host in enumerate(hosts)
    ]


@pytest.fixture
def run(tmp_path):
    """A crawl in two parts; of the first part two pages of three are left, of the second none, and no file of it."""
    parts = [rows(0, ["a.kh", "b.kh", "a.kh"]), rows(1, ["<i>.la", "a.kh"])]
    for number, part in enumerate(parts):
        storage.write_table(f"{tmp_path}/crawl/part-{number}.parquet", pa.Table.from_pylist(part, schema=RAW))
    kept = [
        {"doc_id": row["doc_id"], "url": row["url"], "lang": "km", "text": "ត្រី"}
        for row in parts[0]
        if row["url"].startswith("https://a.kh")
    ]
    storage.write_table(f"{tmp_path}/dedup/part-0.parquet", pa.Table.from_pylist(kept))
    counts = {
        "docs_in": 5,
        "docs_out": 5,
        "seconds": 1.0,
        "versions": {},
        "docs_per_lang": {},
        "rules": {"bad_record": 1},
    }
    storage.write_json(f"{tmp_path}/crawl/_manifest.json", counts)
    left = {"docs_out": 2, "bytes": 1_500_000, "docs_per_lang": {"km": 2}, "bytes_per_lang": {"km": 1_500_000}}
    storage.write_json(f"{tmp_path}/dedup/_manifest.json", {**counts, **left, "rules": {"near_duplicate": 3}})
    return str(tmp_path)


def written(run):
    recipe = recipes.load("commoncrawl")
    with open(report.written(run, recipe, ["crawl", "dedup"]), encoding="utf-8") as file:
        return file.read()


def test_sites_are_counted_and_names_are_no_markup(run):
    html = written(run)
    assert "<tr><td>a.kh</td><td>3</td><td>2</td><td>Khmer (km)</td></tr>" in html
    assert "<tr><td>b.kh</td><td>1</td><td>0</td><td></td></tr>" in html
    assert "<i>.la" not in html and "&lt;i&gt;.la" in html
    assert "<td>CC-MAIN-2024-18</td><td>5</td><td>2</td><td>2024-04-10</td><td>2024-04-12</td>" in html
    assert "HTML of 2 kept pages" in html and "Counted in the first" not in html
    assert "read from a file system" in html  # nothing was asked of a host


def test_of_a_large_crawl_the_first_parts_are_counted_and_it_says_so(run, monkeypatch):
    monkeypatch.setattr(web, "DOCUMENTS", 3)
    html = written(run)
    assert "Counted in the first 3 pages." in html and ".la</td>" not in html


def test_the_sentences_of_a_run_that_trains_nothing(run):
    html = written(run)
    assert "<li>Of 5 pages 2 were kept (40%): 1.5 MB of text.</li>" in html
    assert "<li>Most pages broke dedup: near_duplicate (3), crawl: bad_record (1).</li>" in html
    assert "least in" not in html  # of one language


def test_a_run_without_common_crawl_has_no_such_section(run):
    recipe = recipes.load("demo")
    assert web.section(run, recipe, {"crawl": {"docs_out": 5}, "dedup": {}}) is None
