import gzip
import random

import numpy as np
import pyarrow as pa
import pytest

from curation.sources import block_lists
from curation.text.urls import normalise


@pytest.fixture
def lists(tmp_path):
    domains = tmp_path / "domains.txt"
    domains.write_text(
        "# comment\n\nbad.example\n*.star.example  # all of it\n.dot.example\nwww.site.example\n0.0.0.0 ads.example\n"
        "UPPER.Example\nตัวอย่าง.example\nxn--fsq.example\n192.0.2.7\nport.example:8080\nblogspot.example.\n",
        encoding="utf-8",
    )
    urls = tmp_path / "urls.txt.gz"
    urls.write_bytes(
        gzip.compress(
            "https://www.news.example/adult/\nforum.example/t?id=7\nhttp://น้ำ.example/หน้า\nhome.example\n".encode()
        )
    )
    return block_lists.load([str(domains)], [str(urls)])


def outcome(lists, url):
    batch = pa.record_batch({"doc_id": ["x"], "url": pa.array([url], pa.string())})
    kept, ledger = block_lists.block(batch, lists)
    assert kept.num_rows + ledger.num_rows == 1
    return (ledger["rule"][0].as_py(), ledger["detail"][0].as_py()) if ledger.num_rows else None


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("http://bad.example/", "bad.example"),
        ("https://a.b.BAD.example:443/x?y#z", "bad.example"),
        ("http://user:pass@bad.example./", "bad.example"),
        ("bad.example/without-scheme", "bad.example"),
        ("http://star.example", "star.example"),
        ("http://x.star.example", "star.example"),
        ("http://dot.example", "dot.example"),
        ("http://site.example", "site.example"),
        ("http://m.site.example", "site.example"),
        ("http://ads.example?q", "ads.example"),
        ("http://upper.example#f", "upper.example"),
        ("http://port.example:9090/", "port.example"),
        ("http://a.blogspot.example/", "blogspot.example"),
        ("http://192.0.2.7/", "192.0.2.7"),
        ("http://www.ตัวอย่าง.example/ก", "xn--72c1a1bt4awk9o.example"),
        ("http://xn--72c1a1bt4awk9o.example/", "xn--72c1a1bt4awk9o.example"),
        ("http://例.example/", "xn--fsq.example"),
    ],
)
def test_blocked_domains(lists, url, domain):
    assert outcome(lists, url) == ("blocked_domain", domain)


@pytest.mark.parametrize(
    ("url", "page"),
    [
        ("http://news.example/adult", "news.example/adult"),
        ("https://www.news.example/adult/1.html?x=1", "news.example/adult"),
        ("http://NEWS.example/x/../adult/2", "news.example/adult"),
        ("http://forum.example/t?utm_source=a&id=7", "forum.example/t?id=7"),
        ("http://น้ำ.example/หน้า", "xn--q3c4c8cq.example/%E0%B8%AB%E0%B8%99%E0%B9%89%E0%B8%B2"),
        ("http://xn--q3c4c8cq.example/หน้า/ก", "xn--q3c4c8cq.example/%E0%B8%AB%E0%B8%99%E0%B9%89%E0%B8%B2"),
        (
            "http://xn--q3c4c8cq.example/%e0%b8%ab%E0%B8%99%E0%B9%89%E0%B8%B2?x",
            "xn--q3c4c8cq.example/%E0%B8%AB%E0%B8%99%E0%B9%89%E0%B8%B2",
        ),
        ("http://home.example/any/page", "home.example"),
    ],
)
def test_blocked_pages(lists, url, page):
    assert outcome(lists, url) == ("blocked_url", page)


@pytest.mark.parametrize(
    "url",
    [
        "http://notbad.example/",
        "http://bad.example.org/",
        "http://good.example/bad.example/",
        "http://good.example/?u=http://bad.example/",
        "http://bad.example@good.example/",
        "http://news.example/adults",
        "http://news.example/",
        "http://sub.news.example/adult",
        "http://forum.example/t?id=8",
        "http://forum.example/t",
        "http://1.192.0.2.70/",
        "http://example/",
        "http://ไทย.example/",
        "http://[::1]:80/",
        "http://[bad/",
        "http://",
        "",
        None,
        "\ud7ff://\x00",
        "http://" + "ไทย." * 50_000,
        "http://news.example/" + "a/" * 100_000,
    ],
)
def test_all_else_passes(lists, url):
    assert outcome(lists, url) is None


@pytest.mark.parametrize(("domains", "urls"), [("two words\n", ""), ("http:///x\n", ""), ("", "http:///path\n")])
def test_an_entry_that_is_no_name_is_named(tmp_path, domains, urls):
    (tmp_path / "d.txt").write_text(domains)
    (tmp_path / "u.txt").write_text(urls)
    with pytest.raises(ValueError, match=r"[du]\.txt: .* is not a (domain|URL)"):
        block_lists.load([str(tmp_path / "d.txt")], [str(tmp_path / "u.txt")])


def test_no_lists_block_nothing():
    lists = block_lists.load([], [])
    assert outcome(lists, "http://bad.example/") is None and not len(lists.domains)


def test_equals_a_plain_set_of_names(tmp_path):
    """Random hosts and paths against a list, looked up by suffixes and prefixes in Python sets."""
    rng = random.Random(3)
    labels = ["a", "b", "c", "www", "x-1", "COM", "net"]
    names = {".".join(rng.choices(labels, k=rng.randint(2, 4))).lower().removeprefix("www.") for _ in range(40)}
    names = {name for name in names if "." in name and not name.startswith("www.")}
    pages = {normalise(f"http://{'.'.join(rng.choices(labels, k=2))}/{rng.choice('pqr')}") for _ in range(20)}
    (tmp_path / "d").write_text("\n".join(sorted(names)))
    (tmp_path / "u").write_text("\n".join(sorted(pages)))
    lists = block_lists.load([str(tmp_path / "d")], [str(tmp_path / "u")])
    assert len(lists.domains) == len(names) and (np.diff(lists.pages.astype(object)) > 0).all()
    urls, expected = [], []
    for _ in range(4000):
        host = ".".join(rng.choices(labels, k=rng.randint(1, 5)))
        path = "/".join(rng.choices("pqrs", k=rng.randint(0, 3)))
        urls.append(f"{rng.choice(['http', 'HTTPS'])}://{host}/{path}")
        parts = host.lower().split(".")
        if any(".".join(parts[i:]) in names for i in range(len(parts))):
            expected.append("blocked_domain")
        else:
            page = normalise(urls[-1])
            above = [page] + [page[:i] for i, c in enumerate(page) if c == "/" and i > 7]
            expected.append("blocked_url" if any(p in pages for p in above) else None)
    batch = pa.record_batch({"doc_id": list(map(str, range(len(urls)))), "url": urls})
    for rows in (batch, batch.slice(100, 900)):
        kept, ledger = block_lists.block(rows, lists)
        first = int(rows["doc_id"][0].as_py())
        got = dict(zip(ledger["doc_id"].to_pylist(), ledger["rule"].to_pylist(), strict=True))
        assert got == {str(i): r for i, r in enumerate(expected) if r and first <= i < first + rows.num_rows}
        details = ledger["detail"].to_pylist()
        assert all(
            d in (names if r == "blocked_domain" else {p[7:] for p in pages})
            for d, r in zip(details, ledger["rule"].to_pylist(), strict=True)
        )
        assert kept["doc_id"].to_pylist() == [i for i in rows["doc_id"].to_pylist() if i not in got]
    assert {"blocked_domain", "blocked_url", None} == set(expected)
