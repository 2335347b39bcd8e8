"""Zawgyi, the encoding of most Burmese text before about 2019: told from Unicode, and written in it.

A Zawgyi font has the glyphs of syllables at the code points of Unicode's Myanmar block, in the order of typing: the vowel E and
medial RA stand before their consonant, asat is U+1039, and shapes that depend on the neighbours have code points of their own.

`is_zawgyi` counts what one encoding writes often and the other never. An E that no consonant precedes and one follows, U+1039
with no letter to put below, a RA before its consonant are Zawgyi; an E with no letter after it and an asat between two parts of a
closed syllable are Unicode, in Burmese, Shan, Mon, Karen and Pali alike. A text is converted only where Zawgyi's signs are many
and Unicode's all but absent: a page in both stays as it is.
"""

from __future__ import annotations

import re

MIN_SIGNS = 3  # of Zawgyi in a text
MIN_RATIO = 50  # to those of Unicode
SAMPLE = 4_000  # characters, from the first possible sign on, that must hold so many already

E, ASAT, VIRAMA = "\u1031", "\u103a", "\u1039"
LETTERS = (
    "\u1000-\u102a\u103f\u1050-\u1055\u105a-\u105d\u1061\u1065\u1066\u106e-\u1070\u1075-\u1081\u108e"
    "\ua9e0-\ua9fe\uaa60-\uaa7f"
)
"""Consonants and independent vowels of all languages that are written in the Myanmar script."""
MEDIALS = "\u103b-\u103e\u105e-\u1060\u1082"
_JOINERS = "\u200b-\u200d\u2060\ufeff\u00ad\u25cc"
_Z_RA = "\u103b\u107e-\u1084"
_Z_BASES = "\u1000-\u102a\u103f\u1040\u1044\u1047\u104e\u106a\u106b\u106e\u106f\u1086\u108f-\u1092\u1097"

_OF_ZAWGYI = re.compile(
    f"(?<![{LETTERS}{MEDIALS}{_JOINERS}{VIRAMA}]){E}(?=[{_Z_RA}]?[{_Z_BASES}])"
    f"|{VIRAMA}(?![{LETTERS}{_JOINERS}])"
    f"|(?<![{LETTERS}{_JOINERS}{VIRAMA}{ASAT}{E}])\u103b(?=[\u1000-\u1021])"
)
_OF_UNICODE = re.compile(f"{E}(?![{_Z_BASES}{_Z_RA}{_JOINERS}{E}])|[\u102b\u102c\u1037]{ASAT}|{ASAT}\u1038")

_FIRST = re.compile(f"[{E}{VIRAMA}]")

KINZI = "\u1004\u103a\u1039"
_BELOW = {  # letters below another
    **dict(zip("\u1060\u1061\u1062\u1063\u1065\u1066\u1067\u1068\u1069\u106c\u106d", "ကခဂဃစဆဆဇဈဋဌ", strict=True)),
    **dict(zip("\u1070\u1071\u1072\u1073\u1074\u1075\u1076\u1077\u1078\u1079", "ဏတတထထဒဓနပဖ", strict=True)),
    **dict(zip("\u107a\u107b\u107c\u1085\u1093", "ဗဘမလဘ", strict=True)),
}
MARKS = {
    **{glyph: VIRAMA + letter for glyph, letter in _BELOW.items()},
    **{"\u1033": "\u102f", "\u1034": "\u1030", "\u1039": ASAT, "\u103a": "\u103b", "\u107d": "\u103b"},
    **{"\u103c": "\u103d", "\u103d": "\u103e", "\u1087": "\u103e", "\u108a": "\u103d\u103e"},
    **{"\u1088": "\u103e\u102f", "\u1089": "\u103e\u1030", "\u105a": "\u102b" + ASAT, "\u108e": "\u102d\u1036"},
    **{"\u1064": KINZI, "\u108b": KINZI + "\u102d", "\u108c": KINZI + "\u102e", "\u108d": KINZI + "\u1036"},
    **{"\u1094": "\u1037", "\u1095": "\u1037", "\u1096": VIRAMA + "တ\u103d"},
}
"""A glyph behind its consonant, in Unicode."""
BASES = {
    **{"\u106a": "ဉ", "\u106b": "ည", "\u1086": "ဿ", "\u108f": "န", "\u1090": "ရ"},
    **{"\u106e": "ဍ္ဍ", "\u106f": "ဍ္ဎ", "\u1091": "ဏ္ဍ", "\u1092": "ဋ္ဌ", "\u1097": "ဋ္ဋ"},
}
"""Shapes of a letter, and two letters in one glyph."""

_SYLLABLE = re.compile(f"([{E}{_Z_RA}]*)([{_Z_BASES}])([\u102b-\u1030\u1032-\u103a\u103c\u103d{''.join(MARKS)}]*)")
_MEDIAL_ORDER = "\u103b\u103c\u103d\u103e"
_CARRIES = re.compile("[\u103b-\u103e\u102b-\u1030\u1032]")  # what an asat before it closes no syllable with


def is_zawgyi(text: str) -> bool:
    """Whether a text is in Zawgyi throughout, by signs of either encoding; text in canonical order gives the same answer.

    >>> is_zawgyi("ေနာက္ေန႔ ေကာင္းေသာ"), is_zawgyi("နောက်နေ့ ကောင်းသော")
    (True, False)
    """
    first = _FIRST.search(text)
    if not first or len(_OF_ZAWGYI.findall(text, first.start(), first.start() + SAMPLE)) < MIN_SIGNS:
        return False
    signs = sum(1 for _ in _OF_ZAWGYI.finditer(text))
    return signs >= MIN_SIGNS and signs >= MIN_RATIO * sum(1 for _ in _OF_UNICODE.finditer(text))


def to_unicode(text: str) -> str:
    """Zawgyi in Unicode; signs that stand in no syllable one by one. Marks are in typing order where that is free.

    >>> to_unicode("ေက်ာင္း")
    'ကျောင်း'
    """
    return _SYLLABLE.sub(_syllable, text)


def _syllable(match: re.Match) -> str:
    before, base, glyphs = match.groups()
    marks = "".join(MARKS.get(glyph, glyph) for glyph in glyphs)
    kinzi = KINZI if KINZI in marks else ""
    marks = marks.replace(KINZI, "")
    below = "".join(re.findall(f"{VIRAMA}.", marks))
    marks = re.sub(f"{VIRAMA}.", "", marks)
    early, asat, behind = marks.partition(ASAT)
    closing = asat if _CARRIES.search(behind) and not _CARRIES.search(early) else ""  # of a letter that carries more
    if closing:
        marks = early + behind
    medials = "".join(m for m in _MEDIAL_ORDER if m in marks or (m == "\u103c" and before.strip(E)))
    vowels = "".join(m for m in marks if m not in _MEDIAL_ORDER)
    if base == "\u104e" and not glyphs and not match.string.startswith("\u1004", match.end()):
        return "\u104e\u1004\u103a\u1038"  # the font has the whole word at this point
    return kinzi + BASES.get(base, base) + below + closing + medials + E * (E in before) + vowels
