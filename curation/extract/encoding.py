"""Decode the bytes of an HTML page whose declared encoding may be missing or wrong.

Order: byte order mark; UTF-8 when the bytes say so themselves (a legacy encoding gives valid UTF-8 by chance only in a
few characters); the charset of the HTTP header; that of `<meta>`; statistical detection (resiliparse). A declared
encoding under which a twentieth of the non-ASCII bytes make no sense is not believed.
"""

from __future__ import annotations

import codecs
import re

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))

# Supersets that browsers read instead of the name on the page (WHATWG Encoding Standard), as Python calls them.
SUPERSETS = {
    "iso8859-11": "cp874",
    "gbk": "gb18030",
    "gb2312": "gb18030",
    "big5": "big5hkscs",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "iso8859-1": "cp1252",
    "ascii": "cp1252",
}
# Names seen on Thai and Vietnamese pages that the standard does not list.
NAMES = {"tis620": "cp874", "cp874": "cp874", "windows874": "cp874", "cp1258": "cp1258", "unicode": "utf-8"}
META = re.compile(rb"<(?:meta|\?xml)\b[^>]{0,500}?(?:charset|encoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
META_BYTES = 8192
MAX_BROKEN = 20  # one broken character in so many non-ASCII bytes is still a page in that encoding


def decode(payload: bytes, charset_hint: str = "") -> str:
    """The page as text. `charset_hint` is the charset of the HTTP header, empty when it names none. Never raises."""
    for bom, name in BOMS:
        if payload.startswith(bom):
            return payload[len(bom) :].decode(name, "replace")
    declared = [codec for codec in (_codec(charset_hint), _codec(_meta(payload))) if codec]
    text = _utf8(payload, "utf-8" in declared or not declared)
    if text is not None and not (declared and declared[0].startswith("iso2022")):
        return text
    high_bytes = len(payload) - len(payload.translate(None, bytes(range(128, 256))))
    for codec in dict.fromkeys(declared):
        text = payload.decode(codec, "replace")
        if text.count("�") * MAX_BROKEN <= high_bytes:
            return text
    return payload.decode(_codec(detect_encoding(payload) or "") or "cp1252", "replace")


def _utf8(payload: bytes, expected: bool) -> str | None:
    """The text if it is UTF-8 beyond doubt: hardly a broken character, and several good ones unless it is expected."""
    try:
        text = payload.decode("utf-8")
        broken = 0
    except UnicodeDecodeError:
        text = payload.decode("utf-8", "replace")
        broken = text.count("�")
    continuation_bytes = len(payload) - len(text)
    enough = expected or continuation_bytes >= 8 or payload.isascii()
    return text if enough and broken * MAX_BROKEN <= continuation_bytes else None


def _meta(payload: bytes) -> str:
    match = META.search(payload, 0, META_BYTES)
    name = match[1].decode("ascii", "replace") if match else ""
    # A page whose <meta> can be read as ASCII is not UTF-16, whatever it says.
    return "utf-8" if name.lower().startswith(("utf-16", "utf16")) else name


def _codec(name: str) -> str | None:
    """Python's codec for a charset label, or None when the label is empty or unknown."""
    name = name.strip().lower()
    bare = name.replace("-", "").replace("_", "").removeprefix("x")
    label = NAMES.get(bare) or map_encoding_to_html5(name, fallback_utf8=False)
    if not label:
        return None
    try:
        found = codecs.lookup(label).name
    except LookupError:
        return None
    return SUPERSETS.get(found, found)
