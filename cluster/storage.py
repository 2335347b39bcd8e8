"""Files at any URI, written so that a reader never sees half of one.

A URI is a local path or anything fsspec knows (`s3://`, `gs://`, `memory://`). On a local disk a file is written under a
temporary name, flushed and renamed; an object store publishes an object only when its upload has ended.

Requests that an object store refuses (throttling, 5xx) or that are lost on the way are sent again by its client, after
pauses that double and vary; what still fails after that is raised.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partialmethod
from pathlib import Path
from typing import BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

CLIENT_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("azure.core.exceptions", "AzureError"),
)
"""What clients of object stores raise that is no OSError: module and class."""
OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")
"""Schemes that know no folders: their clients would look for the bucket at each write, and make one that is not there."""
S3_ATTEMPTS = 8  # of each request: about half a minute of pauses; AWS_MAX_ATTEMPTS says otherwise


def is_local(uri: str) -> bool:
    """Whether `uri` names a file of this machine: a plain path or `file://`."""
    return "://" not in uri or uri.startswith("file://")


def local(uri: str) -> str:
    """The plain path of a local URI."""
    return uri.removeprefix("file://")


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of `uri` and the path inside it. S3 endpoints come from `AWS_ENDPOINT_URL`."""
    if is_local(uri):  # whatever signs are in it: elsewhere `::` chains file systems
        fs = fsspec.filesystem("file")
        return fs, fs._strip_protocol(uri)
    options: dict[str, object] = {}
    if uri.startswith(("s3://", "s3a://")):
        if os.environ.get("AWS_ENDPOINT_URL"):
            options["endpoint_url"] = os.environ["AWS_ENDPOINT_URL"]
        attempts = int(os.environ.get("AWS_MAX_ATTEMPTS", S3_ATTEMPTS))
        options["config_kwargs"] = {"retries": {"mode": "standard", "max_attempts": attempts}}
        options["use_listings_cache"] = False  # other processes write below the same prefixes
    return fsspec.core.url_to_fs(uri, **options)


def faults() -> tuple[type[Exception], ...]:
    """What reading and writing raise when the storage is at fault: full, gone, or refusing.

    Clients hand some errors on as they are: s3fs those of botocore, and of aiohttp when every answer is cut short."""
    loaded = ((sys.modules.get(module), name) for module, name in CLIENT_ERRORS)
    return (OSError, *(getattr(module, name) for module, name in loaded if module))


def at_fault(error: BaseException) -> bool:
    """Whether an error of reading a file comes from the storage, and not from what the file holds.

    Decoders raise OSError too (gzip, zstd, Parquet), but without the number of a system error."""
    if not isinstance(error, OSError):
        return isinstance(error, faults())
    return error.errno is not None or isinstance(
        error, ConnectionError | FileNotFoundError | PermissionError | TimeoutError
    )


def join(uri: str, *parts: str) -> str:
    """`uri` with path parts appended by `/`."""
    return "/".join([uri.rstrip("/"), *(p.strip("/") for p in parts)])


def exists(uri: str) -> bool:
    fs, path = filesystem(uri)
    return fs.exists(path)


def is_file(uri: str) -> bool:
    fs, path = filesystem(uri)
    return fs.isfile(path)


def size(uri: str) -> int:
    """Bytes of one file, or of all files below a folder; 0 when nothing is there."""
    fs, path = filesystem(uri)
    try:
        info = fs.info(path)  # one request, where exists, isfile and size would be three
    except FileNotFoundError:
        return 0
    return info["size"] if info["type"] == "file" else sum(fs.du(path, total=False).values())


def glob(pattern: str) -> list[str]:
    """The URIs that match `pattern`, sorted. Local results are plain paths."""
    fs, path = filesystem(pattern)
    listed = fs.glob(path, detail=True)  # says what each is, where isfile would be a request for each
    found = sorted(p for p, of in listed.items() if of["type"] == "file" or (of["type"] == "other" and fs.isfile(p)))
    return found if is_local(pattern) else [_uri(pattern, path) for path in found]


def _uri(like: str, path: str) -> str:
    """The URI of a path of the file system of `like`; some, as that of HTTP, know their files by the whole URI."""
    return path if "://" in path else f"{like.split('://', maxsplit=1)[0]}://{path.lstrip('/')}"


def files(place: str) -> dict[str, dict]:
    """The files that are meant by a file, a folder or a glob, by URI in their order, with what the storage says of each.

    What exists under the very name is meant, whatever signs are in it. Of a folder all files below it are, and of a glob that
    matches folders alone those in them, but for names that begin with `_` or `.`: those of Spark, Hive and file managers.
    """
    fs, path = filesystem(place)
    local_ = is_local(place)
    named = local_ or not any(sign in place for sign in "*[" + "?" * (not place.startswith(("http://", "https://"))))
    try:
        found = {path: fs.info(path)} if named else {}
    except (FileNotFoundError, NotADirectoryError):
        found = {}
    if not found and any(sign in path for sign in "*?["):
        found = fs.glob(path, detail=True)
        root = len(re.split(r"[*?\[]", path, maxsplit=1)[0].rpartition("/")[0])
        if not any(map(_aside, path[root:].split("/"))):  # unless the glob asks for them
            found = {name: of for name, of in found.items() if not any(map(_aside, name[root:].split("/")))}
    plain = {
        name: of
        for name, of in found.items()
        if of["type"] == "file" or (of["type"] != "directory" and fs.isfile(name))
    }
    if not plain:
        for folder in found:
            below = fs.find(folder, detail=True)
            root = len(folder.rstrip("/")) + 1
            plain |= {name: of for name, of in below.items() if not any(map(_aside, name[root:].split("/")))}
    return {name if local_ else _uri(place, name): plain[name] for name in sorted(plain)}


def _aside(name: str) -> bool:
    return name.startswith(("_", "."))


def present(uris: Iterable[str]) -> set[str]:
    """Those of `uris` that are there: one listing of each folder, not a request for each file."""
    wanted = set(uris)
    return {found for folder in {uri.rsplit("/", 1)[0] for uri in wanted} for found in glob(f"{folder}/*")} & wanted


def remove(uri: str) -> None:
    """Delete a file or a folder with all that is in it; nothing happens when it is not there."""
    fs, path = filesystem(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def move(uri: str, to: str, last: tuple[str, ...] = ()) -> None:
    """Move a file or a folder with all in it, into what is at `to`; nothing happens when nothing is at `uri`.

    On a disk it is renamed. An object store copies and deletes: the files named in `last` arrive last, in that order, and leave
    first. So after an interruption a folder that has them is whole, and the move can be made again."""
    (fs, path), (_, target) = filesystem(uri), filesystem(to)
    if not fs.exists(path):
        return
    if is_local(uri) and not os.path.lexists(target):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        os.rename(path, target)
        return
    rank = {name: place for place, name in enumerate(last, 1)}
    files = sorted(fs.find(path), key=lambda name: (rank.get(name.rsplit("/", 1)[1], 0), name))
    for name in files:
        copied = target + name[len(path) :]
        if uri.split("://", maxsplit=1)[0] not in OBJECT_STORES:
            fs.makedirs(fs._parent(copied), exist_ok=True)
        fs.cp_file(name, copied)
    for name in reversed(files):
        fs.rm_file(name)
    if fs.exists(path):  # folders that are empty now
        fs.rm(path, recursive=True)


UNFINISHED = re.compile(r"\.[a-z0-9_]{8}\.(tmp|old)$")
"""How the functions below call a local file or folder until it is whole, and a folder that is replaced."""


@contextmanager
def atomic(uri: str) -> Iterator[str]:
    """Give a local path to write; when the block ends well, its content is at `uri` at once, else nothing is."""
    if is_local(uri):
        target = Path(local(uri))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            yield str(temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "file")
            yield path
            fs, remote = filesystem(uri)
            _put(fs, path, remote, uri)


def remove_unfinished(uri: str) -> None:
    """Remove what writers that were killed have left below a local folder that is complete: nobody may be writing there."""
    if is_local(uri):
        for path in [path for path in Path(local(uri)).rglob("*.*") if UNFINISHED.search(path.name)]:
            remove(str(path))


def _put(fs: fsspec.AbstractFileSystem, path: str, remote: str, uri: str) -> None:
    if uri.split("://", maxsplit=1)[0] not in OBJECT_STORES:
        fs.makedirs(fs._parent(remote), exist_ok=True)
    fs.put_file(path, remote)


def write_bytes(uri: str, data: bytes) -> None:
    with atomic(uri) as path:
        Path(path).write_bytes(data)


def read_bytes(uri: str) -> bytes:
    fs, path = filesystem(uri)
    return fs.cat_file(path)


def write_text(uri: str, text: str) -> None:
    write_bytes(uri, text.encode())


def write_json(uri: str, value: object) -> None:
    """Indented JSON, keys in the order given, non-ASCII letters as they are."""
    write_text(uri, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def create_json(uri: str, value: object) -> bool:
    """Write `value` where nothing is yet, in one step: False where something is. A store that knows no such step is asked
    before."""
    data = (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()
    fs, path = filesystem(uri)
    if is_local(uri):
        return _create(path, data)
    if fs.exists(path):
        return False
    if uri.split("://", maxsplit=1)[0] not in OBJECT_STORES:
        fs.makedirs(fs._parent(path), exist_ok=True)
    try:
        fs.pipe_file(path, data, mode="create")
    except faults():  # what a refused condition is called differs
        if fs.exists(path):
            return False
        raise
    return True


def _create(path: str, data: bytes) -> bool:
    """A local file, whole from its first moment on; where links are unknown it is empty in that moment."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        Path(temporary).write_bytes(data)
        os.link(temporary, path)  # unlike a rename it fails where there is a file
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        try:
            with open(path, "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
    finally:
        Path(temporary).unlink(missing_ok=True)
    return True


def read_json(uri: str) -> dict:
    return json.loads(read_bytes(uri))


def write_table(uri: str, table: pa.Table) -> None:
    """One Parquet file (zstd). Equal tables give equal bytes."""
    with atomic(uri) as path:
        pq.write_table(table, path, compression="zstd")


@contextmanager
def parquet_writer(uri: str, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A Parquet writer whose file appears at `uri` only when the block ends well."""
    with atomic(uri) as path, pq.ParquetWriter(path, schema, compression="zstd") as writer:
        yield writer


class ParquetOfPython(pq.ParquetFile):
    """A Parquet file that is read through a file object of Python, without Arrow's threads: one of them may free the object's
    last bytes after the interpreter has ended, and that aborts the process."""

    read = partialmethod(pq.ParquetFile.read, use_threads=False)
    read_row_group = partialmethod(pq.ParquetFile.read_row_group, use_threads=False)
    read_row_groups = partialmethod(pq.ParquetFile.read_row_groups, use_threads=False)
    iter_batches = partialmethod(pq.ParquetFile.iter_batches, use_threads=False)


@contextmanager
def opened(uri: str) -> Iterator[BinaryIO]:
    """A file open for reading, in which one can seek: what lies at an http(s) address is fetched first, as not every server
    gives parts of a file. The copy is gone when the block ends."""
    fs, path = filesystem(uri)
    if not uri.startswith(("http://", "https://")):
        with fs.open(path, "rb") as file:
            yield file
        return
    with tempfile.TemporaryDirectory(prefix="pinisi-") as folder:
        copy = os.path.join(folder, "file")
        fs.get_file(path, copy)
        with open(copy, "rb") as file:
            yield file


@contextmanager
def open_parquet(uri: str) -> Iterator[pq.ParquetFile]:
    if is_local(uri):
        with pq.ParquetFile(local(uri)) as parquet:
            yield parquet
        return
    fs, path = filesystem(uri)
    with fs.open(path, "rb") as file, ParquetOfPython(file) as parquet:
        yield parquet


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """One Parquet file, or all `part-*.parquet` of a folder in the order of their names."""
    if not uri.endswith(".parquet"):
        parts = glob(join(uri, "part-*.parquet"))
        if not parts:
            raise FileNotFoundError(f"no part-*.parquet in {uri}")
        return pa.concat_tables([read_table(part, columns) for part in parts])
    with open_parquet(uri) as parquet:
        return parquet.read(columns)


_downloading = threading.Lock()


@cache
def _download_root() -> str:
    folder = tempfile.mkdtemp(prefix="pinisi-")
    atexit.register(_remove_downloads, folder, os.getpid())
    return folder


def _remove_downloads(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a fork that ends leaves them to its parent
        shutil.rmtree(folder, ignore_errors=True)


def localize(uri: str) -> str:
    """A local path with the file or folder at `uri`: the path itself, or a copy fetched once per process, gone at its end."""
    if is_local(uri):
        return local(uri)
    fs, path = filesystem(uri)
    target = Path(_download_root()) / uuid.uuid5(uuid.NAMESPACE_URL, uri).hex
    with _downloading:
        if not target.exists():
            partial = Path(tempfile.mkdtemp(dir=_download_root())) / "copy"  # anew, as a try may break off
            fs.get(path, str(partial), recursive=True)
            partial.rename(target)
    return str(target)


@contextmanager
def atomic_folder(uri: str) -> Iterator[str]:
    """Give an empty local folder to fill; when the block ends well, it replaces what was at `uri`."""
    if is_local(uri):
        target = Path(local(uri))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        old = temporary.with_suffix(".old")
        try:
            yield str(temporary)
            temporary.chmod(0o755)
            if target.exists():
                target.rename(old)  # deleted in place, it would be half there for as long as that takes
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield folder
            remove(uri)
            fs, path = filesystem(uri)
            for file in sorted(Path(folder).rglob("*")):
                if file.is_file():
                    _put(fs, str(file), f"{path}/{file.relative_to(folder).as_posix()}", uri)
