"""One key for the many spellings of a URL, so that a page crawled twice is seen as one page.

Normalised (RFC 3986 section 6.2.2-6.2.4, the WHATWG's URL standard, and what crawls show): scheme and host in lower case,
`http` and `https` are the same, leading `www.` goes, default port and user name go, percent escapes of unreserved letters
and of UTF-8 are decoded and the others upper-cased, what must be escaped is, names beyond ASCII are in punycode (UTS 46),
numbers of hosts in one form, backslashes and HTML's entities as browsers take them, `.` and `..` are resolved, a trailing
slash goes, parameters that only track the visitor go and the rest is sorted. A fragment goes, but for `#!` with a route,
which names a page. `www.` goes because one site on both names is common and two sites are very rare.
Kept: letter case of the path and the order of equal parameters, which servers do tell apart.
The rule (Sailor2, section 3.3): of the documents of one URL the longest stays; at equal length the smallest doc_id.
"""

from __future__ import annotations

import html as entities
import ipaddress
import re
from functools import lru_cache
from urllib.parse import urlsplit

import idna
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
_HOST = r"^https?://(www\.)?([a-z0-9-]+\.)+[a-z][a-z0-9-]*"  # a last part without a digit before it is no number
_SEGMENTS = rf"(/([!$&'()*+,:=@A-Z_a-z0-9~{_LETTERS}-][!$&'()*+,:=@A-Z_a-z0-9~.{_LETTERS}-]*)?)*"
_PLAIN = _HOST + _SEGMENTS + "$"
_PLAIN_WITH_PARAMETER = _HOST + _SEGMENTS + r"[a-z0-9-]\?[A-Za-z0-9_]+=[A-Za-z0-9_.,:+/-]*$"
_TRACKED = rf"(?i)\?({TRACKING.pattern})="

MAX_HOST_CHARS = 1024  # what is longer is no name, and slow to write in punycode
_SESSION_IN_PATH = re.compile(r";(jsessionid|phpsessid)=[^/?;]*", re.IGNORECASE)
_ESCAPES = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_SENT_ESCAPED = re.compile('[\x00-\x20"<>`{}|^\\\\\x7f]')  # in a path or query, by browsers or RFC 3986
_ENTITY = re.compile(r"&(?:amp|quot|lt|gt|apos|#\d{1,7}|#[xX][0-9a-fA-F]{1,6});")
_SCHEME = re.compile(r"(https?):[/\\]{0,2}", re.IGNORECASE)
_NUMBERS = re.compile(r"(?:\w+\.){0,3}(?:\d+|0x[0-9a-f]*)\.?", re.ASCII)
_LEFT_OUT = str.maketrans("", "", "\t\n\r")
_ENDS = "".join(map(chr, range(33)))
_DEFAULT_PORTS = {"80", "443", ""}


def normalise(url: str) -> str:
    """The key text of a URL; "" for one that names no host. Never raises: a URL that does not parse is its own key."""
    url = url.strip(_ENDS)
    if "&" in url and ";" in url:
        url = _ENTITY.sub(lambda entity: entities.unescape(entity[0]), url)
    if "\n" in url or "\t" in url or "\r" in url:
        url = url.translate(_LEFT_OUT)
    if "\\" in url or not url.startswith(("http://", "https://")):
        url = _as_browsers_take_it(url)
    try:
        parts = urlsplit(url)
    except ValueError:  # such as an unclosed bracket of an IPv6 address
        return url
    host = _host(parts.netloc)
    if not host:
        return ""
    scheme = "http" if parts.scheme.lower() in ("http", "https") else parts.scheme.lower()
    path = _dots(_escapes(_SESSION_IN_PATH.sub("", parts.path))).rstrip("/")
    named = [(pair.partition("=")[0], pair) for pair in _escapes(parts.query).replace("'", "%27").split("&") if pair]
    query = [pair for name, pair in sorted(named, key=lambda one: one[0]) if not TRACKING.fullmatch(name)]
    route = "#" + _escapes(parts.fragment).rstrip("/") if parts.fragment[:1] in {"!", "%"} else ""
    route = route if route[1:2] == "!" and len(route) > 2 else ""
    return f"{scheme}://{host}{path}" + ("?" + "&".join(query) if query else "") + route


def _as_browsers_take_it(url: str) -> str:
    """An address of the web with two slashes behind its scheme, and none that leans back."""
    web = _SCHEME.match(url)
    if not web:
        return url
    end = min((at for at in (url.find("?"), url.find("#")) if at >= 0), default=len(url))
    return f"{web[1].lower()}://" + url[web.end() : end].replace("\\", "/") + url[end:]


@lru_cache(65_536)
def _host(place: str) -> str:
    """Host and port of `user@host:port`. A name is in lower case and punycode, without `www.`; an address of IPv4 or IPv6 is
    written by rule; what is neither is as it is."""
    host = place.rpartition("@")[2]
    name, colon, port = host.rpartition(":")
    if colon and not name.endswith(":") and not port.endswith("]"):
        port = port.lstrip("0") or port[:1]
        host, port = name, "" if port in _DEFAULT_PORTS else f":{port}"
    else:
        port = ""
    name = (_escapes(host) if "%" in host else host).lower()
    try:
        if name.startswith("["):
            return f"[{ipaddress.IPv6Address(name[1:-1])}]{port}"
        if not name.isascii() or "xn--" in name:
            name = _punycode(name[:MAX_HOST_CHARS]) + name[MAX_HOST_CHARS:]
        if _NUMBERS.fullmatch(name):
            name = _address(name)
    except ValueError:
        pass
    name = name.removesuffix(".").removeprefix("www.")
    return name and name + port


def _punycode(name: str) -> str:
    mapped = idna.uts46_remap(name, std3_rules=False)  # also wide letters, and the full stops of Chinese
    labels = []
    for label in mapped.split("."):
        try:  # a name that is given in punycode, as its letters: not all was written by rule
            letters = label[4:].encode().decode("punycode").lower() if label.startswith("xn--") else label
        except (UnicodeError, ValueError):
            letters = label
        labels.append(letters if letters.isascii() else "xn--" + letters.encode("punycode").decode())
    return ".".join(labels)


def _address(name: str) -> str:
    """An IPv4 address of one to four parts, each decimal, octal or hexadecimal (WHATWG). Raises ValueError."""
    parts = [
        int(part[2:] or "0", 16) if part[:2] == "0x" else int(part, 8 if part[0] == "0" and len(part) > 1 else 10)
        for part in name.removesuffix(".").split(".")
    ]
    if any(part > 255 for part in parts[:-1]) or parts[-1] >= 256 ** (5 - len(parts)):
        raise ValueError("no address")
    number = parts[-1] + sum(part << 8 * (3 - place) for place, part in enumerate(parts[:-1]))
    return str(ipaddress.IPv4Address(number))


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
    """Escapes of unreserved letters and of UTF-8 decoded, the others in capitals; what browsers escape, escaped."""
    if "%" in text:
        text = _ESCAPES.sub(_unescaped, text)
    return _SENT_ESCAPED.sub(lambda sign: f"%{ord(sign[0]):02X}", text)


def _unescaped(match: re.Match) -> str:
    data = bytes.fromhex(match[0].replace("%", ""))
    if all(byte < 128 for byte in data):
        return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in data)
    found = []
    for character in data.decode("utf-8", "surrogateescape"):
        code = ord(character)
        if code < 128:
            found.append(character if code in _UNRESERVED else f"%{code:02X}")
        else:
            found.append(f"%{code - 0xDC00:02X}" if 0xDC80 <= code <= 0xDCFF else character)
    return "".join(found)


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
