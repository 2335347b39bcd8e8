"""One key for the many spellings of a URL, so that a page crawled twice is seen as one page.

Normalised (RFC 3986 section 6.2.2-6.2.4 and what crawls show): scheme and host in lower case, `http` and `https` are
the same, leading `www.` goes, default port and user name go, fragment goes, percent escapes of unreserved letters are
decoded and the others upper-cased, `.` and `..` are resolved, a trailing slash goes, parameters that only track the
visitor go and the rest is sorted. `www.` goes because one site on both names is common and two sites are very rare.
Kept: letter case of the path and the order of equal parameters, which servers do tell apart.
The rule (Sailor2, section 3.3): of the documents of one URL the longest stays; at equal length the smallest doc_id.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

TRACKING = re.compile(
    r"utm_\w+|fbclid|gclid|gclsrc|dclid|msclkid|yclid|twclid|ttclid|igshid|wbraid|gbraid|_ga|_gl|mc_[ce]id|mkt_tok|"
    r"_hs(enc|mi)|hsctatracking|vero_(id|conv)|oly_(anon|enc)_id|wickedid|(php|asp|j)sess(ion)?id|aspsessionid\w*|sid_?hash",
    re.IGNORECASE,
)
"""Names of query parameters that say who came from where, not which page."""

# Most URLs need little: a plain host, a path that is its own normal form, at most one parameter. These are found by one
# expression over the column; the letters beyond ASCII are of scripts whose URLs are written out.
_LETTERS = r"\x{C0}-\x{24F}\x{E00}-\x{EFF}\x{1000}-\x{109F}\x{1780}-\x{17FF}\x{4E00}-\x{9FFF}"
_HOST = r"^https?://(www\.)?[a-z0-9-]+(\.[a-z0-9-]+)*"
_SEGMENTS = rf"(/([!$&'()*+,:=@A-Z_a-z0-9~{_LETTERS}-][!$&'()*+,:=@A-Z_a-z0-9~.{_LETTERS}-]*)?)*"
_PLAIN = _HOST + _SEGMENTS + "$"
_PLAIN_WITH_PARAMETER = _HOST + _SEGMENTS + r"[a-z0-9-]\?[A-Za-z0-9_]+=[A-Za-z0-9_.,:+/-]*$"
_TRACKED = rf"(?i)\?({TRACKING.pattern})="

_SESSION_IN_PATH = re.compile(r";(jsessionid|phpsessid)=[^/?;]*", re.IGNORECASE)
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_DEFAULT_PORTS = {"80", "443", ""}


def normalise(url: str) -> str:
    """The key text of a URL; "" for one that names no host. Never raises: a URL that does not parse is its own key."""
    url = url.strip()
    try:
        parts = urlsplit(url)
    except ValueError:  # such as an unclosed bracket of an IPv6 address
        return url
    host = parts.netloc.rpartition("@")[2].lower()
    name, colon, port = host.rpartition(":")
    if colon and (port in _DEFAULT_PORTS) and not name.endswith(":"):
        host = name
    host = host.removesuffix(".").removeprefix("www.")
    if not host:
        return ""
    scheme = "http" if parts.scheme.lower() in ("http", "https") else parts.scheme.lower()
    path = _dots(_escapes(_SESSION_IN_PATH.sub("", parts.path))).rstrip("/")
    named = [(pair.partition("=")[0], pair) for pair in _escapes(parts.query).split("&") if pair]
    query = [pair for name, pair in sorted(named, key=lambda one: one[0]) if not TRACKING.fullmatch(name)]
    return f"{scheme}://{host}{path}" + ("?" + "&".join(query) if query else "")


def url_keys(urls: pa.Array | list[str | None]) -> np.ndarray:
    """64-bit key (uint64 [N], xxh3) of each normalised URL; 0 where there is no URL, which matches nothing."""
    try:
        texts = urls if isinstance(urls, pa.Array) else pa.array(urls, pa.string())
    except UnicodeEncodeError:  # half of a surrogate pair
        return np.array([_key(url) for url in urls], np.uint64)
    texts = pc.fill_null(texts, "")
    plain = pc.match_substring_regex(texts, _PLAIN)
    parameter = pc.match_substring_regex(texts, _PLAIN_WITH_PARAMETER)
    parameter = pc.and_not(parameter, pc.match_substring_regex(texts, _TRACKED))
    keys = np.zeros(len(texts), np.uint64)
    for rows, normal in ((plain, pc.utf8_rtrim(texts.filter(plain), "/")), (parameter, texts.filter(parameter))):
        normal = pc.replace_substring_regex(normal, r"^https?://(www\.)?", "http://", max_replacements=1)
        keys[rows.to_numpy(False)] = [
            xxhash.xxh3_64_intdigest(text) or 1 for text in normal.cast(pa.binary()).to_pylist()
        ]
    others = pc.invert(pc.or_(plain, parameter))
    keys[others.to_numpy(False)] = [_key(url) for url in texts.filter(others).to_pylist()]
    return keys


def _key(url: str | None) -> int:
    text = normalise(url) if url else ""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "replace")) or 1 if text else 0


def _escapes(text: str) -> str:
    if "%" not in text:
        return text

    def fold(match: re.Match) -> str:
        character = chr(int(match[0][1:], 16))
        return character if character in _UNRESERVED else match[0].upper()

    return _ESCAPE.sub(fold, text)


def _dots(path: str) -> str:
    if "/." not in path:
        return path
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if len(segments) > 1:
                segments.pop()
        elif segment != ".":
            segments.append(segment)
    return "/".join(segments)
