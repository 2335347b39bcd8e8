"""The files within a zip or tar archive, one after another; a file that is no archive is its own only member.

An archive may lie: what it says of sizes, names and offsets is checked against what comes out. All that is unpacked of one
stays below `RATIO` times its bytes and `SMALL`, so that a bomb costs a row of the ledger and not a run.
"""

from __future__ import annotations

import errno
import lzma
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, BinaryIO, cast

from cluster import storage
from curation.sources.containers import BROKEN, BYTES, archive, kind, unpacked

RATIO = 100
SMALL = 1 << 30
HEAD = 512  # bytes that tell a tar archive
BROKEN_ARCHIVE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(OSError, EOFError, ValueError, KeyError, IndexError, RuntimeError, NotImplementedError, OverflowError),
)
"""What reading a damaged archive raises; an error of the storage among them is raised on."""


def members(file: BinaryIO) -> Iterator[tuple[str, BinaryIO | str]]:
    """(name, its open file, which can seek) of each file in an archive, or (name, what is wrong with it).

    The name is empty for the file itself, when it is no archive, and where the archive as a whole breaks. Members whose names
    begin with `_` or `.` in any folder are left out, as the files of a source are."""
    begin = file.read(HEAD)
    file.seek(0)
    most = SMALL + RATIO * file.seek(0, 2)
    file.seek(0)
    try:
        if begin.startswith(b"PK\x03\x04"):
            yield from _zip(file, most)
        elif archive(begin) == "a tar archive":
            yield from _tar(file, most)
        elif kind(begin) and _holds_tar(file):
            with tempfile.TemporaryFile() as plain:
                for event, value in unpacked(file):
                    if event in BYTES:
                        plain.write(value)
                    elif event == BROKEN:
                        yield "", str(value)
                    if plain.tell() > most:
                        yield "", f"it unpacks to more than {most:,} bytes"
                        break
                plain.seek(0)
                yield from _tar(cast(BinaryIO, plain), most)
        else:
            yield "", file
    except BROKEN_ARCHIVE as problem:
        if of_storage(problem):
            raise
        yield "", f"{type(problem).__name__}: {problem}"


def of_storage(problem: Exception) -> bool:
    """Whether an error comes from the storage, and not from an archive that names a place which no file has."""
    return storage.at_fault(problem) and getattr(problem, "errno", None) != errno.EINVAL


def read(file: BinaryIO, max_bytes: int) -> bytes | str:
    """All bytes of a member, of one that is larger `max_bytes` + 1 of them; or what is wrong with it."""
    found = bytearray()
    try:
        while len(found) <= max_bytes and (data := file.read(min(1 << 20, max_bytes + 1 - len(found)))):
            found += data
    except BROKEN_ARCHIVE as problem:
        if of_storage(problem):
            raise
        return f"{type(problem).__name__}: {problem}"
    return bytes(found)


def _holds_tar(file: BinaryIO) -> bool:
    begin = b""
    for event, value in unpacked(file):
        begin += value if event in BYTES else b""
        if len(begin) >= HEAD or event == BROKEN:
            break
    file.seek(0)
    return archive(begin) == "a tar archive"


def _zip(file: BinaryIO, most: int) -> Iterator[tuple[str, BinaryIO | str]]:
    with zipfile.ZipFile(file) as found:
        for one in found.infolist():
            if one.is_dir() or _hidden(one.filename):
                continue
            most -= one.file_size
            if most < 0:
                yield one.filename, "the archive unpacks to too many bytes"
                return
            try:
                opened = found.open(one)
            except BROKEN_ARCHIVE as problem:
                if of_storage(problem):
                    raise
                yield one.filename, f"{type(problem).__name__}: {problem}"
                continue
            with opened:
                yield from _one(one.filename, opened)


def _tar(file: BinaryIO, most: int) -> Iterator[tuple[str, BinaryIO | str]]:
    with tarfile.open(fileobj=file, mode="r:") as found:
        for one in found:
            if _hidden(one.name) or not (one.isfile() or one.issparse()):
                continue
            most -= max(0, one.size)
            if most < 0 or one.issparse():
                yield one.name, "a sparse file" if one.issparse() else "the archive unpacks to too many bytes"
                continue
            if (opened := found.extractfile(one)) is not None:
                with opened:
                    yield from _one(one.name, opened)


def _one(name: str, opened: IO[bytes]) -> Iterator[tuple[str, BinaryIO | str]]:
    begin = read(cast(BinaryIO, opened), HEAD)
    if isinstance(begin, str):
        yield name, begin
    elif inner := archive(begin):
        yield name, f"{inner} within an archive: unpack it first"
    else:
        opened.seek(0)
        yield name, cast(BinaryIO, opened)


def _hidden(name: str) -> bool:
    return any(part.startswith(("_", ".")) and part not in (".", "..") for part in name.split("/"))
