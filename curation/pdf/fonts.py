"""Text of PDFs whose fonts have encodings of their own, from before Unicode.

Such a font draws Thai or Khmer where the text layer has Latin letters. What is known to be TIS-620, TCVN3 or VNI is put into
Unicode; what only its font could tell is named, for the ledger.
"""

from __future__ import annotations

import re
from collections import Counter

from curation.extract import legacy
from curation.extract.encoding import decode

FONTS = {
    "Khmer": r"limon|\babc[- ]?(?:text|zoom)|khek|^fk[- ]?(?:text|news)|khmer ?(?:chriv|freehand)",
    "Burmese": r"win ?(?:innwa|researcher|burma|myanmar|kalaw|yadana|pyay)|-?win---|ce ?classic|m-?myanmar"
    r"|academy ?burm|metrix|^knu\b|burmese ?(?:classic|1)|popular ?burm",
    "Lao": r"\balice ?\d|saysettha(?![ -]?(?:ot|mx|unicode))|lao ?(?:new|classic|system)|seasite ?lao",
    "Thai": r"^(?:psl|jsn?|dsn?|db)[- ]?\w+|upc\b",
}
LEGACY = {script: re.compile(pattern, re.IGNORECASE) for script, pattern in FONTS.items()}
OWN = {
    "Khmer": re.compile("[\u1780-\u17ff]"),
    "Burmese": re.compile("[\u1000-\u109f]"),
    "Lao": re.compile("[\u0e80-\u0eff]"),
    "Thai": re.compile("[\u0e00-\u0e7f]"),
}
TCVN3, VNI = re.compile(r"^\.?vn[a-z]", re.IGNORECASE), re.compile(r"^\.?vni[- ]?", re.IGNORECASE)
ODD = re.compile(
    "[\u0080-\u00a0\u00a1-\u00a9\u00ac\u00ae-\u00b1\u00b4-\u00b8\u00bc-\u00be\u0192\u02c6\u02dc\ue000-\uf8ff\ufffd]"
)
MOST = 0.5  # share of the characters of a document in a font of that kind
ODD_SHARE = 0.2
ENOUGH = 40  # characters

# Glyphs of Thai fonts for marks that stand higher, lower or to the left, which text layers have instead of the letters.
_THAI_GLYPHS = {
    **{0xF700: 0x0E10, 0xF70F: 0x0E0D, 0xF710: 0x0E31, 0xF711: 0x0E4D, 0xF712: 0x0E47},
    **{0xF701 + i: 0x0E34 + i for i in range(4)},
    **{0xF705 + i: 0x0E48 + i for i in range(5)},
    **{0xF70A + i: 0x0E48 + i for i in range(5)},
    **{0xF713 + i: 0x0E48 + i for i in range(5)},
    **{0xF718 + i: 0x0E38 + i for i in range(3)},
}
_THAI_MARK = re.compile("[\uf700-\uf71a]")


def in_unicode(text: str, font: str) -> str:
    """A line as its font means it, where that is known."""
    if _THAI_MARK.search(text):
        text = text.translate(_THAI_GLYPHS)
    if text.isascii():
        return text
    name = "vni" if VNI.match(font) else "tcvn3" if TCVN3.match(font) else ""
    if name and not re.search("[\u0100-\uffff]", text.translate(_TYPOGRAPHIC)):
        return legacy.decode(_as_bytes(text), "vni" if name == "vni" else "tcvn3")
    return text


_TYPOGRAPHIC = {ord(sign): " " for sign in bytes(range(0x80, 0xA0)).decode("cp1252", "ignore")}


def _as_bytes(text: str) -> bytes:
    return b"".join(bytes([ord(sign)]) if sign <= "\xff" else sign.encode("cp1252", "replace") for sign in text)


def respelled(text: str) -> str | None:
    """A document whose letters are those of windows-1252 for what is another encoding, in Unicode; None for any other."""
    high = [sign for sign in text if sign > "\x7f"]
    odd = sum(1 for sign in high if ODD.match(sign) or "\xc0" <= sign <= "\xff")
    if len(high) < ENOUGH or odd < 0.8 * len(high) or legacy.plausible(text):
        return None
    found = decode(_as_bytes(text), "windows-874")
    letters = sum("\u0e00" <= sign <= "\u0e7f" for sign in found)
    return found if letters > 0.6 * len(high) and legacy.plausible(found) else None


def fault(text: str, fonts: Counter[str], unknown: int) -> str:
    """What is wrong with the encoding of a document, for the ledger; empty when nothing seems to be. `fonts` counts characters,
    `unknown` is the number of those for which a font gives no meaning."""
    total = sum(fonts.values())
    if total < ENOUGH:
        return ""
    for script, pattern in LEGACY.items():
        named = {font: count for font, count in fonts.items() if pattern.search(font)}
        if sum(named.values()) > MOST * total and len(OWN[script].findall(text)) < 0.2 * total:
            return f"{script} in the encoding of {max(named, key=lambda font: (named[font], font))}"
    odd = len(ODD.findall(text)) + unknown
    if odd > ODD_SHARE * total and not legacy.plausible(text):
        return (
            f"an encoding of its own, of {max(fonts, key=lambda font: (fonts[font], font)) or 'a font without a name'}"
        )
    return ""
