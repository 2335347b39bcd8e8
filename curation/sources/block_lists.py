"""URL and domain block lists: plain text files that the user supplies, one entry a line, looked up by hash.

Domain lists: an entry blocks its host and every subdomain (`example.com` blocks `a.b.example.com`, not `notexample.com`).
A leading `*.`, `.` or `www.`, and the address in front of a name in a hosts file (`0.0.0.0 example.com`), do not count.
URL lists: an entry blocks its page and all below it (`example.com/shop` blocks `/shop/1?a=b`, not `/shopping`), an entry
with a query that query alone; both are compared as `curation.text.urls.normalise` writes them, so without scheme and `www.`.
Internationalised names are compared in punycode. `#` starts a comment at the start of a line or after a space.

Entries are sorted uint64 hashes, 8 bytes each: lists of millions fit. Two names of 64 random bits are the same once in
2^64 / (entries x URLs): with 5 million entries and 10^9 URLs 0.0003 pages are expected to be blocked wrongly.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from cluster import storage
from cluster.shards import ledger_rows
from curation.text.units import PRIME, SEED, mix, text_buffers
from curation.text.urls import normalise

_KEPT = "".join(map(chr, range(0x21, 0x7F)))  # a browser sends all else of a path as percent escapes
MAX_HOST_BYTES, MAX_LABEL_CHARS = 1024, 63  # what is longer is no name, and slow to write in punycode
MAX_PAGE_CHARS = 8192  # of a URL that are compared
_FREE, _DOMAIN, _LISTED_HOST, _NOT_ASCII = range(4)  # what the kernel says of a URL


@dataclass(frozen=True)
class BlockLists:
    """Sorted hashes, uint64: of blocked domains, of blocked pages, and of the hosts that the pages lie on."""

    domains: np.ndarray
    pages: np.ndarray
    page_hosts: np.ndarray


def load(domain_files: Sequence[str], url_files: Sequence[str]) -> BlockLists:
    """Read lists (plain or `.gz`, any URI). Raises ValueError naming the file and an entry that is not a name or URL."""
    none = np.zeros(0, np.uint64)
    domains = [_domain_hashes(uri) for uri in domain_files]
    pages = [_page_hashes(uri) for uri in url_files]
    return BlockLists(
        np.unique(np.concatenate([none, *domains])),
        np.unique(np.concatenate([none, *(page for page, _ in pages)])),
        np.unique(np.concatenate([none, *(host for _, host in pages)])),
    )


def block(batch: pa.RecordBatch, lists: BlockLists) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Split records by their `url`: (those not blocked, ledger rows `blocked_domain` or `blocked_url` of the others).

    The ledger's detail is the part of the host, or of the URL, that is listed. A record without a URL is not blocked.
    """
    state, starts, ends = _look_up(batch["url"], lists)
    drops: dict[int, tuple[str, str]] = {}
    for row in np.flatnonzero(state).tolist():
        url = batch["url"][row].as_py()
        if state[row] == _DOMAIN:
            raw = url.encode("utf-8", "surrogatepass")
            drops[row] = "blocked_domain", raw[starts[row] : ends[row]].decode("utf-8", "replace").lower()
            continue
        page = _page(url)
        if state[row] == _NOT_ASCII and (domain := _listed_domain(page, lists)):
            drops[row] = "blocked_domain", domain
        elif listed := _listed_page(page, lists):
            drops[row] = "blocked_url", listed
    if not drops:
        return batch, ledger_rows("crawl", [])
    keep = np.ones(batch.num_rows, bool)
    keep[list(drops)] = False
    ids, urls = batch["doc_id"], batch["url"]
    rows = [
        {"doc_id": ids[row].as_py(), "url": urls[row].as_py(), "rule": rule, "detail": detail}
        for row, (rule, detail) in drops.items()
    ]
    return batch.filter(pa.array(keep)), ledger_rows("crawl", rows)


def _look_up(urls: pa.Array, lists: BlockLists) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data, offsets = text_buffers(urls)
    n = len(offsets) - 1
    state, starts, ends = np.zeros(n, np.uint8), np.zeros(n, np.int64), np.zeros(n, np.int64)
    _classify(data, offsets, lists.domains, lists.page_hosts, state, starts, ends)
    return state, starts, ends


def _entries(uri: str) -> pa.Array:
    """The entries of a list: comments, space around them and empty lines gone."""
    raw = storage.read_bytes(uri)
    lines = (gzip.decompress(raw) if uri.endswith(".gz") else raw).decode("utf-8-sig", "replace").splitlines()
    text = pc.replace_substring_regex(pa.array(lines, pa.large_string()), r"(^|\s)#.*$", "")
    text = pc.utf8_trim_whitespace(text)
    return text.filter(pc.not_equal(text, ""))


def _domain_hashes(uri: str) -> np.ndarray:
    names = pc.replace_substring_regex(_entries(uri), r"^(0\.0\.0\.0|127\.0\.0\.1|::1?)\s+", "")
    names = pc.replace_substring_regex(names, r"^(\*?\.|(?i:www)\.)", "")
    hashes, state = _host_hashes(names, uri)
    for row in np.flatnonzero(state == _NOT_ASCII).tolist():
        hashes[row] = _hash_of(_host(_page(names[row].as_py())))
    return hashes


def _page_hashes(uri: str) -> tuple[np.ndarray, np.ndarray]:
    pages = [_page(url) for url in _entries(uri).to_pylist()]
    for page in pages:
        if not page or " " in _host(page):
            raise ValueError(f"{uri}: an entry of this block list is not a URL; write one URL a line, comments after #")
    hosts, _ = _host_hashes(pa.array([_host(page) for page in pages], pa.string()), uri)
    return np.array([_page_hash(page) for page in pages], np.uint64), hosts


def _host_hashes(names: pa.Array, uri: str) -> tuple[np.ndarray, np.ndarray]:
    data, offsets = text_buffers(names)
    hashes, state = np.zeros(len(names), np.uint64), np.zeros(len(names), np.uint8)
    bad = _hash_hosts(data, offsets, hashes, state)
    if bad >= 0:
        raise ValueError(f"{uri}: {names[bad].as_py()[:80]!r} is not a domain; write one a line, comments after #")
    return hashes, state


def _page(url: str) -> str:
    """Host, path and query of a URL in one spelling, ASCII only; "" when it names no host."""
    text = normalise(url if "://" in url else f"http://{url}").partition("://")[2]
    host, slash, rest = text.partition("/")
    host, mark, query = host.partition("?")
    tail = mark + query + slash + rest
    return _punycode(host) + (tail if tail.isascii() else quote(tail, safe=_KEPT, errors="replace"))


def _host(page: str) -> str:
    return page.partition("/")[0].partition("?")[0]


def _punycode(host: str) -> str:
    if host.isascii() or max(map(len, host.split("."))) > MAX_LABEL_CHARS:
        return host
    try:
        return host.encode("idna").decode("ascii").lower()
    except UnicodeError:  # no name that could be registered, but equal to itself
        return host


def _listed_domain(page: str, lists: BlockLists) -> str:
    """The listed domain that the host of a page is or lies under, or ""; for hosts that the kernel cannot read."""
    labels = _host(page).split(".")
    for first in range(len(labels) - 1, -1, -1):
        name = ".".join(labels[first:])
        if _has(lists.domains, _hash_of(name)):
            return name
    return ""


def _listed_page(page: str, lists: BlockLists) -> str:
    """The listed page that a page is or lies below, or ""."""
    page = page[:MAX_PAGE_CHARS]
    while page:
        if _has(lists.pages, _page_hash(page)):
            return page
        cut = max(page.rfind("/"), page.rfind("?")) if "?" not in page else page.index("?")
        page = page[:cut] if cut > 0 else ""
    return ""


def _page_hash(page: str) -> int:
    return xxhash.xxh3_64_intdigest(page.encode("utf-8", "replace"))


def _hash_of(host: str) -> int:
    raw = np.frombuffer(host.encode("utf-8", "replace"), np.uint8)
    return int(_hash_bytes(raw, 0, len(raw)))


def _has(ordered: np.ndarray, value: int) -> bool:
    at = np.searchsorted(ordered, np.uint64(value))
    return bool(at < len(ordered) and ordered[at] == value)


@numba.njit(inline="always")
def _found(ordered, value):
    low, high = 0, len(ordered)
    while low < high:
        middle = (low + high) >> 1
        if ordered[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low < len(ordered) and ordered[low] == value


@numba.njit(inline="always")
def _lower(byte):
    return byte | 0x20 if 0x41 <= byte <= 0x5A else byte


@numba.njit(cache=True)
def _hash_bytes(data, start, end):
    """Hash of a name from its end to its start, so that the hashes of its parents come on the way."""
    h = SEED
    for i in range(end - 1, start - 1, -1):
        h = (h ^ np.uint64(_lower(data[i]))) * PRIME
    return mix(h)


@numba.njit(cache=True)
def _host_span(data, start, end):
    """(first byte, byte after the last, whether it is plain ASCII) of the host of a URL or a bare name."""
    for i in range(start, end - 2):
        byte = data[i]
        if byte == 0x3A and data[i + 1] == 0x2F and data[i + 2] == 0x2F:  # ://
            start = i + 3
            break
        if byte in (0x2F, 0x3F, 0x23):
            break
    stop = end
    for i in range(start, end):
        if data[i] in (0x2F, 0x3F, 0x23):  # / ? #
            stop = i
            break
    plain = True
    colon = -1
    for i in range(start, stop):
        byte = data[i]
        if byte == 0x40:  # @: what stood before is a user name
            start, plain, colon = i + 1, True, -1
        elif byte == 0x3A:
            colon = i
        elif byte >= 0x80 or byte == 0x25:
            plain = False
    if colon >= start:
        port = True
        for i in range(colon + 1, stop):
            port = port and 0x30 <= data[i] <= 0x39
        if port:
            stop = colon
    if stop > start and data[stop - 1] == 0x2E:
        stop -= 1
    return start, stop, plain


@numba.njit(cache=True)
def _classify(data, offsets, domains, page_hosts, state, starts, ends):  # noqa: PLR0917
    for d in range(len(offsets) - 1):
        start, stop, plain = _host_span(data, offsets[d], offsets[d + 1])
        if start >= stop or stop - start > MAX_HOST_BYTES:
            continue
        if not plain:
            state[d] = _NOT_ASCII
            continue
        h = SEED
        for i in range(stop - 1, start - 1, -1):
            byte = data[i]
            if byte == 0x2E and _found(domains, mix(h)):
                state[d], starts[d], ends[d] = _DOMAIN, i + 1 - offsets[d], stop - offsets[d]
                break
            h = (h ^ np.uint64(_lower(byte))) * PRIME
        if state[d] == _DOMAIN:
            continue
        if _found(domains, mix(h)):
            state[d], starts[d], ends[d] = _DOMAIN, start - offsets[d], stop - offsets[d]
        elif len(page_hosts):
            www = stop - start > 4 and data[start + 3] == 0x2E
            for i in range(start, start + 3 if www else start):
                www = www and _lower(data[i]) == 0x77
            if _found(page_hosts, _hash_bytes(data, start + 4 if www else start, stop)):
                state[d] = _LISTED_HOST


@numba.njit(cache=True)
def _hash_hosts(data, offsets, hashes, state):
    """Fill in hashes of the hosts; returns the number of the first entry that is none, or -1."""
    for d in range(len(offsets) - 1):
        start, stop, plain = _host_span(data, offsets[d], offsets[d + 1])
        if start >= stop or stop - start > MAX_HOST_BYTES:
            return d
        for i in range(start, stop):
            if data[i] <= 0x20:
                return d
        if not plain:
            state[d] = _NOT_ASCII
        hashes[d] = _hash_bytes(data, start, stop)
    return -1
