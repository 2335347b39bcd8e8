import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.schema import RAW, Limits, doc_id
from curation.sources.documents import read_hf, read_html, read_jsonl, read_parquet

ROWS = [
    {"id": "a", "url": "https://x.id/a", "text": "Sugeng enjing sedaya", "lang": "jv", "licence": "CC0", "title": "T"},
    {"id": 7, "url": None, "text": "ສະບາຍດີ", "lang": "lo"},
    {"text": "no id at all"},
]


def read(pairs) -> tuple[list[dict], list[dict]]:
    pages, drops = [], []
    for kept, ledger in pairs:
        assert kept.schema == RAW
        pages += kept.to_pylist()
        drops += ledger.to_pylist()
    return pages, drops


def lines(rows: list[dict]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(("suffix", "pack"), [("jsonl", bytes), ("jsonl.gz", gzip.compress), ("jsonl.zst", zstd)])
def test_jsonl(tmp_path, suffix, pack):
    path = tmp_path / f"docs.{suffix}"
    path.write_bytes(pack(lines(ROWS)))
    pages, drops = read(read_jsonl(str(path), source="wiki", licence="CC BY"))
    assert drops == []
    first, second, third = pages
    assert (first["doc_id"], first["source_id"]) == (doc_id("wiki:a", "https://x.id/a"), "a")
    assert (first["text"], first["lang_hint"], first["licence"], first["title"]) == (ROWS[0]["text"], "jv", "CC0", "T")
    assert (first["payload"], first["warc_offset"], first["content_type"]) == (None, None, "text/plain")
    assert (second["source_id"], second["url"], second["licence"]) == ("7", "", "CC BY")
    assert (third["source_id"], third["lang_hint"]) == (f"docs.{suffix}:3", "")


def test_other_column_names(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_bytes(lines([{"isi": "Halo", "nomor": "n1", "alamat": "u", "bahasa": "id"}]))
    fields = {"text_field": "isi", "id_field": "nomor", "url_field": "alamat", "lang_field": "bahasa"}
    [page], _ = read(read_jsonl(str(path), source="s", **fields))
    assert (page["text"], page["source_id"], page["url"], page["lang_hint"]) == ("Halo", "n1", "u", "id")


def test_no_final_newline_blank_lines_and_byte_order_mark(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\n   \n{"text": "two"}')
    pages, drops = read(read_jsonl(str(path), source="s"))
    assert [p["text"] for p in pages] == ["one", "two"] and drops == []
    assert [p["source_id"] for p in pages] == ["docs.jsonl:1", "docs.jsonl:4"]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b'{"text": 3.5}', "missing_text"),
        (b'{"body": "x"}', "missing_text"),
        (b'{"text": null}', "missing_text"),
        (b'{"text": " \\n"}', "empty"),
        (b'["text"]', "invalid_json"),
        (b'{"text": "x"', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"text": "\xff\xfe"}', "invalid_utf8"),
        (b'{"text": "a \\ud800 b"}', "invalid_utf8"),
        (b'{"text": "' + b"x" * 3000 + b'"}', "record_too_large"),
        (b'{"text": "x", "junk": "' + b"y" * 300_000 + b'"}', "record_too_large"),
    ],
)
def test_a_bad_line_costs_only_itself(tmp_path, line, rule):
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n')
    pages, [drop] = read(
        read_jsonl(str(path), source="s", limits=Limits(max_line_bytes=200_000, max_record_bytes=2000))
    )
    assert [p["text"] for p in pages] == ["before", "after"]
    assert drop["rule"] == rule and drop["stage"] == "crawl"
    assert drop["doc_id"] == doc_id("s:docs.jsonl:2", "")


def test_long_line_tells_its_length(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b"z" * 1_234_567 + b'\n{"text": "after"}\n' + b"y" * 500_000)
    pages, drops = read(read_jsonl(str(path), source="s", limits=Limits(max_line_bytes=1000)))
    assert [p["text"] for p in pages] == ["after"]
    assert [(d["value"], d["threshold"]) for d in drops] == [(1_234_567, 1000), (500_000, 1000)]


def test_parquet(tmp_path):
    path = tmp_path / "docs.parquet"
    rows = [{"id": str(i), "text": f"baris {i}", "lang": "id", "other": i} for i in range(10)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    pairs = list(read_parquet(str(path), source="s", limits=Limits(batch_rows=4)))
    assert max(kept.num_rows for kept, _ in pairs) == 4
    pages, drops = read(pairs)
    assert [p["text"] for p in pages] == [f"baris {i}" for i in range(10)] and drops == []


def test_parquet_with_broken_strings(tmp_path):
    path = tmp_path / "docs.parquet"
    broken = pa.array([b"good", b"\xff\xfe", None, b"fine"]).view(pa.string())
    pq.write_table(pa.table({"id": ["a", "b", "c", "d"], "text": broken}), path)
    pages, drops = read(read_parquet(str(path), source="s"))
    assert [p["text"] for p in pages] == ["good", "fine"]
    assert [d["rule"] for d in drops] == ["invalid_utf8", "missing_text"]


def test_parquet_without_the_column_and_cut_file(tmp_path):
    path = tmp_path / "docs.parquet"
    pq.write_table(pa.table({"body": ["x"]}), path)
    with pytest.raises(ValueError, match="has no column 'text': it has body"):
        read(read_parquet(str(path), source="s"))
    path.write_bytes(path.read_bytes()[:-20])
    pages, [drop] = read(read_parquet(str(path), source="s"))
    assert pages == [] and drop["rule"] == "bad_record"


def test_hugging_face_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "train.jsonl").write_bytes(lines([{"id": str(i), "text": f"teks {i}"} for i in range(5)]))
    pages, drops = read(read_hf(str(tmp_path), source="hub", split="train"))
    assert [(p["source_id"], p["text"]) for p in pages] == [(str(i), f"teks {i}") for i in range(5)]
    assert drops == []


def test_saved_page(tmp_path):
    path = tmp_path / "page.html"
    html = (
        b"<html><head><link rel='stylesheet' href=x><LINK href='https://x.id/?a=1&amp;b=2' rel=canonical></head><p>Hai"
    )
    path.write_bytes(html)
    [page], drops = read(read_html(str(path), source="mine"))
    assert (page["url"], page["payload"], page["source_id"]) == ("https://x.id/?a=1&b=2", html, "page.html")
    assert page["text"] is None and drops == []
    path.write_bytes(b"<p>no link")
    assert read(read_html(str(path), source="mine"))[0][0]["url"] == "page.html"
    pages, [drop] = read(read_html(str(path), source="mine", limits=Limits(max_record_bytes=5)))
    assert pages == [] and (drop["rule"], drop["value"]) == ("record_too_large", 10)
