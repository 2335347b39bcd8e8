"""Properties of code points that the text edits and the signals share, as one table of bits for numba kernels.

"Special" is what the recipe (2.3) trims from words and counts in the special ratio: whitespace, digits, punctuation, symbols
and emoji, here by Unicode category instead of a list, so that it is the same idea in every script. Letters, combining marks
and letter numerals are not special; zero-width characters and variation selectors are neither special nor part of a word.
"""

from __future__ import annotations

import unicodedata

import numpy as np

from curation.text.units import CLASSES
from curation.text.units import LETTER as UNSPACED_LETTER

SPACE, SPECIAL, ALPHABETIC, UNSPACED, MARK, IGNORED, TERMINAL, BULLET = (1 << i for i in range(8))
"""Bits: whitespace; special; letter; letter of a script without spaces; combining mark; zero-width; ends a sentence; bullet."""

TERMINALS = ".!?\"'”’»…。！？．｡」』។៕៚။၊ฯ"
"""What a line of prose ends with: C4's list and its counterparts in the scripts of the recipe."""

BULLETS = "•‣⁃◦▪▫●○■□►▶◆◇∙·-–—*"

SCRIPT_WORDS = {"CJK": "HAN"}
"""First word of a Unicode character name -> script, where the two differ."""


def _tables() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    bits = np.zeros(len(CLASSES), np.uint8)
    script = np.zeros(len(CLASSES), np.uint8)
    names = [""]
    ids = {"": 0}
    for code in range(len(CLASSES)):
        character = chr(code)
        category = unicodedata.category(character)
        if category == "Cf" or 0xFE00 <= code <= 0xFE0F:
            bits[code] = IGNORED
        elif category[0] == "M":
            bits[code] = MARK
        elif category[0] == "L":
            bits[code] = ALPHABETIC
            word = unicodedata.name(character, "").split(" ", 1)[0].split("-", 1)[0]
            name = SCRIPT_WORDS.get(word, word)
            if name not in ids:
                # More than 255 scripts do not fit; letters of the last ones (none is in use today) stay nameless.
                ids[name] = len(names) if len(names) < 256 else 0
                names.append(name)
            script[code] = ids[name]
        elif category != "Nl":
            bits[code] = SPECIAL | (SPACE if character.isspace() else 0)
        if CLASSES[code] == UNSPACED_LETTER and not bits[code] & SPECIAL:
            bits[code] |= UNSPACED
    for character in TERMINALS:
        bits[ord(character)] |= TERMINAL
    for character in BULLETS:
        bits[ord(character)] |= BULLET
    return bits, script, tuple(names[:256])


BITS, SCRIPT, SCRIPTS = _tables()
"""Bits and script number of each code point below 0x40000; `SCRIPTS[number]` is the script's name in capitals."""

_QUOTES = dict.fromkeys("“”„‟«»「」『』《》〝〞", '"') | dict.fromkeys("‘’‚‛´", "'")
_MARKS = {**dict.fromkeys("‐‑‒–—―−", "-"), "。": ".", "、": ",", "・": "-", "〜": "~", "∶": ":", "【": "[", "】": "]"}


def _ascii() -> np.ndarray:
    table = np.zeros(0x10000, np.uint8)
    for wide in range(0xFF01, 0xFF5F):
        plain = chr(wide - 0xFEE0)
        if not plain.isalnum():
            table[wide] = ord(plain)
    for character, plain in {**_QUOTES, **_MARKS, "…": "."}.items():
        table[ord(character)] = ord(plain)
    return table


ASCII = _ascii()
"""ASCII counterpart of each punctuation mark below 0x10000, 0 for all else; an ellipsis is written three times."""


def script_number(name: str) -> int:
    """Number of a script in `SCRIPT` by its Unicode name in any case, e.g. "latin", "han". Raises ValueError when unknown."""
    if name.upper() not in SCRIPTS[1:]:
        raise ValueError(
            f"script {name!r} has no letters in Unicode; use the first word of its characters' names, like 'thai'"
        )
    return SCRIPTS.index(name.upper())


def only_words(text: str) -> str:
    """Text as fastText may see it: a word that it takes for a label, the end of a line or of a text is parted and means
    nothing to it. What a page says about itself must not train or stop a model.

    >>> only_words("__label__good </s>")
    '__ label__good < /s>'
    """
    return text.replace("\0", " ").replace("__label__", "__ label__").replace("</s>", "< /s>")
