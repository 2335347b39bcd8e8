"""A small Common Crawl on disk, made here, and an HTTP server of it that misbehaves as told and writes down what it saw.

`build` writes whole snapshots: WARC and WET files, lists of files, the columnar index and the CDXJ index. `Server` answers
range requests; its `fault(path, start, attempt)` may name a fault for each request.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

WORDS = {
    "khm": "ទូក ក្ដោង ឆ្លង ទន្លេ នៅ ពេល ព្រឹក ខ្យល់ ត្រី បាយ",
    "lao": "ເຮືອ ໃບ ຂ້າມ ນ້ຳ ຕອນ ເຊົ້າ ລົມ ປາ ເຂົ້າ",
    "mya": "ရွက်လှေ မြစ် ဖြတ် မနက် လေ ငါး ထမင်း",
    "ind": "perahu layar melintasi selat pada pagi hari angin ikan beras",
    "eng": "the boat sails across the strait in the morning wind with fish",
}
HOSTS = {
    "khm": ["www.news.com.kh", "shop.kh", "khmer.example.org"],
    "lao": ["lao.gov.la", "blog.la"],
    "mya": ["news.mm", "mm.example.com"],
    "ind": ["www.berita.co.id", "toko.id", "ind.example.com"],
    "eng": ["example.com", "www.example.org", "boats.co.uk"],
}


@dataclass
class Page:
    """One capture. `languages` is what the index says of it."""

    url: str
    body: bytes
    languages: str | None
    status: int = 200
    mime: str = "text/html"


@dataclass
class Snapshot:
    name: str
    files: list[list[Page]]  # of each WARC file
    says_languages: bool = True


def pages(n: int, seed: int = 0, kilobytes: float = 4.0) -> list[Page]:
    """Pages in five languages; every eighth is a PDF, a page not found, or in two languages."""
    chance = random.Random(seed)
    result = []
    for i in range(n):
        language = chance.choice(list(WORDS))
        words = WORDS[language].split()
        noise = chance.randbytes(int(chance.expovariate(1 / (500 * kilobytes)))).hex()  # does not compress to nothing
        text = " ".join(chance.choice(words) for _ in range(60))
        body = f"<html><body><p>{text}</p><!-- {noise} --></body></html>".encode()
        scheme, host = chance.choice(["http", "https"]), chance.choice(HOSTS[language])
        page = Page(f"{scheme}://{host}/page/{seed}-{i}?q={i % 3}", body, language)
        kind = i % 8
        if kind == 3:
            page.mime, page.body = "application/pdf", b"%PDF-1.7 " + body
        elif kind == 5:
            page.status = 404
        elif kind == 6:
            page.languages = f"eng,{language}" if language != "eng" else None
        result.append(page)
    return result


SOURCE = Path(__file__).parents[1] / "sample" / "source"
COUNTRIES = {"km": "com.kh", "lo": "la", "my": "com.mm"}
CODES = {"km": "khm", "lo": "lao", "my": "mya", "fr": "fra", "nl": "nld", "tr": "tur"}


def prose() -> list[Page]:
    """The pages of sample/source in three languages, in the shells of their sites, on hosts of their countries."""
    result = []
    for lang, country in COUNTRIES.items():
        for path in sorted((SOURCE / lang / "pages").glob("*.html")):
            lines, body = path.read_text("utf-8").removeprefix("---\n").split("\n---\n", 1)
            head = dict(line.split(": ", 1) for line in lines.splitlines())
            url = head["url"].replace(".example", f".{country}")
            html = (SOURCE / lang / "sites" / f"{head['site']}.html").read_text("utf-8")
            for name, value in {"title": head["title"], "url": url, "date": head.get("date", ""), "main": body}.items():
                html = html.replace(f"{{{{{name}}}}}", value)
            result.append(Page(url, html.encode(), CODES[head["lang"]]))
    return result


def build(root: Path, snapshots: Iterable[Snapshot]) -> None:
    """Write the snapshots below `root`."""
    for snapshot in snapshots:
        captures, warcs, wets = [], [], []
        for number, content in enumerate(snapshot.files):
            for subset in ("warc", "crawldiagnostics"):
                chosen = [page for page in content if (page.status == 200) == (subset == "warc")]
                folder = f"crawl-data/{snapshot.name}/segments/1700000000000.{number % 2}/{subset}"
                path = f"{folder}/{snapshot.name}-{number:05d}.warc.gz"
                places = _write_warc(root / path, chosen, f"{snapshot.name}-{number}")
                captures += [(page, path, *place) for page, place in zip(chosen, places, strict=True)]
                if subset == "warc":
                    warcs.append(path)
            wets.append(warcs[-1].replace("/warc/", "/wet/").replace(".warc.gz", ".warc.wet.gz"))
            _write_wet(root / wets[-1], content, f"{snapshot.name}-{number}")
        index(
            root, snapshot.name, sorted(captures, key=lambda c: (surt(c[0].url), c[1], c[2])), snapshot.says_languages
        )
        listing(root, snapshot.name, "warc.paths.gz", warcs)
        listing(root, snapshot.name, "wet.paths.gz", wets)


def listing(root: Path, snapshot: str, name: str, paths: list[str]) -> None:
    _write(root / f"crawl-data/{snapshot}/{name}", gzip.compress("".join(f"{p}\n" for p in paths).encode(), mtime=0))


def index(
    root: Path, snapshot: str, captures: list[tuple[Page, str, int, int, str]], says_languages: bool = True
) -> None:
    """Both indexes of captures (page, file, offset, length, digest), which are in order of their SURT."""
    tables, blocks = [], []
    for subset in ("warc", "crawldiagnostics"):
        chosen = [c for c in captures if f"/{subset}/" in c[1]]
        third = -(-len(chosen) // 3) or 1
        for part in range(3):
            path = f"cc-index/table/cc-main/warc/crawl={snapshot}/subset={subset}/part-{part:05d}.c000.gz.parquet"
            table = _table(chosen[part * third : (part + 1) * third])
            if not says_languages:
                table = table.drop_columns(["content_languages"])
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, root / path, compression="gzip", row_group_size=8)
            tables.append(path)
    folder = f"cc-index/collections/{snapshot}/indexes"
    half = -(-len(captures) // 2)
    for number in range(2):
        data = b""
        mine = captures[number * half : (number + 1) * half]
        for start in range(0, len(mine), 6):
            lines = [_cdxj(capture, says_languages) for capture in mine[start : start + 6]]
            block = gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)
            first = " ".join(lines[0].split(" ")[:2])
            blocks.append(f"{first}\tcdx-{number:05d}.gz\t{len(data)}\t{len(block)}\t{len(blocks) + 1}\n")
            data += block
        _write(root / folder / f"cdx-{number:05d}.gz", data)
    _write(root / folder / "cluster.idx", "".join(blocks).encode())
    listing(root, snapshot, "cc-index-table.paths.gz", tables)
    names = ["cdx-00000.gz", "cdx-00001.gz", "cluster.idx", "metadata.yaml"]
    listing(root, snapshot, "cc-index.paths.gz", [f"{folder}/{name}" for name in names])


def surt(url: str) -> str:
    parts = urlsplit(url)
    labels = parts.hostname.removeprefix("www.").split(".")
    return f"{','.join(reversed(labels))}){parts.path}{'?' + parts.query if parts.query else ''}".lower()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _record(kind: str, name: str, url: str, content_type: str, block: bytes, *headers: str) -> bytes:
    lines = [
        "WARC/1.0",
        f"WARC-Type: {kind}",
        f"WARC-Record-ID: <urn:uuid:{kind}-{name}>",
        "WARC-Date: 2024-04-18T01:58:10Z",
    ]
    lines += [f"WARC-Target-URI: {url}", f"Content-Type: {content_type}", *headers, f"Content-Length: {len(block)}"]
    return gzip.compress("\r\n".join(lines).encode() + b"\r\n\r\n" + block + b"\r\n\r\n", mtime=0)


def _digest(data: bytes) -> str:
    return base64.b32encode(hashlib.sha1(data).digest()).decode()


def _write_warc(path: Path, content: list[Page], name: str) -> list[tuple[int, int, str]]:
    """(offset, length, digest) of each page's response, between its request and its metadata as Common Crawl has them."""
    data = bytearray(_record("warcinfo", name, "", "application/warc-fields", b"software: pinisi tests\r\n"))
    places = []
    for i, page in enumerate(content):
        one = f"{name}-{i}"
        data += _record("request", one, page.url, "application/http; msgtype=request", b"GET / HTTP/1.1\r\n\r\n")
        digest = _digest(page.body)
        head = f"HTTP/1.1 {page.status} OK\r\nContent-Type: {page.mime}; charset=utf-8\r\n\r\n".encode()
        header = f"WARC-Payload-Digest: sha1:{digest}"
        response = _record("response", one, page.url, "application/http; msgtype=response", head + page.body, header)
        places.append((len(data), len(response), digest))
        data += response + _record("metadata", one, page.url, "application/warc-fields", b"fetchTimeMs: 12\r\n")
    _write(path, bytes(data))
    return places


def _write_wet(path: Path, content: list[Page], name: str) -> None:
    data = bytearray(_record("warcinfo", name, "", "application/warc-fields", b"software: pinisi tests\r\n"))
    for i, page in enumerate(content):
        if page.status == 200 and page.mime == "text/html":
            text = page.body.decode().partition("<p>")[2].partition("</p>")[0].encode()
            said = [f"WARC-Identified-Content-Language: {page.languages}"] if page.languages else []
            data += _record("conversion", f"{name}-{i}", page.url, "text/plain", text, *said)
    _write(path, bytes(data))


def _cdxj(capture: tuple[Page, str, int, int, str], says_languages: bool) -> str:
    page, path, offset, length, digest = capture
    fields = {
        "url": page.url,
        "mime": page.mime,
        "mime-detected": page.mime,
        "status": str(page.status),
        "digest": digest,
    }
    fields |= {"length": str(length), "offset": str(offset), "filename": path}
    if page.languages and says_languages:
        fields |= {"charset": "UTF-8", "languages": page.languages}
    return f"{surt(page.url)} 20240418015810 {json.dumps(fields)}"


def _table(captures: list[tuple[Page, str, int, int, str]]) -> pa.Table:
    columns = {
        "url_surtkey": [surt(c[0].url) for c in captures],
        "url": [c[0].url for c in captures],
        "url_host_name": [urlsplit(c[0].url).hostname for c in captures],
        "url_host_tld": [urlsplit(c[0].url).hostname.rsplit(".", 1)[-1] for c in captures],
        "fetch_status": pa.array([c[0].status for c in captures], pa.int16()),
        "content_digest": [c[4] for c in captures],
        "content_mime_type": [c[0].mime for c in captures],
        "content_mime_detected": pa.array([c[0].mime for c in captures], pa.string()),
        "content_languages": pa.array([c[0].languages for c in captures], pa.string()),
        "warc_filename": [c[1] for c in captures],
        "warc_record_offset": pa.array([c[2] for c in captures], pa.int32()),
        "warc_record_length": pa.array([c[3] for c in captures], pa.int32()),
    }
    return pa.table({name: pa.array(v, pa.string()) if isinstance(v, list) else v for name, v in columns.items()})


Fault = Callable[[str, int, int], str | None]
"""(path, first byte, how many requests for it came before) -> a name below, or None for a good answer."""

FAULTS = ("503", "429", "500", "short", "drop", "corrupt", "slow", "trickle")


def faults(share: float, kinds: tuple[str, ...] = FAULTS, times: int = 1, seed: int = 0) -> Fault:
    """A share of all first requests, chosen by a hash, meets a fault, and so do the next ones up to `times`."""

    def fault(path: str, start: int, attempt: int) -> str | None:
        chance = random.Random(f"{seed} {path} {start} {attempt}")
        return chance.choice(kinds) if attempt < times and chance.random() < share else None

    return fault


@dataclass
class Seen:
    """One request, as the server saw it. `together` counts it and those that it was still answering then."""

    seconds: float
    path: str
    start: int
    status: int
    sent: int
    together: int
    agent: str


@dataclass
class Server:
    """Serves the files below `root` on loopback; a context manager. `log` holds every request in the order of arrival."""

    root: Path
    fault: Fault = lambda path, start, attempt: None
    slow_seconds: float = 3.0  # longer than the time-out of the client
    latency_seconds: float = 0.0
    log: list[Seen] = field(default_factory=list)

    def __enter__(self) -> Server:
        self._lock = threading.Lock()
        self._attempts: Counter = Counter()
        self._open = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def most_in(self, seconds: float) -> int:
        """The most requests that arrived within any such time."""
        times = sorted(seen.seconds for seen in self.log)
        first = most = 0
        for last, now in enumerate(times):
            while now - times[first] > seconds:
                first += 1
            most = max(most, last - first + 1)
        return most

    def _arrived(self, path: str, start: int, agent: str) -> tuple[Seen, str | None]:
        with self._lock:
            self._open += 1
            seen = Seen(time.monotonic(), path, start, 0, 0, self._open, agent)
            self.log.append(seen)
            attempt = self._attempts[path, start]
            self._attempts[path, start] += 1
        return seen, self.fault(path, start, attempt)

    def _handler(site) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = unquote(self.path).lstrip("/")
                span = self.headers.get("Range", "")
                low, _, high = span.removeprefix("bytes=").partition("-")
                seen, fault = site._arrived(path, int(low or -1), self.headers.get("User-Agent", ""))
                time.sleep(site.latency_seconds)
                try:
                    seen.status = self.answer(path, low, high, fault, seen)
                except OSError:
                    self.close_connection = True
                finally:
                    with site._lock:
                        site._open -= 1

            def answer(self, path: str, low: str, high: str, fault: str | None, seen: Seen) -> int:
                if fault and fault.isdigit():
                    return self.refuse(int(fault), {"Retry-After": "0.3"} if fault in ("503", "429") else {})
                file = site.root / path
                if not file.is_file():
                    return self.refuse(404)
                data = file.read_bytes()
                size = len(data)
                status, headers = 200, {}
                if low or high:
                    first = int(low) if low else max(0, size - int(high))
                    end = min(size, int(high) + 1) if low and high else size
                    if first >= size:
                        return self.refuse(416)
                    data = data[first:end]
                    status, headers = 206, {"Content-Range": f"bytes {first}-{end - 1}/{size}"}
                if fault == "slow":
                    time.sleep(site.slow_seconds)
                self.send_response(status)
                for name, value in {"Content-Length": len(data), **headers}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.send(data, fault, seen)
                return status

            def send(self, data: bytes, fault: str | None, seen: Seen) -> None:
                middle = len(data) // 2
                if fault == "corrupt":
                    data = data[:middle] + bytes([data[middle] ^ 0x55]) + data[middle + 1 :]
                elif fault in ("short", "drop"):
                    data = data[:middle]
                    self.close_connection = True
                elif fault == "trickle":
                    for at in range(min(60, len(data))):
                        self.wfile.write(data[at : at + 1])
                        self.wfile.flush()
                        time.sleep(0.05)
                    data = data[60:]
                self.wfile.write(data)
                seen.sent = len(data)
                if fault == "drop":
                    self.wfile.flush()
                    time.sleep(0.05)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()

            def refuse(self, status: int, headers: dict | None = None) -> int:
                self.send_response(status)
                for name, value in {"Content-Length": "0", **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                return status

            def log_message(self, *arguments) -> None: ...

        return Handler
