"""The version of what is fetched: while `crawl_plan.FORMAT` stays, fixed records must give the same plan and the same rows."""

import base64
import gzip
import hashlib
import zlib

import polars as pl

from curation.commoncrawl import ranges as commoncrawl_ranges
from curation.commoncrawl import records as commoncrawl_records
from curation.schema import Limits
from ray_jobs.commoncrawl import plan as crawl_plan
from ray_jobs.run.fingerprint import digest

ROWS = {1: "89fb45cbe7e9cf2c"}
"""FORMAT -> the digest of `rows()` under it. When the test fails: shall fetched rows become other? Then raise FORMAT, add a line
here, and every crawl is fetched again. Otherwise mend the change."""

PLAN = {1: "ffbba1c438c707be"}

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/html"
PAGES = {  # what a server may answer, by name
    "plain": OK + b"; charset=utf-8\r\n\r\n<html lang=km><p>\xe1\x9e\x91\xe1\x9e\xbc</p>",
    "chunked": OK + b"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n<p>ab\r\n4\r\n</p>\r\n0\r\n\r\n",
    "gzip": OK + b"\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"<p>kapal</p>", 0, mtime=0),
    "empty": OK + b"\r\n\r\n",
    "no type": b"HTTP/1.0 200\r\n\r\n<!doctype html><title>x</title>",
    "xhtml": b"HTTP/1.1 200 OK\r\nContent-Type: application/xhtml+xml;charset=windows-874\r\n\r\n<p>\xa1\xa2</p>",
    "picture": OK + b"\r\n\r\n\x89PNG\r\n\x1a\n",
    "json": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}",
    "moved": b"HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Type: text/html\r\n\r\n<p>x</p>",
    "large": OK + b"\r\n\r\n<p>" + b"x" * 5000,
    "no headers": b"garbage",
}


def member(name, body, conversion=False):
    """One WARC record as a gzip member whose bytes do not depend on a compressor's version."""
    head = (
        f"WARC/1.0\r\nWARC-Type: {'conversion' if conversion else 'response'}\r\n"
        f"WARC-Record-ID: <urn:uuid:{name.replace(' ', '-')}>\r\nWARC-Target-URI: http://a.kh/{name.replace(' ', '-')}\r\n"
        f"WARC-Date: 2024-05-01T00:00:00Z\r\nWARC-Identified-Content-Language: khm,eng\r\n"
        f"Content-Type: {'text/plain' if conversion else 'application/http; msgtype=response'}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    packer = zlib.compressobj(0, wbits=31)
    return packer.compress(head + body + b"\r\n\r\n") + packer.flush()


def sha1(data):
    return base64.b32encode(hashlib.sha1(data).digest()).decode()


def rows():
    wanted, data = [], b""
    cases = [
        *((name, member(name, body), None) for name, body in PAGES.items()),
        ("text", member("text", "ប្រាសាទ".encode(), conversion=True), None),
        ("right digest", member("right digest", PAGES["plain"]), sha1(PAGES["plain"].partition(b"\r\n\r\n")[2])),
        ("wrong digest", member("wrong digest", PAGES["plain"]), sha1(b"other")),
        ("flipped", member("flipped", PAGES["plain"])[:-4] + b"\0\0\0\0", None),
        ("no record", zlib.compress(b"no record here", 0, wbits=31), None),
    ]
    for name, raw, sha in cases:
        wanted.append(
            {"file": "f", "offset": len(data), "length": len(raw), "digest": sha, "url": f"http://a.kh/{name}"}
        )
        data += raw
    wanted.append({"file": "f", "offset": 10**9, "length": 10**6, "digest": None, "url": "http://a.kh/too-long"})
    columns = {"source": "web", "crawl": "CC-MAIN-2024-18", "licence": "", "warc_file": "f"}
    limits = Limits(max_record_bytes=4000)
    return list(commoncrawl_records.rows(wanted, data, 0, columns=columns, limits=limits, again=lambda record: None))


def readable(row):
    row = {key: value for key, value in row.items() if key not in ("detail", "threshold", "value")}
    if row.get("truncated") == "":  # the column came later; what was fetched without it is read as whole
        del row["truncated"]
    return {key: value.hex() if isinstance(value, bytes) else value for key, value in row.items()}


def test_fixed_records_give_the_rows_of_this_format():
    found = [readable(row) for row in rows()]
    assert sum("rule" not in row for row in found) == 8 and len({row.get("rule") for row in found}) == 6
    assert digest(found) == ROWS[crawl_plan.FORMAT]


def test_fixed_captures_give_the_plan_of_this_format():
    n = 200
    records = pl.DataFrame(
        {
            "file": [f"f{i * 7 % 5}" for i in range(n)],
            "offset": [i * 7919 % 1000 * 100 for i in range(n)],
            "length": [50 + i * 31 % 400 for i in range(n)],
        }
    )
    planned = commoncrawl_ranges.plan(records, gap_bytes=300, max_range_bytes=5000, shard_bytes=4000)
    assert digest(planned.drop("range").rows()) == PLAN[crawl_plan.FORMAT]
