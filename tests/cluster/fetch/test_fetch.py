"""The fetcher against a server that misbehaves: what arrives is what lies there, and the server sees no more than allowed."""

import email.utils
import time
from typing import NamedTuple

import aiohttp
import pyarrow.parquet as pq
import pytest
from commoncrawl_site import FAULTS, Server, faults

from cluster import storage
from cluster.fetch.fetcher import Access, Fetcher, Missing, OutOfRange, RemoteFile, _retry_after, _Span
from cluster.fetch.rate import Blocked, LocalLimiter, Rate

RATE = Rate(300.0, 1e9, 4)


@pytest.fixture
def root(tmp_path):
    import random

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file.bin").write_bytes(random.Random(0).randbytes(300_000))
    (tmp_path / "small.txt").write_bytes(b"0123456789")
    return tmp_path


def fetcher(server, rate=RATE, **options):
    options = {"timeout_seconds": 0.5, "first_wait_seconds": 0.02, **options}
    return Fetcher(Access(server.url, **options), LocalLimiter(rate))


def local(root):
    return Fetcher(Access(str(root)), None)


@pytest.mark.parametrize("where", ["http", "disk"])
def test_parts_of_files(root, where):
    data = (root / "a" / "file.bin").read_bytes()
    with Server(root) as server:
        fetch = fetcher(server) if where == "http" else local(root)
        assert fetch.part("a/file.bin", 1000, 5000) == data[1000:6000]
        assert fetch.part("a/file.bin", 299_999, 1) == data[-1:]
        assert fetch.some("a/file.bin", 299_000, 5000) == data[299_000:]
        assert fetch.tail("a/file.bin", 100) == (data[-100:], 300_000)
        assert fetch.tail("small.txt", 100) == (b"0123456789", 10)
        assert fetch.whole("a/file.bin") == data
        fetch.download("a/file.bin", str(root / "copy"), 70_000)
        assert (root / "copy").read_bytes() == data
        with pytest.raises(OutOfRange):
            fetch.part("a/file.bin", 299_000, 5000)
        with pytest.raises(OutOfRange):
            fetch.some("a/file.bin", 400_000, 5)
        with pytest.raises(Missing, match="has no file a/nothing"):
            fetch.part("a/nothing", 0, 1)


@pytest.mark.parametrize("kind", [kind for kind in (*FAULTS, "502") if kind not in ("corrupt", "trickle")])
def test_each_fault_is_mended(root, kind):
    data = (root / "a" / "file.bin").read_bytes()
    with Server(root, fault=faults(1.0, (kind,), times=1), slow_seconds=1.5) as server:
        fetch = fetcher(server, timeout_seconds=0.3)
        assert fetch.part("a/file.bin", 0, 200_000) == data[:200_000]
        assert len(server.log) >= 2
        if kind in ("short", "drop"):  # continued at the byte where it broke, or where the last piece that came ends
            assert 0 < server.log[1].start <= 100_000
        if kind in ("503", "429"):
            assert server.log[1].seconds - server.log[0].seconds >= 0.3  # Retry-After
        begin = len(server.log)
        server.fault = faults(1.0, (kind,), times=2, seed=1)
        assert fetch.tail("a/file.bin", 1000) == (data[-1000:], 300_000)
        assert fetch.whole("small.txt") == b"0123456789"
        assert len(server.log) > begin + 2


def test_an_answer_slower_than_the_least_speed_is_left(root):
    # 20 bytes a second are never silent for the time-out, but need 0.5 s for what may take 0.2
    with Server(root, fault=lambda path, start, attempt: "trickle" if start == 0 else None) as server:
        assert fetcher(server, timeout_seconds=0.2).part("small.txt", 0, 10) == b"0123456789"
        assert len(server.log) >= 2 and server.log[1].start > 0


def test_faults_of_any_file_system_are_tried_again(root, monkeypatch):
    """Those of object stores other than S3 are errors of their clients, of which some are no OSError."""
    fetch = Fetcher(Access(str(root), first_wait_seconds=0.01, attempts=3), None)
    fs, _ = storage.filesystem(str(root))
    cat_file, faults = type(fs).cat_file, [aiohttp.ClientPayloadError("cut short"), OSError(5, "Input/output error")]

    def failing(self, *where, **part):
        if faults:
            raise faults.pop()
        return cat_file(self, *where, **part)

    monkeypatch.setattr(type(fs), "cat_file", failing)
    assert fetch.part("small.txt", 2, 3) == b"234" and not faults
    faults += [aiohttp.ClientPayloadError("cut short")] * 3
    with pytest.raises(ValueError, match="3 attempts in a row failed, the last with: ClientPayloadError: cut short"):
        fetch.part("small.txt", 2, 3)


def test_many_faults_and_the_rate(root):
    data = (root / "a" / "file.bin").read_bytes()
    rate = Rate(120.0, 1e9, 3)
    kinds = ("short", "drop", "500")
    with Server(root, fault=faults(0.5, kinds, times=3)) as server:
        fetch = fetcher(server, rate)
        for i in range(60):
            assert fetch.part("a/file.bin", 2000 * i, 3000) == data[2000 * i : 2000 * i + 3000]
        assert len(server.log) > 90
        for window in (0.25, 1.0):
            assert server.most_in(window) <= rate.requests_per_second * window + rate.burst + rate.concurrency


def test_403_stops_every_reader_at_once(root):
    with Server(root, fault=lambda path, start, attempt: "403") as server:
        fetch = fetcher(server)
        with pytest.raises(Blocked, match=r"answered 403 .* blocked.*fetch.requests_per_second.*continues"):
            fetch.part("small.txt", 0, 1)
        with pytest.raises(Blocked):
            fetch.part("a/file.bin", 0, 1)
        assert len(server.log) == 1


def test_attempts_without_progress_are_counted(root):
    with Server(root, fault=lambda path, start, attempt: "500") as server:
        with pytest.raises(
            ValueError, match=r"4 attempts in a row failed, the last with: status 500.*same command continues"
        ):
            fetcher(server, attempts=4).part("small.txt", 0, 1)
        assert len(server.log) == 4
        server.log.clear()
        server.fault = lambda path, start, attempt: "short" if start < 99_990 else None  # each brings half of the rest
        assert (
            fetcher(server, attempts=2).part("a/file.bin", 0, 100_000) == (root / "a/file.bin").read_bytes()[:100_000]
        )
        assert len(server.log) > 10


def test_nobody_there(capfd):
    fetch = Fetcher(Access("http://127.0.0.1:9", attempts=5, first_wait_seconds=0.01), LocalLimiter(RATE))
    with pytest.raises(ValueError, match=r"5 attempts in a row failed, the last with: ConnectionError"):
        fetch.whole("x")
    said = "pinisi: no good answer of http://127.0.0.1:9 so far (ConnectionError); trying again for a while, Ctrl-C stops\n"
    assert capfd.readouterr().err == said


def test_a_server_without_ranges_is_refused(root):
    class NoRanges(Server):
        def _handler(self):
            handler = super()._handler()
            handler.answer_ranges = handler.answer
            handler.answer = lambda self, path, low, high, fault, seen: self.answer_ranges(path, "", "", fault, seen)
            return handler

    with NoRanges(root) as server, pytest.raises(ValueError, match="does not answer range requests"):
        fetcher(server).part("a/file.bin", 5, 10)


def test_who_asks(root):
    with Server(root) as server:
        fetcher(server, contact="me@example.org").whole("small.txt")
        assert server.log[0].agent == "pinisi/0.1 (me@example.org)"


def test_retry_after():
    assert _retry_after(None) == 1.0
    assert _retry_after("17") == 17.0
    assert _retry_after("nonsense") == 1.0
    assert _retry_after("999999") == 3600.0
    assert _retry_after(email.utils.formatdate(time.time() + 30, usegmt=True)) == pytest.approx(30, abs=2)
    assert _retry_after(email.utils.formatdate(time.time() - 30, usegmt=True)) == 0.0


def test_a_remote_file_reads_like_one_on_disk(root):
    import pyarrow as pa

    table = pa.table({"a": range(50_000), "b": [str(i) for i in range(50_000)]})
    pq.write_table(table, root / "t.parquet", row_group_size=10_000)
    data = (root / "t.parquet").read_bytes()
    with Server(root) as server:
        file = RemoteFile(fetcher(server), "t.parquet", tail_bytes=70_000)
        assert len(server.log) == 1 and file.size() == len(data)
        parquet = pq.ParquetFile(file)
        assert parquet.read_row_group(2, ["b"]).equals(table.slice(20_000, 10_000).select(["b"]))
        assert len(server.log) == 2  # the footer came with the size; one column of one group is one request
        file.seek(-100, 2)
        assert file.read(50) == data[-100:-50] and file.read() == data[-50:] and file.read(1) == b""
        file.seek(10)
        assert file.read(20) == data[10:30] and file.tell() == 30
        asked = len(server.log)
        assert file.read(0) == b"" and file.tell() == 30 and len(server.log) == asked  # no bytes are no range


def test_files_beyond_32_bits(tmp_path):
    """A file of 6 GB, of which the disk holds what was written."""
    begin, size = 5_500_000_000, 6_000_000_000
    with open(tmp_path / "large", "wb") as file:
        file.seek(begin)
        file.write(b"perahu layar")
        file.truncate(size)
    fetch = local(tmp_path)
    assert fetch.part("large", begin + 7, 5) == b"layar"
    assert fetch.some("large", size - 3, 10) == bytes(3) and fetch.tail("large", 4) == (bytes(4), size)
    remote = RemoteFile(fetch, "large", tail_bytes=1000)
    assert remote.seek(begin) == begin and remote.read(6) == b"perahu" and remote.size() == size
    span = _Span(begin, 1000)
    assert span.header() == {"Range": "bytes=5500000000-5500000999"}
    span.begin(_Answer(206, {"Content-Range": f"bytes {begin}-{begin + 999}/{size}"}), "large")
    assert (span.size, span.n_bytes) == (size, 1000)


class _Answer(NamedTuple):
    status_code: int
    headers: dict[str, str]


def test_an_error_inside_a_parquet_reader_comes_out_as_itself(root):
    import pyarrow as pa

    pq.write_table(pa.table({"a": list(range(500_000))}), root / "t.parquet")
    with Server(root) as server:
        file = RemoteFile(fetcher(server), "t.parquet", tail_bytes=5000)
        server.fault = lambda path, start, attempt: "403"
        with pytest.raises(Blocked):
            pq.ParquetFile(file).read()
