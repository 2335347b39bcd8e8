"""Records cut out of ranges: equal to a reading of the whole file; corrupt ones fetched again, then in the ledger."""

import gzip
import zlib

import pytest
from commoncrawl_site import Snapshot, build, pages

from curation.commoncrawl import records, table
from curation.commoncrawl.select import Select
from curation.schema import Limits
from curation.sources.warc import read_warc

NAME = "CC-MAIN-2024-18"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """(path of a WARC file, its bytes, the records of its pages as the index gives them)."""
    root = tmp_path_factory.mktemp("site")
    build(root, [Snapshot(NAME, [pages(30, kilobytes=1)])])
    found = [
        row
        for part in sorted(root.glob("cc-index/table/**/subset=warc/*.parquet"))
        for row in table.captures(part.open("rb"), Select(mimes=())).iter_rows(named=True)
    ]
    found.sort(key=lambda row: row["offset"])
    return root / found[0]["file"], (root / found[0]["file"]).read_bytes(), found


def read(wanted, data, begin=0, again=lambda record: None, limits=None):
    columns = {"source": "web", "crawl": NAME, "licence": "", "warc_file": wanted[0]["file"]}
    limits = limits or Limits()
    rows = records.rows(wanted, data, begin, columns=columns, limits=limits, again=again)
    return list(rows)


def direct(path, **options):
    return [
        row
        for kept, drops in read_warc(str(path), source="web", crawl=NAME, **options)
        for row in kept.to_pylist() + drops.to_pylist()
    ]


def test_equal_to_the_whole_file(file):
    path, data, wanted = file
    rows = [{**row, "warc_file": path.name} for row in read(wanted, data) if "rule" not in row]
    pages = [row for row in direct(path) if "rule" not in row]
    assert rows == pages and len(rows) > 20
    assert [row["rule"] for row in read(wanted, data) if "rule" in row] == ["not_html"] * sum(
        "rule" in r for r in direct(path)
    )
    start = wanted[3]["offset"]
    assert read(wanted[3:6], data[start : wanted[5]["offset"] + wanted[5]["length"]], start) == read(wanted, data)[3:6]


@pytest.mark.parametrize("where", [0, 5, 40, -3, -6])
def test_a_flipped_byte_is_fetched_again(file, where):
    _, data, wanted = file
    record = wanted[0]
    at = record["offset"] + (where if where >= 0 else record["length"] + where)
    bad = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
    asked = []

    def again(record):
        asked.append(record["offset"])
        return data[record["offset"] : record["offset"] + record["length"]]

    assert read(wanted, bad, again=again) == read(wanted, data)
    assert asked in ([record["offset"]], [])  # a byte of the gzip header that means nothing needs no second request
    assert asked or where == 5


def test_what_stays_corrupt_goes_to_the_ledger(file):
    _, data, wanted = file
    record = wanted[0]
    at = record["offset"] + record["length"] // 2
    bad = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
    asked = []

    def again(record):
        asked.append(record)
        return bad[record["offset"] : record["offset"] + record["length"]]

    rows = read(wanted[:2], bad, again=again)
    assert rows[0]["rule"] == "bad_record" and rows[0]["url"] == record["url"] and rows[0]["doc_id"]
    assert "rule" not in rows[1] and len(asked) == 1  # the same bytes again: the fault lies in the archive


def test_ever_other_rubbish_is_given_up(file):
    _, data, wanted = file
    count = iter(range(100))
    [row] = read(wanted[:1], b"x" * len(data), again=lambda record: b"y%d" % next(count))
    assert row["rule"] == "bad_record" and next(count) == 3


def test_another_record_than_the_index_means(file):
    _, data, wanted = file
    first, second = wanted[0], wanted[1]
    other = data[second["offset"] : second["offset"] + second["length"]]
    swapped = {**first, "offset": second["offset"], "length": second["length"]}
    [row] = read([swapped], data, again=lambda record: other)
    assert (row["rule"], row["url"]) == ("digest_mismatch", first["url"])
    [row] = read([{**swapped, "digest": None}], data)  # an index without digests
    assert row["url"] == second["url"]


def test_an_offset_into_the_middle(file):
    _, data, wanted = file
    [row] = read([{**wanted[0], "offset": wanted[0]["offset"] + 3}], data)
    assert row["rule"] == "bad_record"
    request = {**wanted[0], "offset": 0, "length": wanted[0]["offset"], "digest": None}  # warcinfo, then a request
    [row] = read([request], data)
    assert (row["rule"], row["detail"]) == ("bad_record", "neither a response over HTTP nor a conversion")


def test_a_file_that_is_gone_or_ends(file):
    _, data, wanted = file
    [row] = read(wanted[:1], None)
    assert row["rule"] == "not_found"
    [row] = read(wanted[-1:], data[: wanted[-1]["offset"] + wanted[-1]["length"] - 5], 0)
    assert (row["rule"], row["detail"]) == ("bad_record", "gzip: the member ends early")


def test_limits(file):
    _, data, wanted = file
    record = max(wanted, key=lambda row: row["length"])
    [row] = read([record], data, limits=Limits(max_record_bytes=record["length"] - 1))
    assert (row["rule"], row["value"]) == ("record_too_large", record["length"])


def test_a_bomb_is_not_unpacked():
    head = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:b>\r\nContent-Length: 90000000\r\n"
    member = gzip.compress(head + b"Content-Type: application/http; msgtype=response\r\n\r\n" + bytes(90_000_000))
    wanted = [{"file": "f", "offset": 0, "length": len(member), "digest": "X", "url": "http://bomb/"}]
    limits = Limits(max_record_bytes=200_000)
    block, problem = records.checked(member, "X", limits)
    assert len(block) <= 200_000 + records.HEAD_BYTES and problem is None
    [row] = read(wanted, member, limits=limits)
    assert (row["rule"], row["value"]) == ("record_too_large", 90_000_000)


def digest_of(body):
    import base64
    import hashlib

    return base64.b32encode(hashlib.sha1(body).digest()).decode()


@pytest.mark.parametrize("form", ["plain", "chunked", "CC-MAIN-2018-34"])
def test_forms_of_a_payload_that_a_digest_may_be_of(form):
    body = b"<html><p>boat</p></html>"
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
    stored = {
        "plain": http + b"\r\n" + body,
        "chunked": http + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body),
        "CC-MAIN-2018-34": http + b"\r\n\r\n" + body,
    }[form]
    head = f"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: {len(stored)}\r\n\r\n".encode()
    member = gzip.compress(head + stored + b"\r\n\r\n")
    assert records.checked(member, digest_of(body), Limits())[1] is None
    assert records.checked(member, digest_of(body + b"x"), Limits())[1][0] == "digest_mismatch"


def test_where_a_file_is_broken(file, tmp_path):
    path, data, wanted = file
    assert records.broken_at(str(path)) is None
    copy = tmp_path / "copy.gz"
    for record in (wanted[0], wanted[10], wanted[-1]):
        at = record["offset"] + record["length"] // 2
        copy.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        start, end = records.broken_at(str(copy), block_bytes=1000)
        assert start == record["offset"] and at < end
    copy.write_bytes(data[:-5])
    assert records.broken_at(str(copy))[1] == len(data) - 5
    copy.write_bytes(zlib.compress(b"x"))
    assert records.broken_at(str(copy))[0] == 0
