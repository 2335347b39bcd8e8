"""The records of a WARC file (ISO 28500) one after another, in whatever it is packed.

A record is its header and so many bytes as its Content-Length says; behind them must be another record, or the end. Where
neither is, the length was wrong: the record is a `Trouble`, and the next one begins at the next member, or line, that begins
with `WARC/`. Bytes are looked at once whatever lengths the headers claim, and one record of the largest size is held at most.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from curation.sources.containers import BROKEN, EARLY, MAGIC_BYTES, MEMBER, WHOLE, kind, unpacked

HEAD_BYTES = 1 << 20  # of a record's header
TRIM = 1 << 17
MANY_MEMBERS = 1 << 16
VERSION = re.compile(rb"WARC/\d{1,3}\.\d{1,3}[ \t]*\r?\n", re.IGNORECASE)
VERSION_BYTES = 32
HEAD_END = re.compile(rb"\r?\n\r?\n")
START = re.compile(rb"\n(?=WARC/\d\.\d+[ \t]*\r?\n)")
FOLD = re.compile(r"\n[ \t]+")
HIGH = re.compile(rb"[\x80-\xff]")
BETWEEN = 4096  # blank bytes behind a record that are looked at
BLANK = re.compile(rb"[\r\n\t \0]*")
ABOUT_OTHERS = ("warcinfo", "request", "metadata")
"""Types of records that hold no content of their own."""
BEHIND = b"\r\n\r\n"  # of every record, by the standard
ABOUT = re.compile(rb"\r\nWARC-Type: (%s)\r\n" % "|".join(ABOUT_OTHERS).encode())
LENGTH = re.compile(rb"\r\nContent-Length: (\d{1,18})\r\n")
_BEGIN = b"WARC/"


def fields(head: str) -> dict[str, str]:
    """The header lines below the first by lower-case name, lines that were folded put together; the first of a name counts."""
    if "\n " in head or "\n\t" in head:
        head = FOLD.sub(" ", "\n".join([line.rstrip() for line in head.split("\n")]))
    found: dict[str, str] = {}
    for line in reversed(head.split("\n")[1:]):  # by hand, as a regular expression takes ten times as long
        name, colon, value = line.partition(":")
        if colon:
            value = value.strip(" \t\r")
            found[name.rstrip(" \t").lower()] = value.partition("\r")[0] if "\r" in value else value
    return found


class Record(NamedTuple):
    """`headers` by lower-case name, of a record `ABOUT_OTHERS` often only its type; `block` is None for more bytes than the
    limit. `offset` is the byte of the file where the member begins in which the record does, `within` the unpacked bytes
    before it; in a plain file `within` is 0."""

    offset: int
    within: int
    headers: dict[str, str]
    n_bytes: int
    block: bytes | None


class Trouble(NamedTuple):
    """A record that is not whole, or (`headers` None) bytes that are no record."""

    offset: int
    within: int
    headers: dict[str, str] | None
    detail: str


class Records:
    """Iterates over an open file: `Record`s, and `Trouble`s where one is broken. Errors of the storage are raised."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        begin = file.read(MAGIC_BYTES)
        file.seek(0)
        self._file = file
        self._max_bytes = max_bytes
        self._plain = kind(begin) is None
        self._events = unpacked(file)
        # Places are bytes of all that was unpacked.
        self._data: bytes | bytearray = b""
        self._base = 0  # the place of _data[0]
        self._end = 0  # the place behind _data
        self._pos = 0  # all before it is done with
        self._members: deque[tuple[int, int]] = deque()  # (place, byte of the file) where members begin, from _pos on
        self._member = (0, 0)  # where the last before _pos begins
        self._broken = ""  # why nothing more comes, until that is told
        self._whole = False  # whether the bytes from _pos to _end are one whole member

    def __iter__(self) -> Iterator[Record | Trouble]:
        lost: Trouble | None = None  # one for all bytes until the next record
        while True:
            if self._pos == self._end and (record := self._one_member()):
                if lost:
                    yield lost
                    lost = None
                yield record
                continue
            self._pass_blank()
            offset, within = self._where()
            if self._pos == self._end:
                if not self._broken:
                    break
                lost = lost or Trouble(offset, within, None, self._broken)
                self._broken = ""
                continue
            headers = self._headers()
            if headers is None:
                lost = lost or Trouble(offset, within, None, "no record begins here")
                self._to_start()
                continue
            if lost:
                yield lost
                lost = None
            one = self._record(offset, within, headers)
            if isinstance(one, Trouble) and self._pos == self._end:
                self._broken = ""  # the record's row names it
            yield one
        if lost:
            yield lost

    def _pull(self) -> bool:
        """Unpack some more; False at the end and where something is broken."""
        if self._broken:
            return False
        found = next(self._events, None)
        if found is None:
            return False
        event, value = found
        if event == BROKEN:
            self._broken = value
            return False
        if event == MEMBER:
            if len(self._members) > MANY_MEMBERS:
                self._members = deque(one for one in self._members if self._begins(one[0]))
            self._members.append((self._end, value))
            return True
        self._whole = event == WHOLE and self._pos == self._end
        if self._pos == self._end:  # nothing is held: no copy
            self._data, self._base = value, self._end
        else:
            if isinstance(self._data, bytes):
                self._data, self._base = bytearray(self._data[self._pos - self._base :]), self._pos
            elif self._pos - self._base > TRIM:
                del self._data[: self._pos - self._base]
                self._base = self._pos
            self._data += value
        self._end += len(value)
        return True

    def _one_member(self) -> Record | None:
        """The next record if it is all of the next member, as almost every one is. None if not, with some bytes to look at."""
        while self._pos == self._end and self._pull():
            pass
        if not (self._whole and isinstance(self._data, bytes)):
            return None
        self._whole = False
        begin, data = self._pos, self._data
        head = data.find(BEHIND) + len(BEHIND)
        n_bytes = len(data) - head - len(BEHIND)
        length = LENGTH.search(data, 0, head)
        if not (length and int(length[1]) == n_bytes <= self._max_bytes and data.endswith(BEHIND)):
            return None
        offset, within = self._where()
        about = ABOUT.search(data, 0, head)
        headers = {"warc-type": about[1].decode()} if about else self._headers()
        if headers is None or (not about and self._pos != begin + head):
            self._pos = begin
            return None
        self._pos = self._end
        return Record(offset, within, headers, n_bytes, data[head : -len(BEHIND)])

    def _reach(self, place: int) -> bool:
        """Whether there are bytes up to `place`."""
        while self._end < place:
            if not self._pull():
                return False
        return True

    def _begins(self, place: int) -> bool:
        """Whether a record seems to begin there."""
        self._reach(place + len(_BEGIN))
        at = place - self._base
        begin = bytes(self._data[at : at + len(_BEGIN)]).upper()
        return begin == _BEGIN or (place < self._end < place + len(_BEGIN) and _BEGIN.startswith(begin))

    def _pass_blank(self) -> None:
        """On to what is no line end or padding."""
        while True:
            match = BLANK.match(self._data, self._pos - self._base)
            self._pos = self._base + match.end() if match else self._pos
            if self._pos < self._end or not self._pull():
                return

    def _where(self) -> tuple[int, int]:
        """`offset` and `within` of `_pos`; members before it are let go."""
        while self._members and self._members[0][0] <= self._pos:
            self._member = self._members.popleft()
        begin, offset = self._member
        return (self._pos, 0) if self._plain else (offset, self._pos - begin)

    def _member_between(self, begin: int, end: int) -> int | None:
        """The place of the first member there (both ends left out) that begins with a record."""
        for place, _ in self._members:
            if place >= end:
                break
            if place > begin and self._begins(place):
                return place
        return None

    def _headers(self) -> dict[str, str] | None:
        """The header that begins at `_pos`, which then is behind it; None when none does."""
        self._reach(self._pos + VERSION_BYTES)
        at = self._pos - self._base
        if not VERSION.match(self._data, at, at + VERSION_BYTES):
            return None
        looked = self._pos
        while not (end := HEAD_END.search(self._data, looked - self._base)):
            looked = max(looked, self._end - 3)
            if self._end - self._pos > HEAD_BYTES or not self._pull():
                return None
        head = bytes(self._data[self._pos - self._base : end.start()])
        self._pos = self._base + end.end()
        try:
            text = head.decode("utf-8")
        except UnicodeDecodeError:  # a URL in another encoding: its bytes as a URL has them
            text = HIGH.sub(lambda byte: b"%%%02X" % byte[0][0], head).decode("ascii")
        return fields(text)

    def _record(self, offset: int, within: int, headers: dict[str, str]) -> Record | Trouble:
        """The record whose block begins at `_pos`, which then is where the next may begin."""
        length = headers.get("content-length", "")
        if not re.fullmatch(r"[0-9]+", length):
            self._to_start()
            said = f"Content-Length {length[:40]!r}" if length else "no Content-Length"
            return Trouble(offset, within, headers, said)
        n_bytes = int(length[:30])
        begin, end = self._pos, self._pos + n_bytes
        if n_bytes > self._max_bytes:
            self._to_start(end, lines=not (self._plain and self._file_begins(end)))
            return Record(offset, within, headers, n_bytes, None)
        reached = self._reach(end)
        self._where()
        cut = self._member_between(begin, end)
        if cut is not None or not reached:
            there = (cut or self._end) - begin
            why = f" ({self._broken})" if self._broken and cut is None else ""
            self._to_start()
            return Trouble(offset, within, headers, f"record ends early: {there} bytes of {n_bytes}{why}")
        if problem := self._behind(begin, end, headers.get("warc-block-digest", "")):
            self._to_start()
            return Trouble(offset, within, headers, problem)
        with memoryview(self._data) as data:  # a slice of the array would be a copy more
            block = bytes(data[begin - self._base : end - self._base])
        self._pos = end
        return Record(offset, within, headers, n_bytes, block)

    def _behind(self, begin: int, end: int, digest: str) -> str:
        """What is wrong with that which follows a block; empty when nothing is."""
        while True:
            match = BLANK.match(self._data, end - self._base, end - self._base + BETWEEN)
            follows = self._base + match.end() if match else end
            for place, _ in self._members:
                if end <= place <= follows:
                    return ""
                if place > follows:
                    break
            if follows < self._end or not self._pull():
                break
        if follows == end + BETWEEN or self._begins(follows):
            return ""
        at_end = follows == self._end
        if at_end and (not self._broken or self._broken.endswith(EARLY)):
            return ""
        if not START.search(self._data, begin - self._base, end - self._base):
            block = self._data[begin - self._base : end - self._base]
            if digest_fits(digest, block):
                return ""
        return self._broken if at_end else "no record begins where its Content-Length says it ends"

    def _to_start(self, until: int | None = None, lines: bool = True) -> None:
        """Go on to where the next record seems to begin, at a member or (`lines`) at a line, or to place `until`."""
        while True:
            self._where()
            stop = self._end if until is None else min(self._end, until)
            found = self._member_between(self._pos, stop)
            if lines:
                line = START.search(self._data, self._pos - self._base, stop - self._base)
                if line and (found is None or self._base + line.end() < found):
                    found = self._base + line.end()
            if found is not None or stop == until:
                self._pos = stop if found is None else found
                return
            self._pos = max(self._pos, stop - VERSION_BYTES)
            if not self._pull():
                self._pos = self._end
                return

    def _file_begins(self, place: int) -> bool:
        """Whether a record begins, or the file ends, at a place of a plain file beyond what was read."""
        now = self._file.tell()
        try:
            size = self._file.seek(0, 2)
            if place >= size:
                return place == size
            self._file.seek(place)
            return self._file.read(64).lstrip(b"\r\n\t \0").startswith(_BEGIN)
        finally:
            self._file.seek(now)


def digest_fits(header: str, block: bytes | bytearray) -> bool:
    """Whether `WARC-Block-Digest` (`sha1:` with base32 or hexadecimal digits) is the digest of the block."""
    name, _, value = header.partition(":")
    if name.lower() not in {"sha1", "sha256", "md5"}:
        return False
    digest = hashlib.new(name.lower(), block, usedforsecurity=False).digest()
    return value.strip().lower() in {digest.hex(), base64.b32encode(digest).decode().lower()}
