"""`make demo-web` as somebody types it: asked for an address once, the crawl of a stand-in of Common Crawl, and its report."""

import html
import os
import pty
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from commoncrawl_site import Page, Seen, Server, Snapshot, build, pages, prose

from cluster import storage

ROOT = Path(__file__).parents[2]
NAME = "CC-MAIN-2024-18"  # that of the recipe
FILES = 4
TLDS, LANGUAGES = {"kh", "la", "mm"}, {"khm", "lao", "mya"}
SIGNALS = {  # of the report -> how a page of the sample, or `tagged`, writes it
    "names a Creative Commons licence": b"https://creativecommons.org/licenses/by",
    "links its licence (rel=license)": b'<a rel="license"',
    "robots tag: noai": b'<meta name="robots" content="noarchive, noai">',
    "robots tag: noindex or noarchive": b'<meta name="robots" content="noarchive, noai">',
    "reserves text and data mining (TDMRep)": b'<meta name="tdm-reservation" content="1">',
}


def tagged(page: Page) -> Page:
    """Some pages reserve text and data mining; the sample has the other signals."""
    if page.languages == "mya" and len(page.url) % 2:
        page.body = page.body.replace(b"</head>", SIGNALS["reserves text and data mining (TDMRep)"] + b"</head>")
    return page


def wanted(page: Page) -> bool:
    """Whether the recipe's `select` takes it."""
    said = set((page.languages or "").split(","))
    tld = urlsplit(page.url).hostname.rsplit(".", 1)[-1]
    return page.status == 200 and page.mime == "text/html" and bool(said & LANGUAGES) and tld in TLDS


def text_of(report: Path) -> str:
    """The words of a page, cells apart."""
    bare = re.sub(r"<svg.*?</svg>|<style.*?</style>", "", report.read_text("utf-8"), flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"</t[dh]>", " | ", bare))))


def rows(report: Path, after: str) -> list[list[str]]:
    """Cells of the first table after a heading."""
    table = report.read_text("utf-8").partition(f">{after}<")[2].partition("<table>")[2].partition("</table>")[0]
    found = [re.findall(r"<td>(.*?)</td>", row) for row in table.split("<tr>")]
    return [[html.unescape(cell) for cell in row] for row in found if row]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Real prose among pages that are none, and the folder that serves them as one snapshot."""
    root = tmp_path_factory.mktemp("site")
    content = [tagged(page) for page in prose()] + pages(60, seed=3)
    random.Random(1).shuffle(content)
    build(root, [Snapshot(NAME, [content[number::FILES] for number in range(FILES)])])
    return root, content


def environment(home: Path) -> dict[str, str]:
    """Of somebody who runs Pinisi for the first time."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PINISI_CONTACT", "XDG_CONFIG_HOME")}
    git = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "user.email", "GIT_CONFIG_VALUE_0": "git@example.org"}
    return {**kept, **git, "HOME": str(home), "PYTHONPATH": str(ROOT)}


def command(url: str) -> list[str]:
    """That of `make demo-web`, at the stand-in."""
    faster = ["--set", "fetch.requests_per_second=60", "--set", "cluster.cpus=2", "--set", "cluster.engine=local"]
    start = [sys.executable, "-m", "ray_jobs.cli", "run", "commoncrawl", "--until", "report"]
    return [*start, "--set", f"fetch.base={url}", *faster]


def check(uri: Path, content: list[Page], log: list[Seen]) -> None:
    """That the report of the run at `uri` says what the stand-in holds and what it was asked."""
    report = uri / "report" / "index.html"
    words = text_of(report)
    chosen = [page for page in content if wanted(page)]
    page_of = {}  # by the id of its record
    for number in range(FILES):
        fetched = [page for page in content[number::FILES] if page.status == 200]
        page_of |= {f"<urn:uuid:response-{NAME}-{number}-{i}>": page for i, page in enumerate(fetched)}
    table = storage.read_table(f"{uri}/dedup", ["source_id", "lang"])
    pages_kept = [page_of[record] for record in table["source_id"].to_pylist()]
    assert len(chosen) > 90 and 60 < len(pages_kept) < len(chosen) and all(map(wanted, pages_kept))
    assert f"Of {len(chosen)} pages {len(pages_kept)} were kept" in words
    assert f"asked with {len(log)} requests" in words and "It never asked for less" in words
    data = [seen for seen in log if seen.path.endswith(".warc.gz") and "crawl-data" in seen.path]
    ((source, records, blocked, ranges, _, fetched, _),) = rows(report, "Where the pages came from")
    assert [source, int(records), int(blocked), int(ranges)] == ["web", len(chosen), 0, len(data)]
    assert float(fetched) == pytest.approx(sum(seen.sent for seen in data) / 1e6, abs=0.006)
    assert rows(report, "Snapshots") == [[NAME, str(len(chosen)), str(len(pages_kept)), "2024-04-18", "2024-04-18"]]
    read_of = Counter(urlsplit(page.url).hostname for page in chosen)
    kept_of = Counter(urlsplit(page.url).hostname for page in pages_kept)
    biggest = rows(report, "Biggest sites")
    assert len(biggest) == min(20, len(read_of))
    assert [(host, int(read), int(n)) for host, read, n, _ in biggest] == [
        (host, read_of[host], kept_of[host]) for host, *_ in biggest
    ]
    languages = {row[0].split("(")[1].rstrip(")"): int(row[2]) for row in rows(report, "Sites by language")}
    assert languages == Counter(table["lang"].to_pylist()) and languages.keys() == {"km", "lo", "my"}
    signals = {name: int(count) for name, count in rows(report, "What pages say of their use")}
    carriers = {name: sum(mark in page.body for page in pages_kept) for name, mark in SIGNALS.items()}
    assert signals == carriers and min(carriers.values()) > 0
    assert "Warning." not in words and "Mixture" in words and "are replay" not in words


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_asked_once_then_pages_then_a_report(site, tmp_path):
    root, content = site
    with Server(root) as server:
        refused = subprocess.run(
            command(server.url), cwd=tmp_path, env=environment(tmp_path), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=200,
        )  # fmt: skip
        assert refused.returncode == 2 and refused.stderr.startswith("pinisi: fetch.contact: ")
        assert "PINISI_CONTACT" in refused.stderr and refused.stderr.count("\n") == 1 and server.log == []

        ours, theirs = pty.openpty()
        run = subprocess.Popen(
            command(server.url), cwd=tmp_path, env=environment(tmp_path), stdin=theirs,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        os.write(ours, b"me@example.org\n")
        out, err = run.communicate(timeout=800)
        assert run.returncode == 0, err
        assert err.count("Your e-mail address [git@example.org]: ") == 1
        assert "runs/commoncrawl/report/index.html" in out
        assert {seen.agent for seen in server.log} == {"pinisi/0.1 (me@example.org)"}
        requests = len(server.log)

        again = subprocess.run(
            command(server.url), cwd=tmp_path, env=environment(tmp_path), stdin=theirs,
            capture_output=True, text=True, check=True, timeout=200,
        )  # fmt: skip
        assert "nothing to do" in again.stdout and "e-mail" not in again.stderr and len(server.log) == requests
    uri = tmp_path / "runs" / "commoncrawl"
    assert (tmp_path / ".config" / "pinisi" / "contact").read_text() == "me@example.org\n"
    assert [path for path in uri.rglob("*") if path.is_file() and b"me@example.org" in path.read_bytes()] == []
    check(uri, content, server.log)


def test_make_demo_web_says_where_both_reports_are(tmp_path):
    """With a `pinisi` that only says what it was asked to do."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    bin_ = tmp_path / ".venv" / "bin"
    bin_.mkdir(parents=True)
    (bin_ / "pinisi").write_text("#!/bin/sh\necho pinisi $@\n")
    (bin_ / "pinisi").chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    make = ["make", "--no-print-directory", "-s", "demo-web"]
    asked = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert asked.stdout == "pinisi run commoncrawl --until report\n"
    report = tmp_path / "runs" / "demo" / "report" / "index.html"
    report.parent.mkdir(parents=True)
    report.touch()
    asked = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert asked.stdout.splitlines()[1:] == ["the demo's, to compare: runs/demo/report/index.html"]
