import base64
import gzip
import hashlib
import os
import zlib
from pathlib import Path

import brotli
import pyarrow as pa
import pytest

from curation.schema import RAW, Limits, doc_id
from curation.sources.warc import read_warc

PAGE = b"<html><body><p>Perahu layar melintasi selat pada pagi hari.</p></body></html>"


def http(
    body: bytes, *headers: str, status: str = "200 OK", content_type: str | None = "text/html; charset=utf-8"
) -> bytes:
    lines = [f"HTTP/1.1 {status}", *([f"Content-Type: {content_type}"] if content_type else []), *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def record(name: str, block: bytes, kind: str = "response", *headers: str, length: int | None = None) -> bytes:
    content_type = {"conversion": "text/plain", "response": "application/http; msgtype=response"}.get(kind, "text/x")
    lines = [
        "WARC/1.0",
        f"WARC-Type: {kind}",
        f"WARC-Record-ID: <urn:uuid:{name}>",
        "WARC-Date: 2024-05-18T01:58:10Z",
        f"WARC-Target-URI: https://example.id/{name}",
        f"Content-Type: {content_type}",
        *headers,
        f"Content-Length: {len(block) if length is None else length}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + block + b"\r\n\r\n"


def write(path: Path, *records: bytes, compress: bool = True) -> str:
    path.write_bytes(b"".join(gzip.compress(r, mtime=0) if compress else r for r in records))
    return str(path)


def read(path: str, **options) -> tuple[list[dict], list[dict]]:
    pages, drops = [], []
    for kept, ledger in read_warc(path, source="web", **options):
        assert kept.schema == RAW
        pages += kept.to_pylist()
        drops += ledger.to_pylist()
    return pages, drops


def test_columns_of_a_page(tmp_path):
    first = record("skip", b"software: pinisi\r\n", "warcinfo")
    path = write(tmp_path / "a.warc.gz", first, record("one", http(PAGE)))
    [page], drops = read(path, crawl="CC-MAIN-2024-22", licence="CC0")
    assert drops == []
    assert page == {
        "doc_id": doc_id("<urn:uuid:one>", "https://example.id/one"),
        "url": "https://example.id/one",
        "source": "web",
        "source_id": "<urn:uuid:one>",
        "crawl": "CC-MAIN-2024-22",
        "warc_file": "a.warc.gz",
        "warc_offset": len(gzip.compress(first, mtime=0)),
        "fetched_at": "2024-05-18T01:58:10Z",
        "truncated": "",
        "published": "",
        "content_type": "text/html",
        "charset_hint": "utf-8",
        "lang_hint": "",
        "licence": "CC0",
        "payload": PAGE,
        "text": None,
        "title": "",
    }
    assert len(page["doc_id"]) == 32


def test_the_offset_finds_the_record(tmp_path):
    path = write(tmp_path / "a.warc.gz", *(record(f"r{i}", http(PAGE + b"%d" % i)) for i in range(5)))
    for i, page in enumerate(read(path)[0]):
        member = zlib.decompressobj(wbits=31).decompress(Path(path).read_bytes()[page["warc_offset"] :])
        assert f"<urn:uuid:r{i}>".encode() in member


@pytest.mark.parametrize("kind", ["request", "metadata", "warcinfo"])
def test_records_about_others_are_passed_over(tmp_path, kind):
    path = write(
        tmp_path / "a.warc.gz", record("one", http(PAGE)), record("x", b"any", kind), record("two", http(PAGE))
    )
    pages, drops = read(path)
    assert [p["source_id"] for p in pages] == ["<urn:uuid:one>", "<urn:uuid:two>"]
    assert drops == []


@pytest.mark.parametrize("kind", ["revisit", "resource", "continuation", "made-up", ""])
@pytest.mark.parametrize("block", [b"any", http(PAGE), PAGE, b""])
def test_every_other_record_ends_in_one_place(tmp_path, kind, block):
    path = write(tmp_path / "a.warc.gz", record("one", http(PAGE)), record("x", block, kind), record("two", http(PAGE)))
    pages, drops = read(path)
    assert len(pages) + len(drops) == 3
    assert [p["source_id"] for p in pages if p["source_id"] != "<urn:uuid:x>"] == ["<urn:uuid:one>", "<urn:uuid:two>"]
    assert all(d["url"] == "https://example.id/x" for d in drops)


def test_a_saved_page_is_read_whatever_its_record_is_called(tmp_path):
    as_resource = record("a", PAGE, "resource").replace(b"text/x", b"text/html")
    as_page = record("b", http(PAGE)).replace(b"application/http; msgtype=response", b"text/html")
    by_ftp = record("c", PAGE).replace(b"application/http; msgtype=response", b"TEXT/HTML").replace(b"https:", b"ftp:")
    pages, drops = read(write(tmp_path / "a.warc.gz", as_resource, as_page, by_ftp))
    assert [p["payload"] for p in pages] == [PAGE] * 3 and drops == []


def test_wet(tmp_path):
    text = "ชาวประมงออกเรือ\nAnother line"
    language = "WARC-Identified-Content-Language: tha,eng"
    path = write(
        tmp_path / "a.warc.wet.gz",
        record("one", text.encode(), "conversion", language),
        record("two", text.encode()[:4], "conversion"),
    )
    [page], [drop] = read(path)
    assert (page["text"], page["payload"], page["lang_hint"]) == (text, None, "tha")
    assert drop["rule"] == "invalid_utf8" and drop["doc_id"] == doc_id("<urn:uuid:two>", "https://example.id/two")


@pytest.mark.parametrize(
    ("block", "rule", "value", "detail"),
    [
        (http(PAGE, status="404 Not Found"), "http_status", 404, None),
        (http(PAGE, status="301 Moved"), "http_status", 301, None),
        (http(b"%PDF-1.7", content_type="application/pdf"), "not_html", None, "application/pdf"),
        (http(b"hello", content_type="text/plain"), "not_html", None, "text/plain"),
        (http(b"plain words", content_type=None), "not_html", None, None),
        (http(b"%PDF-1.7"), "not_html", None, "text/html with the first bytes b'%PDF'"),
        (b"ICY 200 OK\r\n\r\n", "bad_record", None, "no HTTP status line"),
    ],
)
def test_responses_that_are_no_page(tmp_path, block, rule, value, detail):
    pages, [drop] = read(write(tmp_path / "a.warc.gz", record("one", block)))
    assert pages == []
    assert (drop["rule"], drop["value"], drop["detail"], drop["url"]) == (rule, value, detail, "https://example.id/one")
    assert drop["stage"] == "crawl"


@pytest.mark.parametrize(
    "content_type", ["TEXT/HTML", "text/html;charset=x", "application/xhtml+xml; charset=utf-8", None]
)
def test_html_content_types(tmp_path, content_type):
    [page], drops = read(write(tmp_path / "a.warc.gz", record("one", http(PAGE, content_type=content_type))))
    assert page["payload"] == PAGE and drops == []


def test_a_header_ends_at_a_newline_only(tmp_path):
    """0x85 is an ellipsis in Windows-1252 and part of many letters in UTF-8, and a line end in Latin-1 to Python."""
    block = b"HTTP/1.1 200 OK\r\nX-Title: berita \x85content-type: image/png\r\nContent-Type: text/html\r\n\r\n" + PAGE
    [page], drops = read(write(tmp_path / "a.warc.gz", record("one", block)))
    assert page["payload"] == PAGE and page["content_type"] == "text/html" and drops == []


def chunked(body: bytes, size: int = 20) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x;name=value\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\nTrailer: x\r\n\r\n"


def zstd(body: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(body)
    return sink.getvalue().to_pybytes()


RAW_DEFLATE = zlib.compressobj(wbits=-15)
RAW_DEFLATE = RAW_DEFLATE.compress(PAGE) + RAW_DEFLATE.flush()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (chunked(PAGE), ["Transfer-Encoding: chunked"]),
        (gzip.compress(PAGE, mtime=0), ["Content-Encoding: gzip"]),
        (gzip.compress(PAGE, mtime=0), ["Content-Encoding: x-gzip"]),
        (chunked(gzip.compress(PAGE, mtime=0)), ["transfer-encoding: Chunked", "content-encoding: GZIP"]),
        (chunked(gzip.compress(PAGE, mtime=0)), ["Transfer-Encoding: gzip, chunked"]),
        (brotli.compress(PAGE), ["Content-Encoding: br"]),
        (gzip.compress(brotli.compress(PAGE), mtime=0), ["Content-Encoding: br, gzip"]),
        (zlib.compress(PAGE), ["Content-Encoding: deflate"]),
        (RAW_DEFLATE, ["Content-Encoding: deflate"]),
        (zstd(PAGE), ["Content-Encoding: zstd"]),
        (PAGE, ["Content-Encoding: gzip", "Transfer-Encoding: chunked"]),
        (PAGE, ["Content-Encoding: br"]),
        (PAGE, ["Content-Encoding: deflate"]),
        (PAGE, ["X-Crawler-Content-Encoding: gzip"]),
        (PAGE, ["Content-Encoding: identity"]),
    ],
)
def test_transfer_and_content_encodings(tmp_path, body, headers):
    [page], drops = read(write(tmp_path / "a.warc.gz", record("one", http(body, *headers))))
    assert page["payload"] == PAGE and drops == []


def test_a_cut_gzip_body_keeps_what_there_is(tmp_path):
    body = gzip.compress(b"<html>" + os.urandom(5000).hex().encode())[:-2000]
    [page], _ = read(write(tmp_path / "a.warc.gz", record("one", http(body, "Content-Encoding: gzip"))))
    assert page["payload"].startswith(b"<html>") and len(page["payload"]) > 1000
    assert page["truncated"] == "body"


CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(PAGE), PAGE)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (CHUNKED, ["Transfer-Encoding: chunked"]),
        (zlib.compress(PAGE), ["Content-Encoding: deflate"]),
        (zlib.compress(PAGE)[2:-4], ["Content-Encoding: deflate"]),
        (gzip.compress(gzip.compress(PAGE)), ["Content-Encoding: gzip, gzip"]),
        (gzip.compress(PAGE), []),
    ],
)
def test_a_body_is_whole_or_marked(tmp_path, body, headers):
    """Wherever a body ends amid an encoding, the page says so; a whole one is not marked."""
    for cut in (0, 1, 9, len(body) // 2):
        path = write(tmp_path / f"{cut}.warc.gz", record("one", http(body[: len(body) - cut], *headers)))
        pages, drops = read(path)
        marks = [page["truncated"] for page in pages]
        if cut == 0:
            assert marks == [""]
        assert all(page["truncated"] == "body" or page["payload"] == PAGE for page in pages), (cut, marks)
        assert pages or drops
    assert marks == ["body"] or not pages


def test_what_the_crawler_cut_is_marked_as_it_says(tmp_path):
    text = record("one", http(PAGE)).replace(b"WARC-Date", b"WARC-Truncated: length\r\nWARC-Date")
    assert [page["truncated"] for page in read(write(tmp_path / "a.warc.gz", text))[0]] == ["length"]


@pytest.mark.parametrize("suffix", ["warc", "warc.gz", "warc.zst"])
def test_plain_gzip_and_zstd_files(tmp_path, suffix):
    records = [record(f"r{i}", http(PAGE)) for i in range(3)]
    pack = {"warc": bytes, "warc.gz": gzip.compress, "warc.zst": zstd}[suffix]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"".join(map(pack, records)))
    assert [p["source_id"] for p in read(str(path))[0]] == [f"<urn:uuid:r{i}>" for i in range(3)]


def test_batches_are_bounded(tmp_path):
    path = write(tmp_path / "a.warc.gz", *(record(f"r{i}", http(PAGE)) for i in range(25)))
    pairs = list(read_warc(path, source="web", limits=Limits(batch_rows=10)))
    assert [kept.num_rows for kept, _ in pairs] == [10, 10, 5]
    pairs = list(read_warc(path, source="web", limits=Limits(batch_bytes=len(PAGE) * 4)))
    assert max(kept.num_rows for kept, _ in pairs) == 4
    assert pa.Table.from_batches([kept for kept, _ in pairs]).num_rows == 25


def test_remote_file_and_empty_file(tmp_path):
    import fsspec

    data = Path(write(tmp_path / "a.warc.gz", record("one", http(PAGE)))).read_bytes()
    fsspec.filesystem("memory").pipe_file("/crawl/b.warc.gz", data)
    [page], _ = read("memory://crawl/b.warc.gz")
    assert page["warc_file"] == "memory://crawl/b.warc.gz" and page["payload"] == PAGE
    (tmp_path / "empty.warc.gz").write_bytes(b"")
    assert [kept.num_rows for kept, _ in read_warc(str(tmp_path / "empty.warc.gz"), source="web")] == [0]


def test_brackets_and_missing_record_id(tmp_path):
    block = record("one", http(PAGE)).replace(b"https://example.id/one", b"<https://example.id/one>")
    block = block.replace(b"WARC-Record-ID: <urn:uuid:one>\r\n", b"")
    [page], _ = read(write(tmp_path / "a.warc.gz", block))
    assert (page["url"], page["source_id"]) == ("https://example.id/one", "a.warc.gz:0")


def test_a_page_with_a_fitting_digest_survives_the_junk_behind_it(tmp_path):
    block = http(PAGE)
    digest = base64.b32encode(hashlib.sha1(block).digest()).decode()
    good = record("good", block, "response", f"WARC-Block-Digest: sha1:{digest}")
    path = write(tmp_path / "a.warc", good, b"no header at all\r\n\r\n" * 3, record("next", block), compress=False)
    pages, drops = read(path)
    assert [p["source_id"] for p in pages] == ["<urn:uuid:good>", "<urn:uuid:next>"]
    assert [d["rule"] for d in drops] == ["bad_record"]


@pytest.mark.skipif(
    not Path(os.environ.get("PINISI_SAMPLE_DIR", "missing"), "warc", "real").is_dir(), reason="needs the real archives"
)
def test_real_archives():
    folder = Path(os.environ["PINISI_SAMPLE_DIR"]) / "warc" / "real"
    assert len(read(str(folder / "cc-main-2020-34-sample.warc.gz"))[0]) == 16
    assert len(read(str(folder / "transfer-brotli.warc.gz"))[0]) == 1
    [page], _ = read(str(folder / "transfer-gzip-chunked.warc.gz"))
    assert b"</html>" in page["payload"].lower()
    assert [d["rule"] for d in read(str(folder / "malformed-clipped.warc.gz"))[1]] == ["bad_record"]
