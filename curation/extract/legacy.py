"""Encodings of South-East Asia that neither Python nor the web's standard knows, and whether decoded text looks like a language.

VISCII (RFC 1456), TCVN3 (TCVN 5712, as the fonts called .VnTime have it: capitals are a font, not a code) and VNI (a letter,
then a byte for its mark) were common on Vietnamese pages until about 2005.
"""

from __future__ import annotations

import re
import unicodedata

_LOW = {0x02: "Ẳ", 0x05: "Ẵ", 0x06: "Ẫ", 0x14: "Ỷ", 0x19: "Ỹ", 0x1E: "Ỵ"}
_HIGH = "".join(
    [
        "ẠẮẰẶẤẦẨẬẼẸẾỀỂỄỆỐỒỔỖỘỢỚỜỞỊỎỌỈỦŨỤỲÕắằặấầẩậẽẹếềểễệốồổỗỠƠộờởịỰỨỪỬơớƯ",
        "ÀÁÂÃẢĂẳẵÈÉÊẺÌÍĨỳĐứÒÓÔạỷừửÙÚỹỵÝỡưàáâãảăữẫèéêẻìíĩỉđựòóôõỏọụùúũủýợỮ",
    ]
)
VISCII = {**_LOW, **{0x80 + i: letter for i, letter in enumerate(_HIGH)}}
TCVN3 = {
    first + i: letter
    for first, letters in {
        0xA1: "ĂÂÊÔƠƯĐăâêôơưđ",
        0xB5: "àảãáạ",
        0xBB: "ằẳẵắ",
        0xC6: "ặầẩẫấậè",
        0xCE: "ẻẽéẹềểễếệìỉ",
        0xDC: "ĩíịò",
        0xE1: "ỏõóọồổỗốộờởỡớợù",
        0xF1: "ủũúụừửữứựỳỷỹýỵ",
    }.items()
    for i, letter in enumerate(letters)
}
_GRAVE, _HOOK, _TILDE, _ACUTE, _DOT, _HAT, _BREVE = "\u0300\u0309\u0303\u0301\u0323\u0302\u0306"
_MARKS = {
    **{"ù": _ACUTE, "ø": _GRAVE, "û": _HOOK, "õ": _TILDE, "ï": _DOT, "â": _HAT, "ê": _BREVE},
    **{"á": _HAT + _ACUTE, "à": _HAT + _GRAVE, "å": _HAT + _HOOK, "ã": _HAT + _TILDE, "ä": _HAT + _DOT},
    **{"é": _BREVE + _ACUTE, "è": _BREVE + _GRAVE, "ú": _BREVE + _HOOK, "ü": _BREVE + _TILDE, "ë": _BREVE + _DOT},
}
_ALONE = dict(zip("ôöñíìæóòîÔÖÑÍÌÆÓÒÎ", "ơưđíìỉĩịỵƠƯĐÍÌỈĨỊỴ", strict=True))
VNI = {
    base + (mark.upper() if upper else mark): unicodedata.normalize("NFC", _ALONE.get(base, base) + signs)
    for base in "aeouyôöAEOUYÔÖ"
    for mark, signs in _MARKS.items()
    for upper in (False, True)
    if not (base.islower() and upper)
}
_VNI = re.compile("|".join([*sorted(VNI), *_ALONE]))
NAMES = ("viscii", "tcvn3", "vni")
LABELS = {
    **dict.fromkeys(("viscii", "csviscii", "viscii11", "vietviscii"), "viscii"),
    **dict.fromkeys(("tcvn", "tcvn3", "tcvn5712", "tcvn57121", "viettcvn5712", "viettcvn", "abc"), "tcvn3"),
    **dict.fromkeys(("vni", "vietvni", "vniwin", "vniwindows"), "vni"),
}
"""Labels of charsets without hyphens and `x-`."""

_COMMON = """
    và của là không được các một người những trong có cho với đã này đó để từ về khi ra vào tôi ông bà anh chị năm ngày nước
    nhà thì mà nói làm việc cũng như đến tại còn rất hơn sẽ bị ở đi chúng họ nhiều
"""
COMMON_VIETNAMESE = frozenset(_COMMON.split())
COMMON_HAN = frozenset(
    "的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然没日于起还发成事"
    "只作当想看文无开手十用主行方又如前所本見經頭面公同三已老从動動兩長把給門點國這個們來時會對說學過後發為無從還開經見現點與當請新網頁業體"
)
RARE_THAI = frozenset("ฃฅฆฌฎฏฐฑฒฬฮฯๅ๎๏๐๑๒๓๔๕๖๗๘๙๚๛ฺํ฿")
_TAG = re.compile(r"<[^>]{0,2000}>")
_WORD = re.compile(r"[^\W\d_]+")
_RUN = re.compile("[^\x00-\x7f]+")
SAMPLE = 30_000  # characters that are looked at


def decode(payload: bytes, name: str) -> str:
    """A page in one of `NAMES`; U+FFFD for bytes that it has no letter for."""
    if name == "vni":
        return _VNI.sub(lambda one: VNI.get(one[0]) or _ALONE[one[0]], payload.decode("cp1252", "replace"))
    table = VISCII if name == "viscii" else TCVN3
    text = payload.decode("latin-1")
    if name == "tcvn3":
        table = {**dict.fromkeys(range(0x80, 0x100), "\ufffd"), 0xA0: "\xa0", **table}
    return text.translate(table)


def words(html: str) -> str:
    """The begin of a page without its tags."""
    return _TAG.sub(" ", html[: 4 * SAMPLE])[:SAMPLE]


def vietnamese(text: str) -> int:
    """How many common Vietnamese words that have a mark are in a text."""
    found = _WORD.findall(unicodedata.normalize("NFC", text).lower())
    return sum(word in COMMON_VIETNAMESE and not word.isascii() for word in found)


def is_latin(text: str) -> bool:
    """Whether most letters beyond ASCII are Latin ones."""
    signs = "".join(_RUN.findall(text))
    return 2 * sum(sign < "\u0250" or "\u1e00" <= sign <= "\u1eff" for sign in signs) > len(signs)


def plausible(text: str) -> bool:
    """Whether the letters beyond ASCII stand as they do in a language: Latin ones amid others, Thai ones in runs and each mark
    on a letter, Han ones common. Too few letters to say anything are plausible."""
    runs = _RUN.findall(text)
    n = sum(map(len, runs))
    if n < 12:
        return True
    broken = text.count("\ufffd")
    if broken * 20 > n:
        return False
    in_runs = sum(len(run) for run in runs if len(run) >= 4)
    if is_latin(text):
        return in_runs < 0.5 * n
    thai = sum("\u0e00" <= character <= "\u0e7f" for run in runs for character in run)
    if thai > 0.5 * n:
        rare = sum(character in RARE_THAI for run in runs for character in run)
        return in_runs > 0.5 * n and _misplaced(runs) < 0.08 * n and rare < 0.08 * n
    han = [
        character for run in runs for character in run if "\u3400" <= character <= "\u9fff" or character >= "\U00020000"
    ]
    if len(han) > 0.5 * n:
        return sum(character in COMMON_HAN for character in han) > 0.06 * len(han)
    kana = sum("\u3040" <= character <= "\u30ff" for run in runs for character in run)
    hangul = sum("\uac00" <= character <= "\ud7a3" for run in runs for character in run)
    other = sum(unicodedata.category(character)[0] in "LMPN" for run in runs for character in run)
    return kana + hangul + len(han) > 0.5 * n or other > 0.9 * n


def _misplaced(runs: list[str]) -> int:
    """Thai marks that stand on no consonant, and vowels written first with none behind them."""
    wrong = 0
    for run in runs:
        for i, sign in enumerate(run):
            before = run[i - 1] if i else " "
            if "\u0e34" <= sign <= "\u0e3a" or sign in "\u0e31\u0e47" or "\u0e48" <= sign <= "\u0e4e":
                wrong += not (
                    "\u0e01" <= before <= "\u0e2e" or "\u0e31" <= before <= "\u0e3a" or "\u0e47" <= before <= "\u0e4d"
                )
            elif "\u0e40" <= sign <= "\u0e44":
                wrong += not (i + 1 < len(run) and "\u0e01" <= run[i + 1] <= "\u0e2e")
            elif sign in "\u0e30\u0e32\u0e33":
                wrong += before in " \u0e40\u0e41\u0e42\u0e43\u0e44"
    return wrong


_PAIRS = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]+"
)


def once(text: str) -> str:
    """Text whose UTF-8 was taken for windows-1252 and written as UTF-8 again, put right; any other as it is."""
    if text.isascii():
        return text
    try:
        text.encode("ascii")
    except UnicodeEncodeError as first:  # the quickest way to where that is
        if not _PAIRS.match(text, first.start):
            return text
    sample = words(text)
    n = sum(map(len, _RUN.findall(sample)))
    if n < 12 or sum(map(len, _PAIRS.findall(sample))) < 0.8 * n:
        return text

    def again(run: re.Match) -> str:
        data = bytearray()
        for sign in run[0]:
            try:
                data += sign.encode("cp1252")
            except UnicodeEncodeError:
                if sign > "\xff":
                    return run[0]
                data.append(ord(sign))
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return run[0]

    return _RUN.sub(again, text)
