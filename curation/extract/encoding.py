"""Decode the bytes of an HTML page whose declared encoding may be missing or wrong.

Order: byte order mark; UTF-16 by the zeros beside ASCII letters; UTF-8 when the bytes say so themselves (a legacy encoding
gives valid UTF-8 by chance only in a few characters); the charset of the HTTP header; that of `<meta>`; statistical
detection (resiliparse); the legacy encodings of the region. One is believed when few bytes make no sense in it and its text
is plausible (`curation.extract.legacy`); text that is read as Vietnamese in another encoding alone is in that.
"""

from __future__ import annotations

import codecs
import re

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

from curation.extract import legacy

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
LEGACY = ("cp1252", "cp874", "gb18030", "big5hkscs", "cp949", "cp932", "cp1251")
HIGH = re.compile(rb"[\x80-\xff]")
SAMPLE_BYTES = 100_000  # from where the first letters beyond ASCII are, to see which encoding makes sense
META_BYTES = 8192
MAX_BROKEN = 20  # one broken character in so many non-ASCII bytes is still a page in that encoding


def decode(payload: bytes, charset_hint: str = "") -> str:
    """The page as text. `charset_hint` is the charset of the HTTP header, empty when it names none. Never raises."""
    for bom, name in BOMS:
        if payload.startswith(bom):
            return payload[len(bom) :].decode(name, "replace")
    if wide := _wide(payload, charset_hint):
        return payload.decode(wide, "replace")
    declared = [codec for codec in (_codec(charset_hint), _codec(_meta(payload))) if codec]
    text = _utf8(payload, "utf-8" in declared or not declared)
    if text is not None and not (declared and declared[0].startswith("iso2022")):
        return legacy.once(text)
    high = HIGH.search(payload)
    begin = max(0, high.start() - 2_000) if high else 0
    sample = payload[begin : begin + SAMPLE_BYTES]
    detected = _codec(detect_encoding(payload) or "")
    possible = dict.fromkeys([*declared, detected, *LEGACY])
    candidates = [codec for codec in possible if codec and codec != "utf-8"]  # which it is not, as was seen above
    chosen = next((codec for codec in candidates if _fits(sample, codec)), None)
    if chosen is None:  # nothing makes sense: as it was called, where few bytes have no meaning in that
        high_bytes = len(sample) - len(sample.translate(None, bytes(range(128, 256))))
        few = (codec for codec in declared if _as(sample, codec).count("\ufffd") * MAX_BROKEN <= high_bytes)
        chosen = next(few, detected if detected and detected != "utf-8" else "cp1252")
    return _as(payload, _vietnamese(sample, chosen))


def _fits(sample: bytes, codec: str) -> bool:
    """Whether text is plausible when it is read so."""
    words = legacy.words(_as(sample, codec))
    return legacy.plausible(words) and (codec not in legacy.NAMES or legacy.vietnamese(words) > 1)


def _vietnamese(sample: bytes, chosen: str) -> str:
    """The codec, or an old one in which alone Latin text has Vietnamese words."""
    words = legacy.words(_as(sample, chosen))
    if not legacy.is_latin(words):
        return chosen
    most = 2 + 1.3 * legacy.vietnamese(words)
    for codec in (*legacy.NAMES, "cp1258"):
        words = legacy.words(_as(sample, codec))
        if (found := legacy.vietnamese(words)) > most and legacy.plausible(words):
            chosen, most = codec, found
    return chosen


def _as(payload: bytes, codec: str) -> str:
    return legacy.decode(payload, codec) if codec in legacy.NAMES else payload.decode(codec, "replace")


def _wide(payload: bytes, charset_hint: str) -> str | None:
    """UTF-16 without a byte order mark: pages have ASCII in them, and so a zero in every second byte of it."""
    begin = payload[:8192]
    if begin.count(0) * 50 < len(begin):
        return None
    named = charset_hint.strip().lower().replace("_", "").replace("-", "").startswith(("utf16", "unicode", "ucs2"))
    pairs = list(zip(begin[::2], begin[1::2], strict=False))
    little = sum(0x20 <= first < 0x7F and second == 0 for first, second in pairs)
    big = sum(0x20 <= second < 0x7F and first == 0 for first, second in pairs)
    least = len(begin) // (100 if named else 20)
    if max(little, big) > least and max(little, big) > 8 * min(little, big):
        return "utf-16-le" if little > big else "utf-16-be"
    return None


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
    if bare in legacy.LABELS:
        return legacy.LABELS[bare]
    label = NAMES.get(bare) or map_encoding_to_html5(name, fallback_utf8=False)
    if not label:
        return None
    try:
        found = codecs.lookup(label).name
    except LookupError:
        return None
    return SUPERSETS.get(found, found)
