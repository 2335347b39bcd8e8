"""Names, lists and indexes of Common Crawl; both indexes against a plain loop over the pages that they were made of."""

import gzip
import json
import re
from urllib.parse import urlsplit

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commoncrawl_site import Page, Snapshot, build, pages, surt

from curation.commoncrawl import cdx as commoncrawl_cdx
from curation.commoncrawl import layout
from curation.commoncrawl import select as commoncrawl_select
from curation.commoncrawl import table as commoncrawl_table
from curation.commoncrawl.layout import Unreadable
from curation.commoncrawl.select import Select

NAME = "CC-MAIN-2024-18"


def test_the_papers_snapshots():
    names = layout.SNAPSHOTS
    assert len(names) == len(set(names)) == 96 and list(names) == sorted(names)
    assert layout.snapshots(["CC-MAIN-2013-20..CC-MAIN-2024-18"]) == list(names)
    assert layout.snapshots(["CC-MAIN-2023-40..CC-MAIN-2024-10", "CC-MAIN-2026-05", "CC-MAIN-2023-50"]) == [
        *("CC-MAIN-2023-40", "CC-MAIN-2023-50", "CC-MAIN-2024-10", "CC-MAIN-2026-05")
    ]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("CC-MAIN-2024", "'CC-MAIN-2024' is no snapshot"),
        ("CC-MAIN-2024-10..CC-MAIN-2024-11", "CC-MAIN-2024-11 is not among the 96 known snapshots"),
        ("CC-MAIN-2024-18..CC-MAIN-2024-10", "holds nothing"),
    ],
)
def test_snapshots_that_are_none(wanted, message):
    with pytest.raises(ValueError, match=message):
        layout.snapshots([wanted])


def test_collinfo_brings_newer_snapshots():
    entries = [{"id": "CC-MAIN-2025-05", "cdx-api": "x"}, {"id": "CC-MAIN-2012"}, {"id": "CC-MAIN-2024-51"}]
    known = layout.known_snapshots(json.dumps(entries).encode())
    assert known == ("CC-MAIN-2024-51", "CC-MAIN-2025-05")
    assert layout.snapshots(["CC-MAIN-2024-51..CC-MAIN-2025-05"], known) == list(known)
    for wrong in (b"<html>", b"[]", b'{"a": 1}', b'[{"name": 1}]'):
        with pytest.raises(ValueError, match="no collinfo"):
            layout.known_snapshots(wrong)


def test_languages_in_three_letters():
    ours = ("my", "ceb", "ilo", "id", "jv", "km", "lo", "ms", "su", "tl", "th", "vi", "war", "en", "zh")
    theirs = ("mya", "ceb", "ilo", "ind", "jav", "khm", "lao", "msa", "sun", "tgl", "tha", "vie", "war", "eng", "zho")
    assert layout.iso_639_3(ours) == theirs
    with pytest.raises(ValueError, match="'xx' is no ISO 639-1 code"):
        layout.iso_639_3(["xx"])


def test_lists_of_files():
    table = "cc-index/table/cc-main/warc/crawl=X/subset={}/part-0.parquet"
    data = gzip.compress(f"{table.format('crawldiagnostics')}\n{table.format('warc')}\n".encode())
    assert layout.listed(data, "columnar") == [table.format("warc")]
    assert len(layout.listed(data, "files")) == 2
    for wrong in (b"no gzip", data[:-9]):
        with pytest.raises(Unreadable):
            layout.listed(wrong, "columnar")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("site")
    content = [pages(60, seed=i, kilobytes=0.3) for i in range(3)]
    content[0].append(Page("http://127.0.0.1:8080/x", b"<p>", "khm"))
    content[0].append(Page("https://WWW.Example.KH/upper", b"<p>", "khm"))
    build(root, [Snapshot(NAME, content), Snapshot("CC-MAIN-2016-07", content, says_languages=False)])
    return root, [page for file in content for page in file]


SELECTS = {
    "html": Select(),
    "all": Select(mimes=(), statuses=()),
    "languages": Select(languages=("khm", "lao")),
    "language of several": Select(languages=("eng",)),
    "unknown too": Select(languages=("mya",), unknown_language=True),
    "pdf": Select(mimes=("application/pdf",)),
    "tlds": Select(tlds=("kh", ".LA")),
    "domains": Select(domains=("example.org", "com.kh", "www.berita.co.id")),
    "tlds and domains": Select(tlds=("org",), domains=("example.org", "example.com")),
    "urls": Select(urls=(r"page/\d-1", r"q=2$"), not_urls=(r"^https:",)),
    "nothing": Select(tlds=("zz",)),
    "all of it": Select(languages=("khm",), tlds=("kh", "org"), urls=(r"\?q=[01]",), statuses=(200,)),
}


def naive(page: Page, select: Select) -> bool:
    host = urlsplit(page.url).hostname
    said = page.languages.split(",") if page.languages else None
    return (
        (not select.languages or (select.unknown_language if said is None else bool(set(said) & set(select.languages))))
        and (not select.mimes or page.mime in select.mimes)
        and (not select.statuses or page.status in select.statuses)
        and (not select.tlds or host.split(".")[-1] in [tld.lower().strip(".") for tld in select.tlds])
        and (not select.domains or any(host == d or host.endswith(f".{d}") for d in select.domains))
        and (not select.urls or any(re.search(pattern, page.url) for pattern in select.urls))
        and not any(re.search(pattern, page.url) for pattern in select.not_urls)
    )


def columnar(root, select, name=NAME):
    files = sorted((root / f"cc-index/table/cc-main/warc/crawl={name}/subset=warc").glob("*.parquet"))
    return pl.concat([commoncrawl_table.captures(file.open("rb"), select) for file in files])


def cdx(root, select, name=NAME):
    folder = root / f"cc-index/collections/{name}/indexes"
    parts = [pl.DataFrame(schema=commoncrawl_select.FOUND)]
    for file, offset, length in commoncrawl_cdx.blocks((folder / "cluster.idx").read_bytes(), select).rows():
        parts.append(commoncrawl_cdx.captures((folder / file).read_bytes()[offset : offset + length], select))
    return pl.concat(parts)


@pytest.mark.parametrize("name", SELECTS)
def test_both_indexes_select_what_a_loop_selects(site, name):
    root, content = site
    select = SELECTS[name]
    wanted = sorted(page.url for page in content if naive(page, select) and page.status == 200)
    assert (name == "nothing") == (not wanted)
    for index in (columnar, cdx):
        got = index(root, select)
        assert dict(got.schema) == commoncrawl_select.FOUND
        assert sorted(got["url"]) == wanted, index.__name__
    assert columnar(root, select).sort("file", "offset").equals(cdx(root, select).sort("file", "offset"))


def test_a_capture_lies_where_the_index_says(site):
    root, _ = site
    for row in columnar(root, Select(languages=("khm",))).iter_rows(named=True):
        member = (root / row["file"]).read_bytes()[row["offset"] : row["offset"] + row["length"]]
        record = gzip.decompress(member)
        assert row["url"].encode() in record and row["digest"].encode() in record


def test_the_columnar_index_is_read_only_where_it_must_be(site, tmp_path):
    content = sorted(pages(4000, seed=9, kilobytes=0.01), key=lambda page: surt(page.url))
    build(tmp_path, [Snapshot(NAME, [content])])
    [file] = list(tmp_path.glob("cc-index/table/cc-main/warc/*/subset=warc/part-00001*"))
    table = pq.read_table(file)
    pq.write_table(table, file, compression="gzip", row_group_size=100)

    class Counting:
        def __init__(self, file):
            self.file, self.read_bytes, self.closed = file, 0, False

        def read(self, n=-1):
            data = self.file.read(n)
            self.read_bytes += len(data)
            return data

        def __getattr__(self, name):
            return getattr(self.file, name)

    def bytes_read(select):
        counting = Counting(file.open("rb"))
        return commoncrawl_table.captures(counting, select).height, counting.read_bytes

    everything, every_byte = bytes_read(Select())
    assert everything > 1000
    host = table["url_host_name"][50].as_py()
    few, few_bytes = bytes_read(Select(domains=(host,)))
    none, none_bytes = bytes_read(Select(tlds=("zz",)))
    no_language, narrow_bytes = bytes_read(Select(languages=("xyz",)))
    assert few > 0 and none == no_language == 0
    assert none_bytes < few_bytes < every_byte  # footer alone < some row groups < all
    assert (
        narrow_bytes - none_bytes < (every_byte - none_bytes) / 2
    )  # all row groups, but only the columns of the conditions
    blocks = commoncrawl_cdx.blocks(
        (tmp_path / f"cc-index/collections/{NAME}/indexes/cluster.idx").read_bytes(), Select()
    )
    one = commoncrawl_cdx.blocks(
        (tmp_path / f"cc-index/collections/{NAME}/indexes/cluster.idx").read_bytes(), Select(domains=("lao.gov.la",))
    )
    assert 0 < one.height < blocks.height / 4


def test_an_index_without_languages(site):
    root, content = site
    with pytest.raises(ValueError, match="does not say the languages"):
        columnar(root, Select(languages=("khm",)), "CC-MAIN-2016-07")
    got = columnar(root, Select(languages=("khm",), unknown_language=True, tlds=("kh",)), "CC-MAIN-2016-07")
    assert sorted(got["url"]) == sorted(p.url for p in content if naive(p, Select(tlds=("kh",))))


def test_unreadable_indexes(tmp_path, site):
    root, _ = site
    good = next(root.glob("cc-index/table/**/subset=warc/*.parquet")).read_bytes()
    for wrong in (b"", good[:-8], good[: len(good) // 2], good[:200] + bytes(400) + good[600:]):
        (tmp_path / "x.parquet").write_bytes(wrong)
        with pytest.raises(Unreadable):
            commoncrawl_table.captures((tmp_path / "x.parquet").open("rb"), Select())
    pq.write_table(pa.table({"a": [1]}), tmp_path / "y.parquet")
    with pytest.raises(ValueError, match="no column content_digest"):
        commoncrawl_table.captures((tmp_path / "y.parquet").open("rb"), Select())
    with pytest.raises(Unreadable):
        commoncrawl_cdx.captures(b"no gzip", Select())
    with pytest.raises(Unreadable):
        commoncrawl_cdx.blocks(b"com,example)/ 2024\tcdx-0.gz\tten\t5\n", Select())


def test_a_cdxj_line_that_is_broken_costs_itself():
    fields = {"url": "http://a.kh/", "mime": "text/html", "status": "200", "digest": "D", "length": "5", "offset": "7"}
    good = f"kh,a)/ 20240418 {json.dumps({**fields, 'filename': 'x/warc/1.warc.gz'})}"
    lines = [
        good,
        "kh,b)/ 20240418 {broken",
        "",
        "kh,c)/ {}",
        f"kh,d)/ 2024 {json.dumps(fields)}",
        good.replace('"7"', '"n"'),
    ]
    got = commoncrawl_cdx.captures(gzip.compress("\n".join(lines).encode()), Select())
    assert got.select("file", "offset", "length", "digest", "url").rows() == [
        ("x/warc/1.warc.gz", 7, 5, "D", "http://a.kh/")
    ]


def test_a_cdxj_line_ends_at_a_newline_only():
    fields = {"mime": "text/html", "status": "200", "digest": "D", "length": "5", "filename": "x/warc/1.warc.gz"}
    urls = [f"http://a.kh/{mark}x" for mark in ("\u2028", "\u0085", "\x1c", "ក")]
    lines = [
        f"kh,a)/ 20240418 {json.dumps({**fields, 'url': url, 'offset': str(i)}, ensure_ascii=False)}"
        for i, url in enumerate(urls)
    ]
    got = commoncrawl_cdx.captures(gzip.compress("\r\n".join(lines).encode()), Select())
    assert got["url"].to_list() == urls


def test_regular_expressions_are_checked():
    commoncrawl_select.check(Select(urls=(r"/news/\d+",)))
    with pytest.raises(ValueError, match=r"look-around"):
        commoncrawl_select.check(Select(not_urls=(r"a(?=b)",)))


def test_keys_are_the_same_everywhere_and_spread():
    files = pl.Series([f"f{i % 7}" for i in range(20_000)])
    offsets = pl.Series(range(20_000))
    keys = commoncrawl_select.capture_keys(files, offsets)
    assert keys[0] == 9362065036105913269  # pinned: what a share takes must not change
    assert len(set(keys.tolist())) == 20_000
    assert abs((keys < 2**62).mean() - 0.25) < 0.02
