"""Properties of reading WARC files, tried with broken ones: every record ends in one place, and what is sound is read."""

import bz2
import gzip
import io
import lzma
import random
import time
import zlib

import pyarrow as pa
import pytest

from curation.schema import Limits
from curation.sources import containers
from curation.sources.records import ABOUT_OTHERS, Record, Records
from curation.sources.warc import read_records

COLUMNS = {"source": "s", "crawl": "c", "licence": "", "warc_file": "a.warc"}
TEXT = b"<!doctype html><title>T</title><p>" + b"Perahu layar melintasi selat pada pagi hari. " * 8


def record(number: int, block: bytes = b"", length: object = None, kind: str = "response", end: str = "\r\n") -> bytes:
    block = block or b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + TEXT + b"%d" % number
    lines = [
        "WARC/1.0",
        f"WARC-Type: {kind}",
        f"WARC-Record-ID: <urn:{number}>",
        f"WARC-Target-URI: http://e.id/{number}",
    ]
    lines += ["Content-Type: application/http", f"Content-Length: {len(block) if length is None else length}", "", ""]
    return end.join(lines).encode() + block + b"\r\n\r\n"


def zstd(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)


PACKERS = {"gzip": gzip.compress, "zstd": zstd, "bz2": bz2.compress, "xz": lzma.compress}


def rows(data: bytes, limits: Limits | None = None) -> tuple[list[str], list[dict]]:
    found = list(read_records(io.BytesIO(data), dict(COLUMNS), limits or Limits()))
    return [row["source_id"] for row in found if "rule" not in row], [row for row in found if "rule" in row]


def ids(*numbers: int) -> list[str]:
    return [f"<urn:{number}>" for number in numbers]


@pytest.mark.parametrize("packer", [None, *PACKERS])
@pytest.mark.parametrize("per_member", [1, 3, 7, "pieces"])
def test_any_layout(packer, per_member):
    records = [record(number) for number in range(7)]
    pack = PACKERS.get(packer, bytes)
    if per_member == "pieces":  # members that end anywhere, as tools that pack in parallel write them
        data = b"".join(records)
        data = b"".join(pack(data[i : i + 101]) for i in range(0, len(data), 101))
    else:
        data = b"".join(pack(b"".join(records[i : i + per_member])) for i in range(0, 7, per_member))
    kept, dropped = rows(data)
    assert kept == ids(*range(7)) and dropped == []
    found = list(Records(io.BytesIO(data), 10**7))
    assert len({(one.offset, one.within) for one in found}) == 7


@pytest.mark.parametrize("length", [2**31, 2**53 + 1, 2**63 - 1, 2**63, 10**30, -5, "", "many", "1e3", "0x10", "１２"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
def test_any_number_in_a_header(length, pack):
    data = b"".join(pack(one) for one in (record(0), record(1, length=length), record(2), record(3, length=length)))
    kept, dropped = rows(data + pack(record(4)))
    assert kept == ids(0, 2, 4)
    assert [row["url"] for row in dropped] == ["http://e.id/1", "http://e.id/3"]
    pa.array([row["value"] for row in dropped], pa.float64())


@pytest.mark.parametrize("change", [str.lower, str.upper, str.title])
@pytest.mark.parametrize("space", [":", ": ", " : ", ":\t", ": \r\n "])
def test_names_of_fields_in_any_case(change, space):
    head, block = record(0).split(b"\r\n\r\n", 1)
    lines = head.decode().split("\r\n")
    named = [change(line.split(":", 1)[0]) + space + line.split(": ", 1)[1] for line in lines[1:]]
    data = "\r\n".join([lines[0], *named]).encode() + b"\r\n\r\n" + block
    assert rows(data + record(1)) == (ids(0, 1), [])
    assert rows(gzip.compress(data) + gzip.compress(record(1, end="\n"))) == (ids(0, 1), [])


def test_a_url_in_another_encoding_keeps_its_bytes():
    data = record(0).replace(b"http://e.id/0", b"http://e.id/\xa1\xa2") + record(1)
    first, second = Records(io.BytesIO(data), 10**7)
    assert (first.headers["warc-target-uri"], second.headers["warc-target-uri"]) == (
        "http://e.id/%A1%A2",
        "http://e.id/1",
    )


@pytest.mark.parametrize("packer", [None, *PACKERS])
def test_damage_costs_what_it_hits(packer):
    """In a file of one record a member: a few bytes of one record are changed, cut out or put in; all others are read."""
    random_ = random.Random(f"damage {packer}")
    members = [PACKERS.get(packer, bytes)(record(number)) for number in range(9)]
    for _ in range(150):
        hit = random_.randrange(9)
        one = bytearray(members[hit])
        at = random_.randrange(len(one))
        kind = random_.randrange(3)
        if kind == 0:
            one[at] ^= 1 << random_.randrange(8)
        elif kind == 1:
            del one[at : at + random_.randrange(1, 40)]
        else:
            one[at:at] = random_.randbytes(random_.randrange(1, 40))
        data = b"".join([*members[:hit], bytes(one), *members[hit + 1 :]])
        kept, dropped = rows(data)
        others = [name for name in kept if name in ids(*range(9)) and name != f"<urn:{hit}>"]
        missing = set(ids(*range(9))) - set(kept) - {f"<urn:{hit}>"}
        # damage at the edge of a member, or of a plain record, may touch its neighbour, which then is a row of its own
        assert len(missing) <= 1, (kind, hit, at, missing)
        assert len(others) + len(dropped) >= 8, (kind, hit, at)
        assert len(kept) == len(set(kept))


def test_no_bytes_raise():
    """Whatever the bytes are: no error, and all bytes are looked at once or named."""
    random_ = random.Random(5)
    pieces = [
        record(0),
        gzip.compress(record(1)),
        zstd(record(2)),
        b"\0" * 50,
        b"WARC/1.0\r\n",
        b"\r\n\r\n",
        b"\x1f\x8b\x08",
    ]
    pieces += [
        b"\x28\xb5\x2f\xfd",
        b"\x5d\x2a\x4d\x18\xff\xff\xff\xff",
        bz2.compress(b"x"),
        b"Content-Length: 99999\r\n\r\n",
    ]
    for _ in range(400):
        data = b"".join(random_.choice([*pieces, random_.randbytes(20)]) for _ in range(random_.randrange(12)))
        kept, dropped = rows(data[random_.randrange(9) :])
        assert kept or dropped
        list(containers.unpacked(io.BytesIO(data)))


def test_a_cut_file_gives_all_whole_records():
    for pack in (bytes, gzip.compress, zstd):
        members = [pack(record(number)) for number in range(5)]
        data = b"".join(members)
        for cut in range(1, len(data), 53):
            kept, dropped = rows(data[:cut])
            whole = sum(len(b"".join(members[: i + 1])) <= cut for i in range(5))
            assert whole <= len(kept) <= whole + 1 and len(kept) + len(dropped) >= 1


def test_a_frame_that_looks_back_far_is_read():
    """As `zstd --long=31` writes it: the window is larger than decoders allow, and hardly ever needed."""
    body = record(0)
    head = b"\x28\xb5\x2f\xfd" + bytes([0, (31 - 10) << 3])
    frame = head + (1 | len(body) << 3).to_bytes(3, "little") + body
    assert rows(frame + zstd(record(1))) == (ids(0, 1), [])


def test_an_oversized_record_is_passed_over():
    limits = Limits(max_record_bytes=2000)
    large = record(1, b"HTTP/1.1 200 OK\r\n\r\n" + b"<p>" * 400_000)
    for pack in (bytes, gzip.compress, zstd):
        kept, dropped = rows(b"".join(map(pack, (record(0), large, record(2)))), limits)
        assert kept == ids(0, 2) and [row["rule"] for row in dropped] == ["record_too_large"]
    assert rows(gzip.compress(record(0) + large + record(2)), limits)[0] == ids(0, 2)


class Counted(io.BytesIO):
    """A file that counts the bytes it is asked for."""

    asked = 0

    def read(self, size=-1):
        data = super().read(size)
        self.asked += len(data)
        return data


def adversaries(n: int) -> dict[str, bytes]:
    stored = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"\x00" + (65535).to_bytes(2, "little") + (0).to_bytes(2, "little")
    lying = record(0, b"HTTP/1.1 200 OK\r\n\r\n", 9_000_000)
    longer = record(0, b"HTTP/1.1 200 OK\r\n\r\n", 90_000_000)
    return {
        "lengths beyond the next record": lying * n,
        "lengths beyond the limit": longer * n,
        "the same packed": gzip.compress(lying * n, 1),
        "the same in members": gzip.compress(lying, 1) * n,
        "false members": gzip.compress(record(0)) + b"\x1f\x8b\x08\x00" * (20 * n),
        "members in members": gzip.compress(record(0)) + stored * (20 * n),
        "begins of records": b"\r\nWARC/1.0\r\n" * (20 * n),
        "a header without end": b"WARC/1.0\r\n" + b"A: b\r\n" * (100 * n),
        "empty members": gzip.compress(b"") * (10 * n),
        "blank": record(0) + b"\r\n" * (200 * n),
    }


@pytest.mark.parametrize("which", adversaries(1))
def test_work_is_linear_in_the_bytes(which):
    """Twice the bytes are twice the work, not four times: bytes asked of the file, and lines of Python that run."""
    asked, spent = [], []
    for n in (250, 500, 1000, 2000):
        file = Counted(adversaries(n)[which])
        begin = time.process_time()
        for _ in Records(file, 10_000_000):
            pass
        spent.append(time.process_time() - begin)
        asked.append(file.asked / max(1, len(file.getvalue())))
    assert asked[-1] < 2 * asked[0] + 8, asked
    assert spent[-1] < 20 * spent[0] + 0.3, spent


def test_one_record_of_the_largest_size_is_held():
    """A bomb, and records that claim more than there is, hold no more than the limit."""
    limit = 1_000_000
    data = gzip.compress(record(0, b"HTTP/1.1 200 OK\r\n\r\n" + bytes(60_000_000))) + gzip.compress(record(1))
    records = Records(io.BytesIO(data), limit)
    found, most = [], 0
    for one in records:
        found.append(one)
        most = max(most, len(records._data))
    assert [type(one) for one in found] == [Record, Record] and most < 4 * limit


def test_a_body_in_several_members_of_any_size_is_whole():
    random_ = random.Random(2)
    for _ in range(60):
        parts = [random_.randbytes(random_.randrange(2000)) for _ in range(random_.randrange(1, 6))]
        packed = b"".join(random_.choice([gzip.compress(part), gzip.compress(part, 1)]) for part in parts)
        assert containers.whole(packed, 10**6) == (b"".join(parts), False)
        assert containers.whole(packed + b"\0\0junk", 10**6) == (b"".join(parts), False)
        assert len(containers.whole(packed, 100)[0]) <= 100
    with pytest.raises(ValueError, match="gzip"):
        containers.whole(gzip.compress(b"a" * 99)[:-8] + bytes(8), 100)


def test_a_member_of_which_the_checksum_is_wrong_is_no_page():
    packed = gzip.compress(record(0))
    wrong = packed[:-8] + zlib.crc32(b"else").to_bytes(4, "little") + packed[-4:]
    kept, [row] = rows(wrong + gzip.compress(record(1)))
    assert kept == ids(1) and row["url"] == "http://e.id/0"


def test_a_member_that_is_one_record_is_read_as_any_other(monkeypatch):
    """The short way for whole members gives what the long way gives, whatever the members hold and whatever lies between."""
    random_ = random.Random(11)
    kinds = ["response", "request", "metadata", "warcinfo", "Request", "resource"]
    held = [record(n, kind=random_.choice(kinds), end=random_.choice(["\r\n", "\r\n", "\n"])) for n in range(12)]
    held += [record(20, length=n) for n in (0, 3, 10**7, "x", "")]
    held += [
        record(30, block=b"") + record(31),
        record(40)[:-4],
        record(41) + b"\n",
        b"\r\n\r\n" + record(42),
        b"WARC/1.0\r\n\r\n\r\n\r\n",
    ]
    held += [record(50).replace(b"Content-Length: ", b"Content-Length: 7\r\nX: y\r\nContent-Length: ")]
    held += [record(51).replace(b"Content-Type", b"Folded: a\r\n Content-Length: 5\r\nContent-Type")]
    held += [record(52, b"x" * 40_000), record(53, random_.randbytes(9_000))]
    wrong = gzip.compress(record(60))
    between = [b"", b"", b"", b"\0" * 9, b"garbage", wrong[:-8] + bytes(8), wrong[:-3]]

    def read(data: bytes) -> list:
        found = []
        for one in Records(io.BytesIO(data), 50_000):
            about = isinstance(one, Record) and one.headers.get("warc-type") in ABOUT_OTHERS
            found.append(one._replace(headers={}) if about else one)
        return found

    for _ in range(200):
        parts = random_.choices(held, k=random_.randrange(1, 9))
        data = b"".join(random_.choice(between) + gzip.compress(part) for part in parts)
        short = read(data)
        with monkeypatch.context() as patch:
            patch.setattr(Records, "_one_member", lambda self: None)
            assert short == read(data)
