"""Parts of files at a base address (https, s3, or any file system), politely and exactly.

Every request waits for the rate limit. An answer that ends early is continued at the byte where it broke; a dropped
connection, silence, a trickle and a 5xx are tried again after a random wait (exponential back-off with full jitter); 429 and
503 slow every reader down, for as long as `Retry-After` says; 401 and 403 stop all of them.
"""

from __future__ import annotations

import email.utils
import random
import sys
import threading
import time
from dataclasses import dataclass

from cluster import storage
from cluster.fetch import s3_request
from cluster.fetch.rate import Blocked, Limiter

USER_AGENT = "pinisi/0.1"
CHUNK = 1 << 16
SLOWEST_BYTES_PER_SECOND = (
    100_000  # an answer that takes longer than its time-out and its bytes at this speed is continued
)
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 60.0
DEFAULT_PAUSE_SECONDS = 1.0  # after 429 or 503 without Retry-After: the least that Common Crawl asks for
SLOW_DOWN = (429, 503)
TEMPORARY = (408, 500, 502, 504, *SLOW_DOWN)
LEASE_MARGIN_SECONDS = 5.0
SAID_AFTER = 3  # failures in a row: one line, so that nobody waits in front of a silent screen
UNSTATED_BYTES = 1 << 20  # what a request is charged whose answer has no known length


class Missing(ValueError):
    """The base has no such file."""


class OutOfRange(ValueError):
    """The file is shorter than the part that was asked for."""


class _TryAgain(Exception):
    """A fault that may pass. `pause` is set where the host asked for less: seconds."""

    def __init__(self, reason: str, pause: float | None = None):
        super().__init__(reason)
        self.pause = pause


@dataclass(frozen=True)
class Access:
    """How a base is reached. `base` is a URL, `s3://bucket/prefix`, or a folder at any URI."""

    base: str
    timeout_seconds: float = 60.0
    attempts: int = 10  # without one new byte in between
    contact: str = ""  # goes into the User-Agent, so that the host can write instead of blocking
    anonymous: bool = False  # s3 without a signature
    region: str = "us-east-1"
    first_wait_seconds: float = FIRST_WAIT_SECONDS


class Fetcher:
    """Reads files below `access.base`. May be used by many threads at a time.

    Every method raises Missing, OutOfRange, Blocked, or ValueError with a sentence for the user when the base cannot be read.
    """

    def __init__(self, access: Access, limiter: Limiter | None):
        self.access, self._limiter = access, limiter
        self._threads = threading.local()
        self._web = access.base.startswith(("http://", "https://", "s3://"))
        assert limiter is not None or not self._web, "a web address is never read without a rate limit"

    @property
    def _limit(self) -> Limiter:
        assert self._limiter is not None, "asked only where the base is a web address"
        return self._limiter

    def part(self, path: str, start: int, n_bytes: int) -> bytes:
        """`n_bytes` bytes of a file from `start`."""
        data = self.some(path, start, n_bytes)
        if len(data) < n_bytes:
            raise OutOfRange(f"{path} ends {n_bytes - len(data)} bytes before byte {start + n_bytes}")
        return data

    def some(self, path: str, start: int, n_bytes: int) -> bytes:
        """`n_bytes` bytes of a file from `start`, or as many as there are before its end."""
        return self._read(path, start, n_bytes)[0] if n_bytes else b""  # no header says an empty range

    def tail(self, path: str, n_bytes: int) -> tuple[bytes, int]:
        """The last `n_bytes` bytes of a file, or all of a shorter one, and the file's size."""
        return self._read(path, -n_bytes, n_bytes)

    def whole(self, path: str) -> bytes:
        """All bytes of a small file."""
        return self._read(path, 0, None)[0]

    def download(self, path: str, target: str, block_bytes: int) -> None:
        """Copy a file to the local path `target`, `block_bytes` at a request."""
        position, total = 0, 1
        with open(target, "wb") as file:
            while position < total:
                data, total = self._read(path, position, block_bytes)
                file.write(data)
                position += len(data)

    def _read(self, path: str, start: int, n_bytes: int | None) -> tuple[bytes, int]:
        """(bytes, size of the file); fewer bytes than wanted only where the file ends."""
        one = self._web_once if self._web else self._file_once
        span = _Span(start, n_bytes)
        failures = 0
        while True:
            before = len(span.got)
            try:
                one(path, span)
                return bytes(span.got), span.size
            except _TryAgain as trouble:
                failures = 1 if len(span.got) > before else failures + 1
                if failures >= self.access.attempts:
                    raise ValueError(
                        f"{self.access.base}: {path}: {failures} attempts in a row failed, the last with: {trouble}; "
                        "what was fetched is kept, and the same command continues"
                    ) from None
                if failures == SAID_AFTER and self._web:
                    text = f"no good answer of {self.access.base} so far ({str(trouble).partition(':')[0]})"
                    print(f"pinisi: {text}; trying again for a while, Ctrl-C stops", file=sys.stderr, flush=True)
                if trouble.pause is not None:
                    self._limit.pause(trouble.pause)
                longest = min(LONGEST_WAIT_SECONDS, self.access.first_wait_seconds * 2 ** (failures - 1))
                time.sleep(random.uniform(0, longest))

    def _file_once(self, path: str, span: _Span) -> None:
        fs, root = storage.filesystem(self.access.base)
        name = f"{root.rstrip('/')}/{path}"
        try:
            span.size = fs.size(name)
            first = max(0, span.size + span.start) if span.start < 0 else span.start
            end = span.size if span.n_bytes is None else min(span.size, first + span.n_bytes)
            if first > span.size:
                raise OutOfRange(f"{path} has {span.size} bytes, none from byte {first}")
            span.got += fs.cat_file(name, start=first, end=end) if end > first else b""
        except FileNotFoundError:
            raise Missing(f"{self.access.base} has no file {path}") from None
        except PermissionError as error:
            raise Blocked(f"{self.access.base}: {path} may not be read: {error}") from None
        except storage.faults() as error:
            raise _TryAgain(f"{type(error).__name__}: {error}") from None

    def _web_once(self, path: str, span: _Span) -> None:
        import requests
        import urllib3

        address = f"{self.access.base.rstrip('/')}/{path}"
        headers = {"Accept-Encoding": "identity", **span.header()}
        if address.startswith("s3://"):
            address = s3_request.url(address, self.access.region)
            if not self.access.anonymous:
                headers = s3_request.signed_headers(address, self.access.region, headers)
        expected = UNSTATED_BYTES if span.n_bytes is None else span.n_bytes - len(span.got)
        seconds = self.access.timeout_seconds + expected / SLOWEST_BYTES_PER_SECOND
        lease = self._limit.ask(expected, seconds + self.access.timeout_seconds + LEASE_MARGIN_SECONDS)
        deadline = time.monotonic() + seconds
        try:
            with self._session().get(
                address, headers=headers, stream=True, timeout=self.access.timeout_seconds
            ) as answer:
                self._check_status(answer, path)
                wanted = span.begin(answer, path)
                answer.raw.enforce_content_length = False  # a short answer is kept and continued
                while len(span.got) < wanted:
                    if time.monotonic() > deadline:
                        raise _TryAgain(f"less than {SLOWEST_BYTES_PER_SECOND:,} bytes a second")
                    chunk = answer.raw.read1(min(CHUNK, wanted - len(span.got)), decode_content=False)
                    if not chunk:
                        raise _TryAgain(f"the answer ended after {len(span.got):,} of {wanted:,} bytes")
                    span.got += chunk
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _TryAgain(f"{type(error).__name__}: {error}") from None
        finally:
            self._limit.done(lease)

    def _session(self):
        """One connection a thread, kept open. Proxies and certificates come from the environment."""
        if not hasattr(self._threads, "session"):
            import requests

            session = requests.Session()
            session.headers["User-Agent"] = (
                f"{USER_AGENT} ({self.access.contact})" if self.access.contact else USER_AGENT
            )
            self._threads.session = session
        return self._threads.session

    def _check_status(self, answer, path: str) -> None:
        status, base = answer.status_code, self.access.base
        if status in (200, 206):
            return
        if status in (401, 403):
            self._limit.stop(
                f"{base} answered {status} for {path}: this address is blocked, or may not read there (s3:// needs "
                "credentials; a file that does not exist may be refused in the same way); stop for some hours, lower "
                "fetch.requests_per_second, then run the same command, which continues with what is fetched"
            )
            self._limit.ask(0, 0.0)
        if status in (404, 410):
            raise Missing(f"{base} has no file {path}")
        if status == 416:
            raise OutOfRange(f"{path} is shorter than the part that was asked for")
        if status in TEMPORARY:
            pause = _retry_after(answer.headers.get("Retry-After")) if status in SLOW_DOWN else None
            raise _TryAgain(f"status {status}", pause)
        raise ValueError(f"{base} answered {status} for {path}; is it Common Crawl or a mirror with the same layout?")


class _Span:
    """The part of a file that is wanted (`start` below 0 counts from the end, `n_bytes` None is all) and what came of it."""

    def __init__(self, start: int, n_bytes: int | None):
        self.start, self.n_bytes = start, n_bytes
        self.got = bytearray()
        self.size = 0

    def header(self) -> dict[str, str]:
        if self.start < 0:
            return {"Range": f"bytes={self.start}"}
        if self.n_bytes is None:
            return {}
        return {"Range": f"bytes={self.start + len(self.got)}-{self.start + self.n_bytes - 1}"}

    def begin(self, answer, path: str) -> int:
        """Take sizes from the head of an answer, and give `n_bytes`. From here on it and `start` are exact, so the part can be
        continued."""
        if answer.status_code == 200:
            if self.header():
                raise ValueError(f"the server of {path} does not answer range requests; choose another fetch.base")
            length = answer.headers.get("Content-Length")
            if length is None:
                raise ValueError(f"the server of {path} does not say how long it is; choose another fetch.base")
            self.n_bytes = self.size = int(length)
            return self.n_bytes
        if self.n_bytes is None:
            raise _TryAgain("a part of a file that was asked for as a whole")
        unit, _, rest = answer.headers.get("Content-Range", "").partition(" ")
        bounds, _, size = rest.partition("/")
        first, _, last = bounds.partition("-")
        if unit != "bytes" or not (first.isdigit() and last.isdigit() and size.isdigit()):
            raise _TryAgain("a part of a file without Content-Range")
        if self.start < 0:
            self.start = int(first)
        if int(first) != self.start + len(self.got) or (self.got and int(size) != self.size):
            raise _TryAgain("another part of the file than was asked for")
        self.size = int(size)
        self.n_bytes = min(self.n_bytes, self.size - self.start)  # a shorter answer than this is continued
        return self.n_bytes


def _retry_after(header: str | None) -> float:
    """Seconds that `Retry-After` asks for, as a number or a date (RFC 9110 section 10.2.3), an hour at most."""
    if not header:
        return DEFAULT_PAUSE_SECONDS
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (TypeError, ValueError):
            seconds = DEFAULT_PAUSE_SECONDS
    return min(3600.0, max(0.0, seconds))


class RemoteFile:
    """A file below a fetcher's base as a seekable, readable object: one request a read, its end read once and kept.

    For formats that are read from the end, such as Parquet.
    """

    def __init__(self, fetcher: Fetcher, path: str, tail_bytes: int = 1 << 18):
        self._fetcher, self.name = fetcher, path
        self._end, self._size = fetcher.tail(path, tail_bytes)
        self._position = 0
        self.closed = False

    def size(self) -> int:
        return self._size

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def read(self, n_bytes: int = -1) -> bytes:
        first = min(self._position, self._size)
        n_bytes = self._size - first if n_bytes is None or n_bytes < 0 else min(n_bytes, self._size - first)
        kept = first - (self._size - len(self._end))
        data = self._end[kept : kept + n_bytes] if kept >= 0 else self._fetcher.part(self.name, first, n_bytes)
        self._position = first + n_bytes
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True


__all__ = ["Access", "Fetcher", "Missing", "OutOfRange", "RemoteFile"]
