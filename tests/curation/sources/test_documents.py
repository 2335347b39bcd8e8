import bz2
import datetime
import decimal
import gzip
import json
import lzma
import uuid

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
    assert drop["doc_id"] == doc_id(f"s:{path}:2", "")


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


def broken_strings(*values: bytes | None) -> pa.Array:
    """A string column whose bytes need not be UTF-8, as Parquet files may hold."""
    column = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(values), column.buffers())


def parquet(path, table: pa.Table, **options) -> tuple[list[dict], list[dict]]:
    pq.write_table(table, path)
    return read(read_parquet(str(path), source="s", **options))


def forms(column: pa.Array) -> dict[str, pa.Array]:
    """A string column as each Arrow type that holds text."""
    binary = column.cast(pa.binary())
    numbers = pa.array([i if one.is_valid else None for i, one in enumerate(binary)], pa.int32())
    large = pa.Array.from_buffers(pa.large_string(), len(column), binary.cast(pa.large_binary()).buffers())
    return {
        "string": column,
        "large": large,
        "view": binary.cast(pa.binary_view()).view(pa.string_view()),
        "binary": binary,
        "large binary": binary.cast(pa.large_binary()),
        "dictionary": pa.DictionaryArray.from_arrays(
            numbers, column.view(pa.binary()).fill_null(b"").view(pa.string())
        ),
        "dictionary of bytes": pa.DictionaryArray.from_arrays(numbers.cast(pa.int8()), binary.fill_null(b"")),
    }


@pytest.mark.parametrize("form", forms(broken_strings(b"a")))
def test_parquet_text_of_any_type_loses_its_broken_values_only(tmp_path, form):
    column = forms(broken_strings(b"one", b"caf\xe9", b"two", "ສາມ".encode()))[form]
    pages, drops = parquet(tmp_path / "t.parquet", pa.table({"text": column}))
    assert [p["text"] for p in pages] == ["one", "two", "ສາມ"]
    assert [d["rule"] for d in drops] == ["invalid_utf8"]


def sides() -> list[pa.Array]:
    """Columns of three rows, of types that files are seen with, and some that they are not."""
    broken = broken_strings(b"\xe9", None, b"ok")
    return [
        *forms(broken).values(),
        pa.ListArray.from_arrays([0, 1, 2, 3], broken),
        pa.StructArray.from_arrays([broken], ["a"]),
        pa.array([b"\x80" * 16, None, b"\x01" * 16], pa.binary(16)),
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"\x80" * 16, None, b"\x01" * 16], pa.binary(16))),
        pa.array([2**63 - 1, None, -(2**63)], pa.int64()),
        pa.array([2**64 - 1, None, 0], pa.uint64()),
        pa.array([1.5, None, float("nan")]),
        pa.array([True, None, False]),
        pa.array([2**62, None, -(2**62)], pa.timestamp("ms")),
        pa.array([0, None, 1], pa.timestamp("us", "Asia/Bangkok")),
        pa.array([0, None, 1], pa.timestamp("ns", "Nowhere/Nothing")),
        pa.array([2**31 - 1, None, 1], pa.date32()),
        pa.array([0, None, 1], pa.time64("us")),
        pa.array([0, None, 1], pa.duration("s")),
        pa.nulls(3),
        pa.array([decimal.Decimal("1.5"), None, decimal.Decimal(0)]),
        pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
    ]


@pytest.mark.parametrize("name", ["id", "url", "lang", "title", "licence", "fetched_at"])
def test_parquet_side_column_of_any_type_costs_no_text(tmp_path, name):
    for column in sides():
        pages, drops = parquet(tmp_path / "t.parquet", pa.table({"text": ["one", "two", "three"], name: column}))
        assert [p["text"] for p in pages] == ["one", "two", "three"] and drops == [], column.type
        assert len({p["doc_id"] for p in pages}) == 3
        for page in pages:
            json.dumps(page, ensure_ascii=False).encode()


def test_parquet_side_columns_say_what_they_can(tmp_path):
    when = datetime.datetime(2024, 5, 1, 7, 30)
    table = pa.table(
        {
            "text": ["one"],
            "id": pa.array([uuid.UUID(int=1).bytes], pa.binary(16)),
            "title": broken_strings("Café of the ".encode() + b"caf\xe9"),
            "fetched_at": pa.array([when], pa.timestamp("us", "+07:00")),
        }
    )
    [page], _ = parquet(tmp_path / "t.parquet", table)
    assert page["title"] == "Café of the caf\ufffd" and page["fetched_at"] == "2024-05-01T07:30:00Z"
    for day, said in ((pa.array([when.date()]), "2024-05-01"), (pa.array([when]), "2024-05-01T07:30:00Z")):
        [page], _ = parquet(tmp_path / "t.parquet", pa.table({"text": ["one"], "fetched_at": day}))
        assert page["fetched_at"] == said
    [page], _ = parquet(
        tmp_path / "t.parquet", pa.table({"text": ["x"], "id": pa.array([b"\x80" * 16], pa.binary(16))})
    )
    assert page["source_id"] == str(uuid.UUID(bytes=b"\x80" * 16))


def test_parquet_goes_on_behind_a_broken_group(tmp_path):
    path = tmp_path / "t.parquet"
    rows = {"text": [f"text {i}" for i in range(12)], "title": [f"title {i}" for i in range(12)]}
    pq.write_table(pa.table(rows), path, row_group_size=4, compression="none", use_dictionary=False)
    data = path.read_bytes()
    for column, left in ((0, [*range(4), *range(8, 12)]), (1, list(range(12)))):
        meta = pq.read_metadata(path).row_group(1).column(column)
        broken = bytearray(data)
        broken[meta.data_page_offset : meta.data_page_offset + 30] = b"\xff" * 30
        (tmp_path / "b.parquet").write_bytes(bytes(broken))
        pages, drops = read(read_parquet(str(tmp_path / "b.parquet"), source="s"))
        assert [p["text"] for p in pages] == [f"text {i}" for i in left]
        assert [d["rule"] for d in drops] == ["bad_record"] * (column == 0)
        assert [p["source_id"] for p in pages] == [f"b.parquet:{i}" for i in left]


def test_parquet_memory_is_bounded(tmp_path):
    """A value that repeats, and long values, of which 64 rows are too many at once."""
    path = tmp_path / "t.parquet"
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 256, pa.int32()), pa.array(["x" * 1_000_000]))
    long = pa.array([str(i) * 400_000 for i in range(100, 164)])
    for text in (column, long):
        pq.write_table(pa.table({"text": text}), path, store_schema=False)
        del text
        begin, most, n_rows = pa.total_allocated_bytes(), 0, 0
        for kept, _ in read_parquet(str(path), source="s"):
            n_rows += kept.num_rows
            most = max(most, pa.total_allocated_bytes() - begin)
        assert n_rows in {256, 64} and most < 200_000_000


def test_files_of_one_name_in_two_folders_share_no_id(tmp_path):
    found = []
    for folder in ("th", "vi"):
        (tmp_path / folder).mkdir()
        pq.write_table(pa.table({"text": ["x"]}), tmp_path / folder / "p.parquet")
        (tmp_path / folder / "d.jsonl").write_bytes(b'{"text": "x"}\n{"text": 1.5}\n{')
        (tmp_path / folder / "index.html").write_bytes(b"<p>x")
        for name, reader in (("p.parquet", read_parquet), ("d.jsonl", read_jsonl), ("index.html", read_html)):
            pages, drops = read(reader(str(tmp_path / folder / name), source="s"))
            found += [row["doc_id"] for row in [*pages, *drops]]
            named, _ = read(reader(str(tmp_path / folder / name), source="s", name=f"{folder}/{name}"))
            assert all(page["source_id"].startswith(f"{folder}/{name}") for page in named)
    assert len(found) == 10 and len(set(found)) == 10


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd, "": bytes}


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.GZ", "json.zst", "ndjson.bz2", "txt"])
def test_jsonl_is_known_by_its_bytes(tmp_path, packed, suffix):
    path = tmp_path / f"d.{suffix}"
    pack = PACKERS[packed]
    path.write_bytes(pack(lines(ROWS[:2])) + (pack(lines(ROWS[2:])) if packed else lines(ROWS[2:])))
    pages, drops = read(read_jsonl(str(path), source="s"))
    assert [p["text"] for p in pages] == [row["text"] for row in ROWS] and drops == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PK\x03\x04" + bytes(100), "a zip archive"),
        (gzip.compress(gzip.compress(b"{}")), "packed twice"),
        (gzip.compress(bytes(257) + b"ustar" + bytes(300)), "a tar archive"),
    ],
)
def test_what_is_no_jsonl_is_named_once(tmp_path, data, said):
    path = tmp_path / "d.jsonl"
    path.write_bytes(data)
    pages, [drop] = read(read_jsonl(str(path), source="s"))
    assert pages == [] and drop["rule"] == "bad_record" and said in drop["detail"]


def test_jsonl_goes_on_behind_a_broken_member(tmp_path):
    path = tmp_path / "d.jsonl.gz"
    members = [gzip.compress(b'{"text": "%d"}\n' % i * 20) for i in range(4)]
    members[1] = members[1][:15] + b"\xff\xff" + members[1][17:]
    path.write_bytes(b"".join(members))
    pages, drops = read(read_jsonl(str(path), source="s"))
    assert {p["text"] for p in pages} >= {"0", "2", "3"} and "bad_record" in {d["rule"] for d in drops}


def test_jsonl_in_utf_16(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_bytes('{"text": "ສາມ"}\n{"text": "bốn"}\n'.encode("utf-16"))
    pages, drops = read(read_jsonl(str(path), source="s"))
    assert [p["text"] for p in pages] == ["ສາມ", "bốn"] and drops == []


def test_a_broken_side_field_of_jsonl_costs_no_text(tmp_path):
    path = tmp_path / "d.jsonl"
    values = ["\\ud83d", "\\ud83d\\ud83d\\ude00", "\\u0000", "\\u001b[2J"]
    path.write_text("".join(f'{{"id": "{v}", "title": "{v}", "url": "{v}", "text": "x"}}\n' for v in values))
    pages, drops = read(read_jsonl(str(path), source="s"))
    assert len(pages) == 4 and drops == [] and pages[1]["title"] == "\ufffd😀"


def test_a_packed_page(tmp_path):
    path = tmp_path / "page.html"
    for pack in PACKERS.values():
        path.write_bytes(pack(b"<p>one" + b"x" * 99) + b"")
        [page], _ = read(read_html(str(path), source="mine"))
        assert page["payload"] == b"<p>one" + b"x" * 99
    path.write_bytes(b"PK\x03\x04" + bytes(30))
    assert [d["rule"] for d in read(read_html(str(path), source="mine"))[1]] == ["not_html"]
    path.write_bytes(gzip.compress(bytes(90_000_000)))
    assert [d["rule"] for d in read(read_html(str(path), source="mine"))[1]] == ["record_too_large"]


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
