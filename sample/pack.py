"""Pack `sample/source` into what the demo, the tests and the benchmarks read.

    python sample/pack.py

writes, for each language, `sample/warc/<lang>.warc.gz` (the pages as an archive of a crawl: one gzip member a record) and
`sample/gold/<lang>.jsonl.gz` (what each page is and what ought to become of it). Equal sources give equal records: dates
are those of the pages, the ids are made from URL and bytes.

A row of the gold: `id` (WARC-Record-ID; two records may share a URL), `page` (<lang>/<slug>), `url`, `lang` of the main
text, `type`, `fate`, `rule` (the rules of the ledger that may drop it), `near` and `degree`, `encoding`, `text` and
`optional` (Unicode, NFC, one line a block).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
import unicodedata
import uuid
from html.parser import HTMLParser
from pathlib import Path

SAMPLE = Path(__file__).parent
SOURCE = SAMPLE / "source"
LANGUAGES = ("my", "ceb", "ilo", "id", "jv", "km", "lo", "ms", "su", "tl", "th", "vi", "war", "en", "zh")
CODECS = {"windows-1252": "cp1252", "windows-1258": "cp1258", "windows-874": "cp874", "gb18030": "gb18030"}
REASONS = {200: "OK", 403: "Forbidden", 404: "Not Found", 410: "Gone"}
LICENCE = "Apache-2.0"
MARKS = re.compile(r"<!-- /?(?:main|optional) -->")
BLOCKS = {
    "p",
    "li",
    "h1",
    "h2",
    "h3",
    "h4",
    "tr",
    "td",
    "th",
    "div",
    "br",
    "dt",
    "dd",
    "pre",
    "blockquote",
    "figcaption",
}


def main() -> None:
    for lang in LANGUAGES:
        found = pages(lang)
        for kind, ending, packed in (("warc", "warc.gz", archive(found)), ("gold", "jsonl.gz", [gold_lines(found)])):
            path = SAMPLE / kind / f"{lang}.{ending}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"".join(gzip.compress(part, 9, mtime=0) for part in packed))


def pages(lang: str) -> list[dict]:
    """The pages of a language by slug: the keys of their heads, `page`, `body` and the `shell` of their site."""
    shells = {path.stem: path.read_text("utf-8") for path in (SOURCE / lang / "sites").glob("*.html")}
    found = []
    for path in sorted((SOURCE / lang / "pages").glob("*.html")):
        whole = re.fullmatch(r"---\n(.*?)\n---\n(.*)", path.read_text("utf-8"), re.DOTALL)
        if whole is None:
            raise ValueError(f"{path}: no head between two lines of ---")
        head = dict(line.split(": ", 1) for line in whole[1].splitlines())
        if head.get("site") not in shells:
            raise ValueError(f"{path}: no shell sites/{head.get('site')}.html")
        found.append({**head, "page": f"{lang}/{path.stem}", "body": whole[2], "shell": shells[head["site"]]})
    return found


def archive(found: list[dict]) -> list[bytes]:
    """The records of a WARC file (ISO 28500): one about the file, then one response a page."""
    about = f"format: WARC File Format 1.0\r\nlicense: {LICENCE}\r\n"
    about += "description: pages written for this repository; sites and people are invented\r\n"
    first = _record("warcinfo", "application/warc-fields", about.encode(), max(page["date"] for page in found))
    return [first, *(response(page) for page in found)]


def response(page: dict) -> bytes:
    """The WARC record of a page: the answer that its server gave."""
    body = payload(page)
    status = int(page.get("status", 200))
    headers = [f"HTTP/1.1 {status} {REASONS[status]}", f"Content-Type: {content_type(page)}"]
    headers += [page["header"]] if "header" in page else []
    headers += [f"Content-Length: {len(body)}"]
    block = "\r\n".join([*headers, "", ""]).encode() + body
    digest = base64.b32encode(hashlib.sha1(body, usedforsecurity=False).digest()).decode()
    extra = {"WARC-Target-URI": page["url"], "WARC-Payload-Digest": f"sha1:{digest}"}
    return _record("response", "application/http; msgtype=response", block, page["date"], extra)


def _record(kind: str, media: str, block: bytes, day: str, extra: dict | None = None) -> bytes:
    url = (extra or {}).get("WARC-Target-URI", "")
    head = {
        "WARC-Type": kind,
        "WARC-Record-ID": record_id(url, block),
        "WARC-Date": f"{day}T12:00:00Z",
        **(extra or {}),
        "Content-Type": media,
        "Content-Length": str(len(block)),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"WARC/1.0\r\n{lines}\r\n".encode() + block + b"\r\n\r\n"


def record_id(url: str, block: bytes) -> str:
    return f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, url + hashlib.sha256(block).hexdigest())}>"


def content_type(page: dict) -> str:
    """What the server says: the charset that the site's pages are in, and none where it is an old site's own affair."""
    if page.get("encoding") == "utf-16":
        return "text/html; charset=utf-16"
    modern = re.search(r"<meta charset=[\"']?([\w-]+)", page["shell"], re.IGNORECASE)
    return f"text/html; charset={modern[1].lower()}" if modern and "encoding" not in page else "text/html"


def payload(page: dict) -> bytes:
    """The bytes of a page in the encoding of its head. A character that the encoding lacks is a reference (`&#8230;`)."""
    whole = page["shell"]
    for name in ("title", "url", "date"):
        value = html.escape(page[name], quote=False).replace('"', "&quot;")
        whole = whole.replace("{{" + name + "}}", value)
    whole = whole.replace("{{main}}", MARKS.sub("", page["body"]).strip("\n"))
    encoding = page.get("encoding", "utf-8")
    if encoding == "utf-8":
        return whole.encode()
    if encoding == "zawgyi":
        return zawgyi(whole).encode()
    if encoding == "utf-16":
        return b"\xff\xfe" + whole.encode("utf-16-le")
    codec = CODECS[encoding]
    if codec == "cp1258":
        whole = "".join(_loose_tone(char) for char in whole)
    return whole.encode(codec, "xmlcharrefreplace")


def _loose_tone(char: str) -> str:
    """A Vietnamese letter as windows-1258 has it: the tone mark behind the letter, unless the two are one there."""
    try:
        char.encode("cp1258")
    except UnicodeEncodeError:
        parts = unicodedata.normalize("NFD", char)
        tones = "".join(mark for mark in parts if mark in "\u0300\u0301\u0303\u0309\u0323")
        return unicodedata.normalize("NFC", "".join(part for part in parts if part not in tones)) + tones
    return char


# ---- gold


def gold_lines(found: list[dict]) -> bytes:
    return "".join(json.dumps(gold(page), ensure_ascii=False) + "\n" for page in found).encode()


def gold(page: dict) -> dict:
    block = response(page)
    head = re.search(rb"WARC-Record-ID: (\S+)", block)
    lang = page["page"].partition("/")[0]
    return {
        "id": head[1].decode() if head else "",
        "page": page["page"],
        **{key: page[key] for key in ("url", "lang", "type", "fate")},
        "rule": [rule.strip() for rule in page["rule"].split(",")] if "rule" in page else [],
        "near": f"{lang}/{page['near']}" if "near" in page else None,
        "degree": float(page["degree"]) if "degree" in page else None,
        "encoding": page.get("encoding", "utf-8"),
        "text": part(page["body"], "main"),
        "optional": part(page["body"], "optional"),
    }


def part(body: str, name: str) -> str:
    """The text between the marks of `name` (`main`, `optional`)."""
    return "\n".join(map(plain, re.findall(f"<!-- {name} -->(.*?)<!-- /{name} -->", body, re.DOTALL)))


class _Plain(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.hidden += tag in ("script", "style")
        self.pieces.append("\n" if tag in BLOCKS else "")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style")
        self.pieces.append("\n" if tag in BLOCKS else "")

    def handle_data(self, data: str) -> None:
        self.pieces.append("" if self.hidden else data)


def plain(markup: str) -> str:
    """The visible text of a piece of HTML, NFC, one line a block."""
    parser = _Plain()
    parser.feed(markup)
    parser.close()
    text = re.sub(r"[ \t]*\n\s*", "\n", re.sub(r"[ \t]+", " ", "".join(parser.pieces))).strip()
    return unicodedata.normalize("NFC", text)


# ---- Zawgyi: the encoding of most Burmese pages before about 2019, which puts glyphs in the places of Unicode's letters

SYLLABLE = re.compile(
    "((?:\u1004\u103a\u1039)?)([\u1000-\u102a\u103f\u104e])((?:\u1039[\u1000-\u1021])*)([\u102b-\u1038\u103a-\u103e]*)"
)
STACKED = dict(zip("ကခဂဃစဆဇဈဋဌဏတထဒဓနပဖဗဘမလ", "ၠၡၢၣၥၦၨၩၬၭၰၱၳၵၶၷၸၹၺၻၼႅ", strict=True))
LIGATURES = {"ဋ္ဋ": "\u1097", "ဋ္ဌ": "\u1092", "ဍ္ဍ": "\u106e", "ဏ္ဍ": "\u1091"}
WIDE = frozenset("ကဃဆညဏတထဘယလသဟအ")
SHORTENED = {"ည": "\u106b", "ဉ": "\u106a", "န": "\u108f", "ရ": "\u1090"}
DEEP = frozenset("ဈဉညဋဌဍဠဥ")
KINZI = {"\u102d": "\u108b", "\u102e": "\u108c", "\u1036": "\u108d"}


def zawgyi(text: str) -> str:
    """Unicode Burmese in the Zawgyi encoding; anything else as it is."""
    return SYLLABLE.sub(_zawgyi_syllable, text)


def _zawgyi_syllable(match: re.Match) -> str:
    kinzi, base, below, signs = match.groups()
    has = set(signs).__contains__
    stack = LIGATURES.get(base + below)
    base, stack = (stack, "") if stack else (base, "".join(STACKED.get(c, c) for c in below if c != "\u1039"))
    upper = kinzi or any(map(has, "\u102d\u102e\u1032\u1036"))
    lower = stack or has("\u103d") or has("\u103e")
    before = "\u1031" if has("\u1031") else ""
    if has("\u103c"):
        forms = ("\u103b\u107e", "\u1081\u1082", "\u107f\u1080", "\u1083\u1084")
        before += forms[2 * bool(upper) + bool(lower)][base in WIDE]
    u = "\u102f" if has("\u102f") else "\u1030" if has("\u1030") else ""
    early = "\u103a\u102f" in signs  # of a closing letter that carries a vowel of its own
    crowded = u if base == "ရ" else stack or u or has("\u103d") or has("\u103e")
    shortened = base in SHORTENED and crowded and not early
    out = before + (SHORTENED[base] if shortened else base) + stack
    top = next((sign for sign in "\u102d\u102e\u1036" if has(sign)), "") if kinzi else ""
    if kinzi:
        out += KINZI.get(top, "\u1064")
    if has("\u103b"):
        out += "\u107d" if has("\u103d") or has("\u103e") else "\u103a"
    out += "\u1039" if early else ""
    tail = has("\u103b") or has("\u103c") or has("\u103d") or stack or base in DEEP
    if has("\u103d"):
        out += "\u108a" if has("\u103e") else "\u103c"
    elif has("\u103e"):
        joined = {"\u102f": "\u1088", "\u1030": "\u1089"}.get(u)
        out += joined or "\u103d"
        u = "" if joined else u
    both = has("\u102d") and has("\u1036") and not kinzi
    out += "\u108e" if both else "".join(sign for sign in "\u102d\u102e\u1032" if has(sign) and sign != top)
    out += "\u1036" if has("\u1036") and not both and top != "\u1036" else ""
    out += {"\u102f": "\u1033", "\u1030": "\u1034"}[u] if u and tail else u
    if has("\u102b") and has("\u103a"):
        out += "\u105a"
    else:
        out += "".join(sign for sign in "\u102b\u102c" if has(sign))
    if has("\u1037"):
        out += "\u1095" if base == "ရ" or has("\u103d") else "\u1094" if base == "န" or u or has("\u103e") else "\u1037"
    out += "\u1039" if has("\u103a") and not early and not has("\u102b") else ""
    return out + ("\u1038" if has("\u1038") else "")


if __name__ == "__main__":
    main()
