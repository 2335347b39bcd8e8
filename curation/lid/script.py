"""Which script a text is written in: the share of its letters that belong to the scripts of a language.

Letters are the code points of Unicode categories L and M (vowel signs and tone marks of Thai, Lao, Khmer and Burmese
are marks, and as much a part of the text as letters).
"""

from __future__ import annotations

import unicodedata
from functools import cache

import numba
import numpy as np
import pyarrow as pa

from curation.text.units import decode, text_buffers

# ISO 15924 codes and their Unicode blocks (first and last code point).
SCRIPTS = {
    "Latn": ((0x41, 0x24F), (0x250, 0x2AF), (0x300, 0x36F), (0x1E00, 0x1EFF), (0x2C60, 0x2C7F), (0xA720, 0xA7FF)),
    "Thai": ((0xE00, 0xE7F),),
    "Laoo": ((0xE80, 0xEFF),),
    "Khmr": ((0x1780, 0x17FF), (0x19E0, 0x19FF)),
    "Mymr": ((0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)),
    "Hani": ((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),
    "Kana": ((0x3040, 0x30FF), (0x31F0, 0x31FF)),
    "Hang": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7FF)),
    "Arab": ((0x600, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF)),
    "Cyrl": ((0x400, 0x52F),),
    "Grek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "Hebr": ((0x590, 0x5FF),),
    "Deva": ((0x900, 0x97F),),
    "Beng": ((0x980, 0x9FF),),
    "Taml": ((0xB80, 0xBFF),),
    "Sinh": ((0xD80, 0xDFF),),
    "Tibt": ((0xF00, 0xFFF),),
}
LANGUAGE_SCRIPTS = {
    **dict.fromkeys(("ceb", "en", "id", "ilo", "jv", "ms", "su", "tl", "vi", "war", "min"), ("Latn",)),
    **dict.fromkeys(("de", "es", "fr", "it", "nl", "pt"), ("Latn",)),
    **{"th": ("Thai",), "lo": ("Laoo",), "km": ("Khmr",), "my": ("Mymr",), "zh": ("Hani",), "yue": ("Hani",)},
    **{"ja": ("Kana", "Hani"), "ko": ("Hang", "Hani"), "ar": ("Arab",), "fa": ("Arab",), "ur": ("Arab",)},
    **{"ru": ("Cyrl",), "uk": ("Cyrl",), "el": ("Grek",), "he": ("Hebr",), "hi": ("Deva",), "ne": ("Deva",)},
    **{"bn": ("Beng",), "ta": ("Taml",), "si": ("Sinh",), "bo": ("Tibt",)},
}
LETTER = 255  # a letter of a script that is not listed


def share(texts: pa.Array, langs: list[str | None], max_chars: int = 1 << 62) -> np.ndarray:
    """Share of the letters of each text's first `max_chars` characters in the scripts of its language, float64 `[n]`.

    1.0 where the language is None or its scripts are not known, 0.0 for a text without letters.
    """
    number = {script: i for i, script in enumerate(SCRIPTS, 1)}
    names = sorted({lang or "" for lang in langs})
    wanted = np.zeros((len(names), 256), bool)
    for row, name in enumerate(names):
        wanted[row, [number[script] for script in LANGUAGE_SCRIPTS.get(name, ())]] = True
    index = {name: row for row, name in enumerate(names)}
    rows = np.array([index[lang or ""] for lang in langs], np.int64)
    inside, letters = _count(*text_buffers(texts), max_chars, _classes(), wanted, rows)
    known = wanted[rows].any(axis=1)
    return np.where(known, inside / np.maximum(letters, 1), 1.0)


@numba.njit(cache=True)
def _count(data, offsets, max_chars, classes, wanted, rows):  # noqa: PLR0917
    inside = np.zeros(len(rows), np.int64)
    letters = np.zeros(len(rows), np.int64)
    for d in range(len(rows)):
        i, end, chars = offsets[d], offsets[d + 1], 0
        while i < end and chars < max_chars:
            code, size = decode(data, i, end)
            i += size
            chars += 1
            kind = classes[code]
            letters[d] += kind > 0
            inside[d] += wanted[rows[d], kind]
    return inside, letters


@cache
def _classes() -> np.ndarray:
    """uint8 `[0x40001]`: 0 for what is no letter, the script's number, or `LETTER`."""
    table = np.zeros(0x40001, np.uint8)
    for code in range(0x20000):
        if unicodedata.category(chr(code))[0] in "LM":
            table[code] = LETTER
    table[0x20000:0x40000] = LETTER
    for number, blocks in enumerate(SCRIPTS.values(), 1):
        for first, last in blocks:
            block = table[first : last + 1]
            block[block == LETTER] = number
    return table
