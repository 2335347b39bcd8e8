"""Hostile and broken input: each fault is a ledger row, what is around it survives, memory and time stay bounded."""

import gzip
import json
import random
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pyarrow as pa
import pytest

from curation.extract.extractor import Extractor
from curation.schema import Limits
from curation.sources.documents import read_jsonl
from curation.sources.warc import read_warc

N = 8


def page(number: int) -> bytes:
    words = random.Random(number)  # incompressible enough that each record is some kilobytes
    return f"<html><body><p>page {number} {' '.join(str(words.random()) for _ in range(200))}</p>".encode()


def record(number: int, length: int | None = None, body: bytes | None = None) -> bytes:
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + (page(number) if body is None else body)
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <r{number}>\r\nWARC-Target-URI: https://x.id/{number}\r\n"
        "Content-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(block) if length is None else length}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def read(path: Path, limits: Limits | None = None) -> tuple[list[str], list[dict]]:
    ids, drops = [], []
    for kept, ledger in read_warc(str(path), source="web", limits=limits):
        ids += kept["source_id"].to_pylist()
        drops += ledger.to_pylist()
    return ids, drops


def names(*numbers: int) -> list[str]:
    return [f"<r{number}>" for number in numbers]


def all_but(*numbers: int) -> list[str]:
    return names(*(i for i in range(N) if i not in numbers))


def peak_bytes(path: Path, reader: str) -> int:
    """Peak memory of a fresh process that reads the file, above what it needs for a file of one small row."""
    small = path.with_name("small.jsonl")
    small.write_text('{"text": "x"}\n')
    code = (
        "import sys\n"
        "from curation.sources.documents import read_jsonl\n"
        "from curation.schema import Limits\n"
        "from curation.sources.warc import read_warc\n"
        # not ru_maxrss, which a process inherits from the one that starts it
        "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) * 1024\n"
        "list(read_jsonl(sys.argv[2], source='s'))\n"
        "before = peak()\n"
        f"for pair in {reader}(sys.argv[1], source='s', limits=Limits(max_line_bytes=1_000_000)): pass\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path), str(small)], capture_output=True, check=True)
    return int(done.stdout)


def test_truncated_gzip(tmp_path):
    data = b"".join(gzip.compress(record(i)) for i in range(N))
    path = tmp_path / "a.warc.gz"
    path.write_bytes(data[:-700])
    ids, drops = read(path)
    assert ids == all_but(N - 1)
    assert [(d["rule"], d["url"]) for d in drops] == [("bad_record", f"https://x.id/{N - 1}")]


@pytest.mark.parametrize("damage", ["flip", "magic", "crc", "lost", "between"])
def test_damage_in_the_middle_of_a_gzip_file(tmp_path, damage):
    members = [gzip.compress(record(i)) for i in range(N)]
    hurt = bytearray(members[3])
    if damage == "flip":
        hurt[500:550] = bytes(b ^ 0x5A for b in hurt[500:550])
    elif damage == "magic":
        hurt[0] = 0
    elif damage == "crc":
        hurt[-8:-4] = b"\0\0\0\0"
    elif damage == "lost":
        del hurt[700:]
    members[3] = b"not a member at all" * 30 + bytes(hurt) if damage == "between" else bytes(hurt)
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(members))
    ids, drops = read(path)
    assert ids == (all_but() if damage == "between" else all_but(3))
    assert [d["rule"] for d in drops] == ["bad_record"]


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("length", [100, 10**6, 2 * 10**9, -5, None])
def test_wrong_content_length(tmp_path, compress, length):
    records = [record(i) for i in range(N)]
    records[3] = record(3, length=length)
    if length is None:
        records[3] = records[3].replace(b"Content-Length", b"Content-Lengths")
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join(gzip.compress(r) if compress else r for r in records))
    ids, drops = read(path)
    assert ids == all_but(3)
    assert {d["rule"] for d in drops} <= {"bad_record", "record_too_large"}
    assert "https://x.id/3" in {d["url"] for d in drops}


def test_wrong_content_length_of_a_record_that_is_passed_over(tmp_path):
    records = [record(i) for i in range(N)]
    records[3] = record(3, length=10**6).replace(b"WARC-Type: response", b"WARC-Type: request")
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(map(gzip.compress, records)))
    ids, drops = read(path)
    assert ids == all_but(3)
    assert [d["rule"] for d in drops] == ["bad_record"]


@pytest.mark.parametrize(
    "data", [b"hello world\n" * 1000, gzip.compress(b"hello", mtime=0), b"\x1f\x8b\x08", b"WARC/1.0\r\n", b"\0" * 999]
)
def test_files_that_are_no_archives(tmp_path, data):
    path = tmp_path / "a.warc.gz"
    path.write_bytes(data)
    ids, drops = read(path)
    assert ids == []
    assert [d["rule"] for d in drops] == ["bad_record"]


def test_random_damage_never_raises_and_loses_little(tmp_path):
    clean = b"".join(gzip.compress(record(i)) for i in range(N))
    path = tmp_path / "a.warc.gz"
    dice = random.Random(0)
    for _ in range(60):
        data = bytearray(clean)
        for _ in range(3):
            at = dice.randrange(len(data))
            data[at : at + dice.choice([1, 1, 40])] = dice.randbytes(dice.choice([0, 1, 30]))
        path.write_bytes(data)
        ids, drops = read(path)
        assert len(ids) >= N - 4 and len(ids) == len(set(ids))
        assert len(ids) == N or drops


def gzip_of_zeros(head: bytes, n_bytes: int) -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    parts = [packer.compress(head)]
    parts += [packer.compress(bytes(1 << 20)) for _ in range(n_bytes >> 20)]
    return b"".join([*parts, packer.flush()])


def test_gzip_bomb_as_a_record(tmp_path):
    n_bytes = 400 << 20
    head = record(3, length=n_bytes + 44, body=b"")[:-4]
    members = [gzip.compress(record(i)) for i in range(N)]
    members[3] = gzip_of_zeros(head, n_bytes)
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(members))
    start = time.perf_counter()
    ids, drops = read(path)
    assert ids == all_but(3)
    assert [(d["rule"], d["value"], d["threshold"]) for d in drops] == [("record_too_large", n_bytes + 44, 10_000_000)]
    assert time.perf_counter() - start < 5
    assert peak_bytes(path, "read_warc") < 30_000_000


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate"])
def test_bomb_as_a_content_encoding(tmp_path, encoding):
    if encoding == "br":
        import brotli

        bomb = brotli.compress(bytes(200 << 20), quality=1)
    else:
        bomb = gzip_of_zeros(b"<html>", 200 << 20)
        bomb = zlib.compress(bytes(200 << 20), 1) if encoding == "deflate" else bomb
    bad = record(3, body=bomb).replace(b"text/html\r\n", f"text/html\r\nContent-Encoding: {encoding}\r\n".encode())
    extra = len(f"Content-Encoding: {encoding}\r\n")
    bad = bad.replace(
        f"Content-Length: {len(bomb) + 44}".encode(), f"Content-Length: {len(bomb) + 44 + extra}".encode()
    )
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join(bad if i == 3 else record(i) for i in range(N)))
    ids, drops = read(path)
    assert ids == all_but(3)
    assert [(d["rule"], d["value"]) for d in drops] == [("record_too_large", 10_000_001)]
    assert peak_bytes(path, "read_warc") < 60_000_000


def test_jsonl_with_invalid_utf8_a_long_line_and_a_cut_end(tmp_path):
    good = [json.dumps({"id": str(i), "text": f"baris {i}"}).encode() for i in range(20)]
    long = b'{"text": "' + b"a" * 20_000_000 + b'"}'
    body = b"\n".join([*good[:5], b'{"text": "\xc3\x28"}', *good[5:10], long, *good[10:]]) + b"\n"
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(body, 1))
    texts, drops = [], []
    for kept, ledger in read_jsonl(str(path), source="s"):
        texts += kept["text"].to_pylist()
        drops += ledger.to_pylist()
    assert texts == [f"baris {i}" for i in range(20)]
    assert [(d["rule"], d["value"]) for d in drops] == [("invalid_utf8", None), ("record_too_large", len(long))]
    assert peak_bytes(path, "read_jsonl") < 12_000_000

    path.write_bytes(b"".join(gzip.compress(line + b"\n") for line in good)[:-15])
    pairs = list(read_jsonl(str(path), source="s"))
    assert pa.Table.from_batches([kept for kept, _ in pairs])["text"].to_pylist() == [f"baris {i}" for i in range(19)]
    assert [d["rule"] for _, ledger in pairs for d in ledger.to_pylist()] == ["bad_record"]


HOSTILE = {  # page, the rule that drops it; with another parser than ours where the two differ
    "divs nested 100k deep": (b"<div>" * 100_000 + b"x", None, "extract_timeout"),
    "100k attributes on one tag": (
        b"<div " + b" ".join(b"a%d=1" % i for i in range(100_000)) + b">x",
        None,
        "extract_timeout",
    ),
    "every tag in every other": (b"<p><b><table><tr><td><a><li>x" * 20_000, None, None),
    "ends without starts": (b"<table><td>" + b"</p></b></div></table-></li>x" * 20_000, None, None),
    "titles without an end": (b"<title>" * 100_000 + b"x", None, "empty"),
    "a million tags": (b"<p>a" * 1_000_000, "too_many_nodes", "too_many_nodes"),
    "zero bytes": (bytes(100_000), "not_html", "not_html"),
    "markup without an end": (b"<!-- " + b"-" * 500_000, "empty", "empty"),
    "only a script": (b"<script>" + b"x" * 500_000, "empty", "empty"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("engine", ["cascade", "resiliparse"])
def test_hostile_page_between_good_ones(tmp_path, name, engine):
    body, *expected = HOSTILE[name]
    rule = expected[engine == "resiliparse"]
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(gzip.compress(record(i, body=body if i == 3 else None)) for i in range(N)))
    start = time.perf_counter()
    extract = Extractor(engine, timeout_seconds=1.0)
    kept, rules = [], []
    for raw, refused in read_warc(str(path), source="web"):
        documents, ledger = extract(raw)
        kept += documents["source_id"].to_pylist()
        rules += refused.to_pylist() + ledger.to_pylist()
    extract.close()
    assert time.perf_counter() - start < 15, "stopped by its CPU limit, not by the wall clock's far one"
    assert kept == (all_but(3) if rule else all_but())
    assert [(r["rule"], r["url"]) for r in rules] == ([(rule, "https://x.id/3")] if rule else [])
