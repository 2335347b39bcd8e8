"""A disk or store that fails while a source is read is no fault of the source: the reader raises, and the task is tried again.

Were it a ledger row, the rest of the file would be lost for good, as the shard counts as done.
"""

import errno
import gzip
import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import storage
from curation.sources.documents import read_jsonl, read_parquet
from curation.sources.warc import read_warc

N = 200
TEXTS = [random.Random(i).randbytes(4000).hex() for i in range(N)]


class Failing(io.BytesIO):
    """A file of which the first read beyond byte `limit` fails, and no other."""

    def __init__(self, data: bytes, limit: int, error: Exception):
        super().__init__(data)
        self.limit, self.error = limit, error

    def read(self, n: int = -1) -> bytes:
        left = len(self.getvalue()) - self.tell()
        if self.tell() + (left if n is None or n < 0 else min(n, left)) > self.limit:
            self.limit = len(self.getvalue())
            raise self.error
        return super().read(n)

    def read1(self, n: int = -1) -> bytes:
        return self.read(n)

    def readinto(self, into) -> int:
        data = self.read(len(into))
        into[: len(data)] = data
        return len(data)


def warc() -> bytes:
    records = []
    for number, text in enumerate(TEXTS):
        block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>" + text.encode()
        head = (
            f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number}>\r\n"
            f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
        )
        records.append(head.encode() + block + b"\r\n\r\n")
    return b"".join(gzip.compress(record, mtime=0) for record in records)


def jsonl() -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in TEXTS)


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": TEXTS}), sink, row_group_size=10)
    return sink.getvalue()


SOURCES = {
    "a.warc.gz": (read_warc, warc),
    "a.jsonl": (read_jsonl, jsonl),
    "a.jsonl.gz": (read_jsonl, lambda: gzip.compress(jsonl())),
    "a.jsonl.zst": (read_jsonl, lambda: zstd(jsonl())),
    "a.parquet": (read_parquet, parquet),
}
ERRORS = {
    "disk": OSError(errno.EIO, "Input/output error"),
    "throttled": OSError(errno.EBUSY, "Please reduce your request rate"),
    "token": PermissionError("The provided token has expired"),
    "silence": TimeoutError("Read timed out"),
}


class Store:
    """A file system of one file."""

    def __init__(self, *file):
        self.file = file

    def open(self, path: str, mode: str) -> Failing:
        return Failing(*self.file)


@pytest.mark.parametrize("name", list(SOURCES))
@pytest.mark.parametrize("error", list(ERRORS))
def test_the_reader_raises(monkeypatch, name, error):
    read, make = SOURCES[name]
    data = make()
    whole, half = len(data), len(data) // 2
    monkeypatch.setattr(storage, "filesystem", lambda uri: (Store(data, whole, ERRORS[error]), uri))
    assert sum(kept.num_rows for kept, _ in read(f"s3://bucket/{name}", source="s")) == N
    monkeypatch.setattr(storage, "filesystem", lambda uri: (Store(data, half, ERRORS[error]), uri))
    with pytest.raises(type(ERRORS[error]), match=str(ERRORS[error].args[-1])):
        list(read(f"s3://bucket/{name}", source="s"))
