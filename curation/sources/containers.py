"""The bytes of a file without its compression, which is known by its first bytes and not by its name.

A file is plain, or a row of members: gzip members, zstd frames (also with a dictionary in a skippable frame before them, as
WARC files have it), bz2 and xz streams, lz4 frames. What is broken costs itself: reading goes on at the next member that
begins as the first one did. The work is linear in the bytes of the file, whatever they are: bytes are read again, to look
for a member within what broke, only up to a share of those that were read.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Protocol, cast

import pyarrow as pa
from fastwarc.stream_io import GzipReader, ZstdReader

from cluster import storage

MEMBER, DATA, WHOLE, BROKEN = 0, 1, 2, 3
Event = tuple[int, Any]
"""(MEMBER, byte of the file where one begins), (DATA, bytes), (WHOLE, all bytes of the member, whose checksum is right),
(BROKEN, what is wrong): reading goes on after it."""
BYTES = (DATA, WHOLE)

EARLY = "ends early"  # the last words of what is wrong with a file that was cut
CHUNK = 1 << 16  # of the file
PLAIN = 64  # bytes of which none is binary in a file that is not packed
BINARY_BYTES = bytes([*range(9), 0x0B, *range(0x0E, 0x1B), *range(0x1C, 0x20)])  # as the WHATWG has them
NEAR = 1 << 18
SMALL = 1 << 14  # unpacked: there zlib is as fast as fastwarc's reader, as it has less to set up
PROBE = 1 << 9
PIECE = 1 << 20  # unpacked at a time, so that a bomb stays small
XZ_MEMORY = 1 << 28
MAX_DICTIONARY = 1 << 26
LARGEST_WINDOW = 27  # log2 of the bytes that the decoder looks back

GZIP = b"\x1f\x8b\x08"
MAGIC = {
    "gzip": re.compile(GZIP + rb"[\x00-\x1f]"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    "bz2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "lz4": re.compile(rb"\x04\x22\x4d\x18"),
}
ANY = re.compile(b"|".join(b"(?P<%s>%s)" % (name.encode(), magic.pattern) for name, magic in MAGIC.items()))
MAGIC_BYTES = 10
ARCHIVES = {
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
    b"\x1f\x9d": "packed by compress",
}
AGAIN = 4  # times the bytes read so far may be read again
AGAIN_BYTES = 1 << 23  # and so many more


def kind(begin: bytes) -> str | None:
    """The compression of what begins with these bytes: a name of `MAGIC`, None for what is plain."""
    found = ANY.match(begin)
    return found.lastgroup if found else None


def archive(begin: bytes) -> str | None:
    """What the bytes begin that is no compression of one file: an archive, or a compression that is not read."""
    if begin[257:262] == b"ustar":
        return "a tar archive"
    return next((said for magic, said in ARCHIVES.items() if begin.startswith(magic)), None)


def unpacked(file: BinaryIO) -> Iterator[Event]:
    """The members of an open file, their bytes, and what broke. Errors of the storage are raised."""
    raw = Raw(file)
    begin = raw.peek(NEAR)
    first = kind(begin)
    if first is None and len(begin[:PLAIN].translate(None, BINARY_BYTES)) < len(begin[:PLAIN]):
        later = ANY.search(begin)  # the first member is damaged at its very beginning
        first = later.lastgroup if later else None
    if first is None:
        yield MEMBER, 0
        while data := raw.take():
            yield DATA, data
        return
    dictionary = None
    again = 0
    while begin := raw.peek(MAGIC_BYTES):
        at = raw.at
        if not begin.strip(b"\0"):  # padding
            raw.skip(len(begin))
            continue
        name = kind(begin)
        try:
            if name is None:
                raise ValueError(f"no {first} member begins here")
            if name == "zstd" and begin[1:4] == b"\x2a\x4d\x18":
                if (found := _skippable(raw)) is not None:
                    dictionary = found
                continue
            yield MEMBER, at
            yield from READERS[name](raw, dictionary)
            raw.wary = False
        except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError) as problem:
            if storage.at_fault(problem):
                raise
            read = raw.at - at
            if again + read <= AGAIN * at + AGAIN_BYTES:
                again += read
                raw.seek(at)
            raw.wary = True
            raw.skip(1)
            raw.find(MAGIC[first])
            if name is None:
                yield MEMBER, at  # the one before was whole
            yield BROKEN, f"byte {at}: {problem}"


def whole(data: bytes, max_bytes: int) -> tuple[bytes, bool]:
    """Members that are in memory, unpacked to at most `max_bytes`, and whether they end early; what follows the last is left.

    Raises ValueError for broken bytes.
    """
    found = bytearray()
    early = False
    raw = Raw(io.BytesIO(data))
    first = kind(raw.peek(MAGIC_BYTES))
    while first and kind(raw.peek(MAGIC_BYTES)) == first and len(found) < max_bytes:
        try:
            for _, piece in READERS[first](raw, None):
                found += piece
                if len(found) >= max_bytes:
                    break
        except EOFError:
            early = True
            break
        except (zlib.error, lzma.LZMAError, OSError, ValueError) as problem:
            raise ValueError(f"{first}: {problem}") from None
    return bytes(found[:max_bytes]), early


class Raw:
    """A file read once, from front to back, with a look ahead. `at` is the place of the next byte; `wary` that what begins
    there may only look like a member, of which a little is read at first."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.at = 0
        self.wary = False
        self._data = b""
        self._next = 0  # in `_data`

    def take(self) -> bytes:
        """Some bytes; none at the end."""
        data = self._data[self._next :] or self.file.read(CHUNK)
        self._data, self._next = b"", 0
        self.at += len(data)
        return data

    def back(self, rest: bytes) -> None:
        """Put back the end of what was taken."""
        self._data, self._next = rest + self._data[self._next :], 0
        self.at -= len(rest)

    def peek(self, n_bytes: int) -> bytes:
        """The next bytes; fewer before the end."""
        while len(self._data) - self._next < n_bytes and (more := self.file.read(CHUNK)):
            self._data, self._next = self._data[self._next :] + more, 0
        return self._data[self._next : self._next + n_bytes]

    def read(self, n_bytes: int) -> bytes:
        """At most so many bytes, as files do."""
        if self._next == len(self._data):
            self._data, self._next = self.file.read(CHUNK), 0
        data = self._data[self._next : self._next + n_bytes]
        self._next += len(data)
        self.at += len(data)
        return data

    def skip(self, n_bytes: int) -> None:
        while n_bytes > 0 and (data := self.read(n_bytes)):
            n_bytes -= len(data)

    def seek(self, at: int) -> None:
        """Back to a place before."""
        if self.at - at <= self._next:
            self._next -= self.at - at
        else:
            self.file.seek(at)
            self._data, self._next = b"", 0
        self.at = at

    def until(self, magic: bytes, n_bytes: int) -> bytes:
        """What lies before the next place but the first where `magic` is, or before the end of the file; at most about `n_bytes`.
        It is still to be read."""
        looked = 1
        while True:
            if (found := self._data.find(magic, self._next + looked)) >= 0:
                return self._data[self._next : found]
            looked = max(1, len(self._data) - self._next - MAGIC_BYTES)
            if looked > n_bytes or not (more := self.file.read(CHUNK)):
                return self._data[self._next :]
            self._data, self._next = self._data[self._next :] + more, 0

    def find(self, pattern: re.Pattern[bytes]) -> None:
        """Go on to the next place where `pattern` begins, or to the end."""
        while self.peek(MAGIC_BYTES):
            match = pattern.search(self._data, self._next)
            more = b"" if match else self.file.read(CHUNK)
            to = (
                match.start()
                if match
                else len(self._data)
                if not more
                else max(self._next, len(self._data) - MAGIC_BYTES)
            )
            self.at += to - self._next
            self._next = to
            if match:
                return
            self._data, self._next = self._data[to:] + more, 0


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _stream(new: Callable[[], _Decompressor], raw: Raw, likely: int = CHUNK) -> Iterator[Event]:
    """One member, probably of `likely` bytes, by a decompressor of the standard library. Raises EOFError when it ends early."""
    one = new()
    data = raw.read(PROBE if raw.wary else likely)
    while True:
        found = one.decompress(data, PIECE)
        if found:
            yield DATA, found
        if one.eof:
            if one.unused_data:
                raw.back(one.unused_data)
            return
        data = getattr(one, "unconsumed_tail", b"")  # zlib's way; the others keep it
        if not data and len(found) < PIECE and not (data := raw.take()):
            raise EOFError(f"the member {EARLY}")


class _Frame:
    """One zstd frame as a file that ends where the frame does (RFC 8878, section 3.1.1): its blocks say how long they are."""

    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        head = raw.peek(18)
        described = head[4] if len(head) > 4 else 0
        single = described >> 5 & 1
        size_bytes = (1 if single else 0, 2, 4, 8)[described >> 6]
        self._left = 5 + (not single) + (0, 1, 2, 4)[described & 3] + size_bytes  # bytes until the next block's header
        self._check = 4 if described >> 2 & 1 else 0
        self._block = False  # whether the last block was seen
        self._ready = b""
        if not single and len(head) > 5 and (head[5] >> 3) + 10 > LARGEST_WINDOW:
            # written with --long: what looks back further than the decoder does shows as an error of its own
            raw.skip(6)
            self._ready = head[:5] + bytes([LARGEST_WINDOW - 10 << 3])
            self._left -= 6

    @property
    def ended(self) -> bool:
        return self._block and self._left == 0

    def read(self, n_bytes: int = -1) -> bytes:
        n_bytes = CHUNK if n_bytes < 0 else n_bytes
        if self._ready:
            data, self._ready = self._ready, b""
            return data
        if self._left == 0 and not self._block:
            header = self._raw.peek(3)
            if len(header) < 3:
                return b""
            block = int.from_bytes(header, "little")
            if block >> 1 & 3 == 3:
                raise ValueError("a block of no known kind")
            self._block = bool(block & 1)
            self._left = 3 + (1 if block >> 1 & 3 == 1 else block >> 3) + (self._check if self._block else 0)
        data = self._raw.read(min(n_bytes, self._left))
        self._left -= len(data)
        return data

    def tell(self) -> int:  # the reader asks for it
        return self._raw.at

    def close(self) -> None:
        """The file stays open."""


def _gzip(raw: Raw) -> Iterator[Event]:
    """One member. Where the next one seems to begin soon, what lies before it is unpacked at once; if that is not one whole
    member, or it is long, a stream finds out what there is."""
    member = raw.until(GZIP, NEAR)
    n_bytes = int.from_bytes(member[-4:], "little")
    if n_bytes < PIECE and not raw.wary:
        try:
            if n_bytes < SMALL:
                found = zlib.decompress(member, 31, n_bytes + 1)
            else:
                found = GzipReader(io.BytesIO(member)).read(n_bytes + 1)
        except (zlib.error, OSError):
            found = b""
        if found and len(found) == n_bytes:
            raw.skip(len(member))
            yield WHOLE, found
            return
    # the trailer apart: where its checksum is wrong, what there was is known
    yield from _stream(lambda: zlib.decompressobj(wbits=31), raw, max(10, len(member) - 8))


def _zstd(raw: Raw, dictionary: bytes | None) -> Iterator[Event]:
    frame = _Frame(raw)
    reader = ZstdReader(cast(BinaryIO, frame), dictionary=dictionary)
    while found := reader.read(PIECE):
        yield DATA, found
    while not frame.ended:
        if not frame.read():
            raise EOFError(f"the frame {EARLY}")


def _skippable(raw: Raw) -> bytes | None:
    """Pass over a skippable frame; the dictionary in it, if it is one (packed or not)."""
    head = raw.peek(8)
    n_bytes = int.from_bytes(head[4:8], "little")
    raw.skip(8)
    if head[0] != 0x5D or n_bytes > MAX_DICTIONARY:
        raw.skip(n_bytes)
        return None
    held = bytearray()
    while len(held) < n_bytes and (data := raw.read(n_bytes - len(held))):
        held += data
    return whole(bytes(held), MAX_DICTIONARY)[0] if kind(bytes(held[:MAGIC_BYTES])) == "zstd" else bytes(held)


def _lz4(raw: Raw) -> Iterator[Event]:
    class Rest(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def read(self, n_bytes: int = -1) -> bytes:
            return raw.read(CHUNK if n_bytes < 0 else n_bytes)

    stream = pa.CompressedInputStream(pa.PythonFile(Rest(), mode="r"), "lz4")
    while found := stream.read(CHUNK):
        yield DATA, found


READERS: dict[str, Callable[[Raw, bytes | None], Iterator[Event]]] = {
    "gzip": lambda raw, _: _gzip(raw),
    "zstd": _zstd,
    "bz2": lambda raw, _: _stream(bz2.BZ2Decompressor, raw),
    "xz": lambda raw, _: _stream(lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY), raw),
    "lz4": lambda raw, _: _lz4(raw),
}
