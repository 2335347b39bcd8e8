"""Readers of parallel text: what each format gives, and that no file, however broken, does more than fill the ledger."""

import codecs
import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.parallel.read import format_of, read
from curation.parallel.schema import Origin, pair_id
from curation.schema import Limits

PAIRS = [("One & two.", "Satu dan dua."), ("A < B", "A lebih kecil daripada B"), ("Third", "Ketiga")]
TMX = """<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en"/><body>
<!-- <tu><tuv xml:lang="en"><seg>no</seg></tuv><tuv xml:lang="id"><seg>tidak</seg></tuv></tu> -->
{units}</body></tmx>
"""


def origin(limits=None, sides=("en", "id")):
    return Origin("s", "file", sides, "CC0-1.0", limits or Limits())


def got(kind, files, places=("en", "id"), limits=None):
    """(pairs of texts, rules) of files."""
    pairs, rules = [], []
    for kept, dropped in read(kind, [str(one) for one in files], origin(limits), places):
        pairs += zip(kept["text_a"].to_pylist(), kept["text_b"].to_pylist(), strict=True)
        rules += dropped["rule"].to_pylist()
    return pairs, rules


def unit(a, b, more=""):
    cells = [text.replace("&", "&amp;").replace("<", "&lt;") for text in (a, b)]
    return f'<tu{more}><tuv xml:lang="en-GB"><seg>{cells[0]}</seg></tuv><tuv xml:lang="ID"><seg>{cells[1]}</seg></tuv></tu>'


def tmx(units, encoding="UTF-8"):
    return TMX.format(units="\n".join(units), encoding=encoding)


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_each_format_gives_the_same_pairs(tmp_path):
    lines = [("\n".join(side) + "\n").encode() for side in zip(*PAIRS, strict=True)]
    dotted = pa.table({"translation": [{"en": a, "id": b} for a, b in PAIRS], "id": [7, 8, 9]})
    pq.write_table(dotted, tmp_path / "a.parquet", row_group_size=2)
    plain = pa.table({"src": pa.array([a for a, _ in PAIRS]).dictionary_encode(), "tgt": [b for _, b in PAIRS]})
    pq.write_table(plain, tmp_path / "b.parquet")
    rows = [json.dumps({"translation": {"en": a, "id": b}}) for a, b in PAIRS]
    named = [json.dumps({"deep": {"x": a}, "y": b}) for a, b in PAIRS]
    tsv = "".join(f"{b}\t.9\t{a}\r\n" for a, b in PAIRS)
    found = {
        "tmx": got("tmx", [write(tmp_path / "a.tmx", tmx([unit(*one) for one in PAIRS]))]),
        "tmx.gz": got("tmx", [write(tmp_path / "a.tmx.gz", gzip.compress(tmx([unit(*p) for p in PAIRS]).encode()))]),
        "utf-16": got("tmx", [write(tmp_path / "b.tmx", tmx([unit(*p) for p in PAIRS], "UTF-16").encode("utf-16"))]),
        "moses": got(
            "moses", [write(tmp_path / "a.en", lines[0]), write(tmp_path / "a.id", codecs.BOM_UTF8 + lines[1])]
        ),
        "crlf": got("moses", [write(tmp_path / "b.en", lines[0].replace(b"\n", b"\r\n")), tmp_path / "a.id"]),
        "tsv": got("tsv", [write(tmp_path / "a.tsv", tsv)], (3, 1)),
        "header": got("tsv", [write(tmp_path / "b.tsv", "id\tscore\ten\n" + tsv)], ("en", "id")),
        "order": got("tsv", [tmp_path / "b.tsv"], (("en", 1), ("id", 2))),
        "no header": got("tsv", [tmp_path / "a.tsv"], (("en", 3), ("id", 1))),
        "jsonl": got("jsonl", [write(tmp_path / "a.jsonl", "\n".join(rows))]),
        "dotted": got("jsonl", [write(tmp_path / "b.jsonl", "\n".join(named))], ("deep.x", "y")),
        "struct": got("parquet", [tmp_path / "a.parquet"]),
        "columns": got("parquet", [tmp_path / "b.parquet"], ("src", "tgt")),
    }
    assert {name: one for name, one in found.items() if one != (PAIRS, [])} == {}
    names = ["a.tmx.gz", "a.tsv", "x/news.{lang}.gz", "hf:opus:en-id@train", "a.parquet", "hf://x/a.jsonl", "a.txt"]
    assert [format_of(name) for name in names] == ["tmx", "tsv", "moses", "hf", "parquet", "jsonl", None]


def test_a_data_set_of_datasets(tmp_path, monkeypatch):
    (tmp_path / "d").mkdir()
    write(tmp_path / "d" / "train.jsonl", "\n".join(json.dumps({"translation": {"en": a, "id": b}}) for a, b in PAIRS))
    assert got("hf", [f"hf:{tmp_path / 'd'}"]) == (PAIRS, [])
    for name in (f"hf:{tmp_path / 'd'}@other", f"hf:{tmp_path / 'd'}:other", f"hf:{tmp_path / 'none'}"):
        with pytest.raises(ValueError, match=r"source 's': hf:.* cannot be read: [^\n]*$"):
            got("hf", [name])

    def breaks(error):
        yield {"translation": dict(zip(("en", "id"), PAIRS[0], strict=True))}
        raise error

    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: breaks(pa.ArrowInvalid("broken")))
    assert got("hf", ["hf:x"]) == (PAIRS[:1], ["bad_record"])
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: breaks(ConnectionError("503")))
    with pytest.raises(ConnectionError):
        got("hf", ["hf:x"])


def test_what_is_no_pair_is_a_row_of_the_ledger(tmp_path):
    rows = [
        "One\tSatu",
        "\tempty",
        "one column",
        "NUL\0\tnol",
        "bad \ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    ]
    data = "\n".join(rows[:4]).encode() + b"\n\xff\xfe\tx\n" + b"x" * 400 + b"\ty\n \xef\xbb\xbf\tBOM alone\nTwo\tDua"
    pairs, rules = got("tsv", [write(tmp_path / "a.tsv", data)], (1, 2), Limits(max_line_bytes=300))
    assert pairs == [("One", "Satu"), ("Two", "Dua")]
    assert rules == [
        "empty_side",
        "missing_side",
        "control_character",
        "invalid_utf8",
        "record_too_large",
        "empty_side",
    ]
    objects = [
        '{"en": "One", "id": "Satu"}',
        '{"en": "One"}',
        "[1]",
        "{",
        '{"en": 3, "id": "x"}',
        '{"en": "\\ud800", "id": "x"}',
    ]
    _, rules = got("jsonl", [write(tmp_path / "a.jsonl", "\n".join([*objects, "[" * 100_000]))])
    assert rules == ["missing_side", "invalid_json", "invalid_json", "missing_side", "invalid_utf8", "invalid_json"]
    even = write(tmp_path / "a.en", "1\n2\n3\n"), write(tmp_path / "a.id", "1\n2\n3")
    assert len(got("moses", even)[0]) == 3
    uneven = write(tmp_path / "b.en", "1\n2\n3\n"), write(tmp_path / "b.id", "1\n2\n")
    assert got("moses", uneven) == ([], ["uneven_files"])
    assert got("moses", (uneven[0], write(tmp_path / "c.id", gzip.compress(b"1\n2\n3\n" * 9999)[:-9])))[1] == [
        "bad_record"
    ]
    assert got("parquet", [write(tmp_path / "a.parquet", b"PAR1 nothing")]) == ([], ["bad_record"])
    pq.write_table(pa.table({"en": ["x"]}), tmp_path / "b.parquet")
    assert got("parquet", [tmp_path / "b.parquet"]) == ([], ["bad_record"])


def test_a_tmx_expands_nothing_and_goes_on_behind_what_is_broken(tmp_path):
    bomb = '<!ENTITY a "aaaaaaaaaa"><!ENTITY b "' + "&a;" * 10_000 + '">'
    units = [
        unit("One", "Satu", ' tuid="x"'),
        '<tu><tuv xml:lang="en"><seg>&b;</seg></tuv><tuv xml:lang="id"><seg>x</seg></tuv></tu>',
        '<tu><tuv xml:lang="en"><seg>never closed</tuv></tu>',
        "<tu><tuv xml:lang='en'><seg>alone</seg></tuv></tu>",
        unit("Two<ph>{1}</ph> <hi>big</hi>", "Dua besar").replace("&lt;", "<"),
        "<tu><tuv xml:lang='en'><seg><![CDATA[</tu> in data]]></seg></tuv><tuv lang='id'><seg>data</seg></tuv></tu>",
        "<tu>" + "y" * 5000 + "</tu>",
        unit("Three", "Tiga"),
        "<tu><tuv xml:lang='en'><seg>cut",
    ]
    path = write(tmp_path / "a.tmx", tmx(units).replace('"tmx14.dtd">', f'"tmx14.dtd" [{bomb}]>'))
    pairs, rules = got("tmx", [path], limits=Limits(max_record_bytes=4000))
    assert pairs == [("One", "Satu"), ("Two big", "Dua besar"), ("</tu> in data", "data"), ("Three", "Tiga")]
    assert sorted(rules) == ["bad_record"] * 4 + ["missing_side"]
    assert got("tmx", [write(tmp_path / "b.tmx", b"PK\x03\x04 zip")]) == ([], ["bad_record"])
    assert got("tmx", [write(tmp_path / "c.tmx", b"<html>no unit</html>")]) == ([], ["bad_record"])


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1258", "latin-1"])
def test_a_tmx_is_read_in_its_encoding(tmp_path, codec):
    declared = "UTF-16" if codec in ("utf-8", "utf-8-sig") else codec  # a declaration in ASCII is no UTF-16
    texts = ("Caf\u00e9 d\u00e9j\u00e0", "caf\u00e9")
    assert got("tmx", [write(tmp_path / "a.tmx", tmx([unit(*texts)], declared).encode(codec))]) == ([texts], [])


def test_names_however_broken_cost_themselves(tmp_path):
    rows = [{"en": "One", "id": "Satu", "url": "\ud800"}, {"translation": {"en": "a", "id": "b"}, "id": "\ud800" * 900}]
    pairs, rules = got("jsonl", [write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))])
    assert (pairs, rules) == ([("One", "Satu"), ("a", "b")], [])
    names = pa.array([b"\xff", b"x"]).view(pa.string())
    pq.write_table(pa.table({"x": ["One", "Two"], "y": ["Satu", "Dua"], "url": names, "id": [1, None]}), tmp_path / "p")
    assert got("parquet", [tmp_path / "p"], ("x", "y")) == ([("One", "Satu"), ("Two", "Dua")], [])


def test_a_parquet_of_few_values_that_repeat_is_never_written_out(tmp_path):
    large = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array(["x" * 900_000]))
    pq.write_table(pa.table({"en": large, "id": ["y"] * 20_000}), tmp_path / "p")
    assert got("parquet", [tmp_path / "p"], limits=Limits(max_record_bytes=1000)) == ([], ["record_too_large"] * 20_000)


@pytest.mark.parametrize("kind", ["tmx", "tsv", "jsonl", "moses", "parquet"])
def test_no_bytes_end_a_reader(tmp_path, kind):
    rng = random.Random(kind)
    pq.write_table(pa.table({"en": [a for a, _ in PAIRS] * 50, "id": [b for _, b in PAIRS] * 50}), tmp_path / "p")
    whole = {
        "tmx": tmx([unit(*one) for one in PAIRS]).encode(),
        "tsv": "".join(f"{a}\t{b}\n" for a, b in PAIRS).encode(),
        "jsonl": "\n".join(json.dumps({"en": a, "id": b}) for a, b in PAIRS).encode(),
        "moses": b"a\nb\nc\n",
        "parquet": (tmp_path / "p").read_bytes(),
    }[kind]
    pieces = [
        b"<tu>",
        b"</tu>",
        b"<!--",
        b"<![CDATA[",
        b"]]>",
        b"\0",
        b"\xff",
        b"\r\n",
        b"\t",
        codecs.BOM_UTF8,
        b"&x;",
        b"{",
    ]
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(data) + 1)
            data[at : at + rng.randrange(4)] = rng.choice([*pieces, bytes([rng.randrange(256)])])
        if rng.random() < 0.3:
            data = data[: rng.randrange(len(data) + 1)]
        packed = gzip.compress(bytes(data)) if rng.random() < 0.2 else bytes(data)
        files = [write(tmp_path / "f", packed)] * (2 if kind == "moses" else 1)
        places = (1, 2) if kind == "tsv" else ("en", "id")
        for pair in got(kind, files, places, Limits(max_record_bytes=300, max_line_bytes=300))[0]:
            assert all(side.strip() and "\0" not in side and side.encode() for side in pair)


def test_the_id_of_a_pair_is_of_its_texts_and_its_source(tmp_path):
    path = write(tmp_path / "a.tsv", "One\tSatu\nTwo\tDua\nOne\tSatu\n")
    (kept, _), *_ = read("tsv", [str(path)], origin(), (1, 2))
    first, _, again = kept["doc_id"].to_pylist()
    assert first == again == pair_id("s", ("en", "id"), ("One", "Satu")) != pair_id("t", ("en", "id"), ("One", "Satu"))
    assert pair_id("s", ("en", "id"), ("a", "b")) != pair_id("s", ("en", "id"), ("b", "a"))
    assert kept["position"].to_pylist() == [0, 1, 2] and kept["source_id"].to_pylist()[2] == "file:3"
