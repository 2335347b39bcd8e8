"""One text, one form: what looks the same on a page is the same string afterwards, whatever it was typed or encoded as.

The form is Unicode's NFC (UAX #15) and, beyond it, what each script of the region can write in two ways without a reader seeing
a difference. Thai and Lao: the parts of SARA AM, marks in any order, E twice for AE, the glyphs that Windows kept at U+F700.
Khmer: the parts of a consonant in the order of the Unicode Standard, 16.4 (robat, subscripts with RO last, shifter, vowel,
signs), vowels made of two, subscript DA as TA (their shapes are one), deprecated letters. Burmese: marks in the order of UTN #11,
digits that stand for the letters which they resemble, and Zawgyi in Unicode (`curation.text.zawgyi`). Vietnamese: a tone typed
before the circumflex, eth for D with stroke. Everywhere: a mark twice on a letter, Kangxi radicals, ligatures of f. Spelling is
left alone: where a Vietnamese tone stands (hòa, hoà), tall AA, numerals, anything that only means the same.

A pass over the bytes of a batch (`suspects`) finds the few texts in which anything may have to change; these are rewritten one by
one, by `one_form`. Every rule keeps NFC, and the whole is applied until nothing changes.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.text import zawgyi
from curation.text.units import SIZE, decode, text_buffers

KEPT, NORMALISED, ZAWGYI = "", "normalised", "zawgyi"
"""What became of a text: nothing, put in form, converted from Zawgyi."""
MOST_ROUNDS = 8  # of the rules; two are enough for all but made-up text
LONG_RUN = 32  # combining marks in a row from which on they are sorted here: Python's own sort is quadratic

# ---- the order of marks behind a letter: one list a script, in the order that they shall have


def _ranks(*groups: str) -> dict[str, int]:
    return {mark: rank for rank, group in enumerate(groups, 1) for mark in group}


THAI = _ranks(
    "\u0e3a", "\u0e38\u0e39", "\u0e31\u0e34\u0e35\u0e36\u0e37\u0e47", "\u0e4d", "\u0e48\u0e49\u0e4a\u0e4b", "\u0e4c", "\u0e4e"
)  # fmt: skip
LAO = _ranks(
    "\u0eba", "\u0ebc", "\u0eb8\u0eb9", "\u0eb1\u0eb4\u0eb5\u0eb6\u0eb7\u0ebb", "\u0ecd",
    "\u0ec8\u0ec9\u0eca\u0ecb", "\u0ecc\u0ece",
)  # fmt: skip
KHMER_LEFT, KHMER_ABOVE, KHMER_BELOW = "\u17c1\u17c2\u17c3", "\u17b7\u17b8\u17b9\u17ba", "\u17bb\u17bc\u17bd"
KHMER = _ranks(
    "\u17cc", "\u17d2", "", "\u17c9\u17ca", KHMER_LEFT, KHMER_ABOVE, KHMER_BELOW, "\u17b6\u17be\u17bf\u17c0\u17c4\u17c5",
    "\u17cb\u17cd\u17ce\u17cf\u17d0\u17d1\u17dd", "\u17c6", "\u17c7\u17c8",
)  # fmt: skip
RO_LAST = 3  # rank of a subscript RO, behind the other subscripts
BURMESE = _ranks(
    "\u103b", "\u103c", "\u103d", "\u103e", "\u1031", "\u102d\u102e\u1032\u1033\u1034\u1035", "\u102f\u1030",
    "\u102b\u102c", "\u1036", "\u1037", "\u103a", "\u1038",
)  # fmt: skip

# ---- what one sign, or a few, are written as


def _compatible(*ranges: tuple[int, int]) -> dict[str, str]:
    every = (chr(code) for first, last in ranges for code in range(first, last + 1))
    return {c: plain for c in every if (plain := unicodedata.normalize("NFKC", c)) != c}


_SHIFTED_GLYPHS = {  # Thai marks moved up, down or left of a tall letter, at private code points
    **dict(zip("\uf701\uf702\uf703\uf704", "\u0e34\u0e35\u0e36\u0e37", strict=True)),
    **{chr(first + k): chr(0x0E48 + k) for first in (0xF705, 0xF70A, 0xF713) for k in range(5)},
    **dict(zip("\uf700\uf70f\uf710\uf711\uf712", "\u0e10\u0e0d\u0e31\u0e4d\u0e47", strict=True)),
    **dict(zip("\uf718\uf719\uf71a", "\u0e38\u0e39\u0e3a", strict=True)),
}
_KHMER_LETTERS = {
    "\u17a3": "\u17a2",  # deprecated by the standard, as the next
    "\u17a4": "\u17a2\u17b6",
    "\u17a8": "\u17a7\u1780",
    "\u17b4": "",  # inherent vowels: no glyph
    "\u17b5": "",
    "\u17d8": "\u17d4\u179b\u17d4",
}
SINGLE = {**_compatible((0x2E80, 0x2FDF), (0xFB00, 0xFB06)), **_SHIFTED_GLYPHS, **_KHMER_LETTERS}
_SINGLE = re.compile(f"[{''.join(SINGLE)}]")

_BASE, _COENG = "[\u1780-\u17b3]", "\u17d2"
_FIRST_SERIES = frozenset("កខចឆដឋណតថបផសហឡអ")  # inherent vowel a; a shifter makes it o, but for BA
_MM_DIGIT, _MM_MARK = "[\u1040-\u1049]", "[\u102b-\u1032\u1036-\u1038\u103a-\u103e]"
_TONE_FIRST = re.compile("[àáảãạèéẻẽẹòóỏõọÀÁẢÃẠÈÉẺẼẸÒÓỎÕỌ][\u0302\u0306]")
_VIETNAMESE = re.compile("[\u1ea0-\u1ef9]")


def _run(marks: dict[str, int]) -> re.Pattern:
    return re.compile(f"[{''.join(marks)}]{{2,}}")


_THAI_RUN, _LAO_RUN = _run(THAI), _run(LAO)
_MEDIALS = "[\u103b-\u103e]"
_BURMESE_REST = "[\u102b-\u1030\u1032-\u1038\u103b-\u103e]"
_CLOSED = "\u103a?[\u1037\u1038\u103a]*"  # other marks behind an asat stay there
_BURMESE_RUN = re.compile(  # an E behind a vowel is of the next letter
    f"{_MEDIALS}*\u1031{_BURMESE_REST}+{_CLOSED}|{_BURMESE_REST}{{2,}}{_CLOSED}|{_BURMESE_REST}?\u103a[\u1037\u1038\u103a]+"
    "|\u1038\u103a"
)
_KHMER_SIGN = re.compile(f"{_COENG}{_BASE}|[{''.join(set(KHMER) - {_COENG})}]")
_KHMER_RUN = re.compile(f"([\u1780-\u17b3\u25cc]?)((?:{_KHMER_SIGN.pattern}){{2,}})")

Rule = tuple[re.Pattern, str | Callable[[re.Match], str]]


def _sorted(ranks: dict[str, int]) -> Callable[[re.Match], str]:
    """Marks by rank, those of a rank as they were, a mark but once."""

    def sort(match: re.Match) -> str:
        marks = sorted(match[0], key=ranks.__getitem__)
        return "".join(mark for k, mark in enumerate(marks) if not k or marks[k - 1] != mark)

    return sort


def _khmer(match: re.Match) -> str:
    base, run = match.groups()
    signs = sorted(_KHMER_SIGN.findall(run), key=lambda sign: RO_LAST if sign == "\u17d2\u179a" else KHMER[sign[0]])
    out = "".join(sign for k, sign in enumerate(signs) if not k or len(sign) == 2 or signs[k - 1] != sign)
    out = out.replace("\u17c1\u17b8", "\u17be").replace("\u17c1\u17b6", "\u17c4")
    if (
        base and "\u17bb" in out and re.search(f"[{KHMER_ABOVE}\u17be]", out)
    ):  # a shifter under such a vowel looks like U
        shifter = "\u17ca" if base in _FIRST_SERIES and base != "ប" else "\u17c9"
        out = shifter + out.replace("\u17bb", "")
    return base + out


RULES: tuple[tuple[re.Pattern, tuple[Rule, ...]], ...] = (
    (
        re.compile("[\u0e31-\u0e4e]"),
        (
            (_THAI_RUN, _sorted(THAI)),
            (re.compile("\u0e4d([\u0e48-\u0e4b]?)\u0e32"), "\\1\u0e33"),
            (re.compile("\u0e33([\u0e48-\u0e4b]+)"), "\\1\u0e33"),
            (re.compile("\u0e40\u0e40"), "\u0e41"),
        ),
    ),
    (
        re.compile("[\u0eb1-\u0ece]"),
        (
            (_LAO_RUN, _sorted(LAO)),
            (re.compile("\u0ecd([\u0ec8-\u0ecb]?)\u0eb2"), "\\1\u0eb3"),
            (re.compile("\u0eb3([\u0ec8-\u0ecb]+)"), "\\1\u0eb3"),
            (re.compile("\u0ec0\u0ec0"), "\u0ec1"),
        ),
    ),
    (
        re.compile("[\u17b6-\u17dd]"),
        ((re.compile("\u17d2\u178a"), "\u17d2\u178f"), (_KHMER_RUN, _khmer)),
    ),
    (
        re.compile("[\u1000-\u104e]"),
        (
            (_BURMESE_RUN, _sorted(BURMESE)),
            (re.compile("\u1025(?=[\u102c\u1039\u103a])"), "\u1009"),
            (re.compile(f"\u101e\u103c(?!{_MM_MARK})|\u101e\u103c(?=\u1031\u102c\u103a)"), "\u1029"),
            (re.compile("\u1029\u1031\u102c\u103a"), "\u102a"),
            (re.compile("\u1005\u103b"), "\u1008"),
            (re.compile(f"\u1040(?={_MM_MARK})"), "\u101d"),
            (re.compile(f"\u1047(?={_MM_MARK})"), "\u101b"),
            (re.compile("\u1044(?=\u1004\u103a\u1038)"), "\u104e"),
            (re.compile(f"(?<={_MM_DIGIT})\u101d+(?![\u1000-\u103f])"), lambda m: "\u1040" * len(m[0])),
        ),
    ),
    (
        re.compile("[\u0302\u0306]"),
        ((_TONE_FIRST, lambda m: _hat_first(m[0])),),
    ),
)


def _hat_first(pair: str) -> str:
    typed = unicodedata.normalize("NFD", pair[0])
    return unicodedata.normalize("NFC", typed[0] + pair[1] + typed[1])


def one_form(text: str) -> str:
    """The text in the one form; a text that is in it comes back as it is.

    >>> one_form("Vie" + chr(0x323) + chr(0x302) + "t Nam")
    'Việt Nam'
    """
    return normalised(text)[0]


def normalised(text: str) -> tuple[str, str]:
    """(The text in the one form, what was done: `KEPT`, `NORMALISED` or `ZAWGYI`)."""
    if text.isascii():
        return text, KEPT
    out, done = _nfc(text), NORMALISED
    if zawgyi.is_zawgyi(out):
        out, done = zawgyi.to_unicode(out), ZAWGYI
    if ("\u00d0" in out or "\u00f0" in out) and _VIETNAMESE.search(out):
        out = out.replace("\u00d0", "\u0110").replace("\u00f0", "\u0111")
    words = out.split(" ")  # no other rule reaches over a space
    wrong = np.flatnonzero(suspects(pa.array(words, pa.large_string()))).tolist()
    for k in wrong:
        words[k] = _in_form(words[k])
    out = " ".join(words) if wrong else out
    return out, KEPT if out == text else done


def _in_form(word: str) -> str:
    for _ in range(MOST_ROUNDS):
        before, word = word, _nfc(_ruled(word))
        if word == before:
            break
    return word


def in_one_form(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Texts of a string array in the one form; the same array where all are."""
    return forms(texts)[0]


def forms(texts: pa.Array | pa.ChunkedArray) -> tuple[pa.Array | pa.ChunkedArray, list[str]]:
    """(`in_one_form`, what was done to each text)."""
    done = [KEPT] * len(texts)
    rows = np.flatnonzero(suspects(texts))
    changed: dict[int, str] = {}
    for row in rows.tolist():
        before = texts[row].as_py()
        after, done[row] = normalised(before)
        if done[row]:
            changed[row] = after
    if not changed:
        return texts, done
    mask = np.zeros(len(texts), bool)
    mask[list(changed)] = True
    return pc.replace_with_mask(texts, pa.array(mask), pa.array(changed.values(), texts.type)), done


def suspects(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Which texts may not be in the one form, bool [N]; all others are."""
    data, offsets = text_buffers(texts)
    out = np.zeros(len(offsets) - 1, np.bool_)
    _suspects(data, offsets, _values(), out)
    return out


def _nfc(text: str) -> str:
    if unicodedata.is_normalized("NFC", text):
        return text
    return unicodedata.normalize("NFC", _long_run().sub(_canonical, text))


@functools.cache
def _long_run() -> re.Pattern:
    marks = (chr(code) for code in range(0x300, SIZE) if unicodedata.combining(chr(code)))
    return re.compile(f"[{''.join(marks)}]{{{LONG_RUN},}}")


def _canonical(run: re.Match) -> str:
    return "".join(sorted(unicodedata.normalize("NFD", "".join(run[0])), key=unicodedata.combining))


def _ruled(text: str) -> str:
    if _SINGLE.search(text):
        text = _SINGLE.sub(lambda m: SINGLE[m[0]], text)
    for sign, rules in RULES:
        if sign.search(text):
            for pattern, by in rules:
                text = pattern.sub(by, text)
    return text


# ---- the pass over bytes: a value for each code point, and what may not stand side by side

ALWAYS = 255  # has to be looked at, whatever stands around it
GROUP = 5  # bits of the rank; above them the script's number
_THAI, _LAO, _KHMER, _BURMESE, _OTHER, _LETTER = (number << GROUP for number in range(1, 7))
AM = 20  # rank of SARA AM: behind all marks


@functools.cache
def _values() -> np.ndarray:
    """uint8 [SIZE]: 0 for what nothing can happen to, script and rank of a mark, `_LETTER` for letters of the Myanmar script."""
    values = np.zeros(SIZE, np.uint8)
    composes = {0x1161 + k for k in range(21)} | {0x11A8 + k for k in range(27)}
    for code in range(0xC0, SIZE):
        char = chr(code)
        if 0xAC00 <= code <= 0xD7A3 or 0x3400 <= code <= 0x9FFF or 0x20000 <= code < 0x2F800:
            continue
        if unicodedata.normalize("NFC", char) != char or char in SINGLE:
            values[code] = ALWAYS
        elif unicodedata.combining(char):
            values[code] = _OTHER + 1
        parts = unicodedata.decomposition(char).split()
        if len(parts) == 2 and parts[0][0] != "<":
            composes.add(int(parts[1], 16))
    values[[*composes, 0xD0, 0xF0]] = ALWAYS
    for script, ranks in ((_THAI, THAI), (_LAO, LAO), (_KHMER, KHMER), (_BURMESE, BURMESE)):
        for mark, rank in ranks.items():
            values[ord(mark)] = script + rank
    values[0xE33], values[0xEB3], values[0x1039] = _THAI + AM, _LAO + AM, _BURMESE
    for first, last in re.findall("(.)(?:-(.))?", zawgyi.LETTERS + zawgyi.MEDIALS):
        codes = np.arange(ord(first), ord(last or first) + 1)
        values[codes[values[codes] == 0]] = _LETTER
    return values


@numba.njit(cache=True)
def _wrong(before2, before, code, previous, value):
    """Whether a code point (and its value) behind two others may have to change, or change what is before it."""
    if value == ALWAYS:
        return True
    script, rank = value >> GROUP, value & 31
    last_script, last_rank = previous >> GROUP, previous & 31
    if value and previous and value != _LETTER and previous != _LETTER:  # noqa: PLR1714
        if script != last_script or rank <= last_rank:
            return before != 0x103A or code in (0x1037, 0x103A)  # what an asat carries stays
        if value >= _KHMER + 5 and value <= _KHMER + 8 and last_rank >= 5:
            return True  # two vowels
    if 0xE00 <= code < 0xF00:
        if code == before and code in (0xE40, 0xEC0):
            return True
        return (code == 0xE32 and (before == 0xE4D or before2 == 0xE4D)) or (
            code == 0xEB2 and (before == 0xECD or before2 == 0xECD)
        )
    if 0x1780 <= code < 0x1800:
        return (code == 0x178A and before == 0x17D2) or (code == 0x17D2 and before == 0x179A and before2 == 0x17D2)
    if before == 0x1039 and value != _LETTER:
        return True
    if not 0x1000 <= code <= 0x109F:
        return False
    if code == 0x1031 and previous != _LETTER and not (last_script == _BURMESE >> GROUP and 1 <= last_rank <= 4):
        return True
    if code == 0x1039 and previous != _LETTER and before != 0x103A:
        return True
    if before == 0x1005:
        return code == 0x103B
    if before == 0x1025:
        return code in (0x102C, 0x102E, 0x1039, 0x103A)
    if before == 0x101E:
        return code == 0x103C
    if before == 0x1029:
        return code == 0x1031
    if before in (0x1040, 0x1047):
        return script == _BURMESE >> GROUP or code == 0x101D
    return (before == 0x1044 and code == 0x1004) or (0x1041 <= before <= 0x1049 and code == 0x101D)


@numba.njit(cache=True)
def _suspects(data, offsets, values, out):
    for d in range(len(offsets) - 1):
        i, end = offsets[d], offsets[d + 1]
        before2 = before = 0
        previous = 0
        while i < end:
            if data[i] < 0x80:
                if before == 0x1039:
                    break
                while i < end and data[i] < 0x80:
                    i += 1
                before2 = before = previous = 0
                continue
            code, size = decode(data, i, end)
            i += size
            value = int(values[code])
            if (value or previous or before >= 0xE32) and _wrong(before2, before, code, previous, value):
                out[d] = True
                break
            before2, before, previous = before, code, value
        if before == 0x1039:  # nothing stands below
            out[d] = True
