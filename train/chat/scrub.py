"""Emoji and stray formatting: counted, and taken out of answers (Sailor2 §5.2: GPT-4o's Lao and Khmer were full of them).

Letters, marks, digits, currency signs, punctuation, mathematics and code stay as they are, in every script; so do the joiners
(U+200B to U+200D) that Khmer, Burmese, Sinhala or Tamil write with.
"""

from __future__ import annotations

import re
import unicodedata

# What is shown as a picture without being asked to: Unicode's property Emoji_Presentation, and the skin tones.
_PICTURE = (
    "[\U0001f004\U0001f0cf\U0001f18e\U0001f191-\U0001f19a\U0001f1e6-\U0001f1ff\U0001f201-\U0001f265\U0001f300-\U0001f64f"
    "\U0001f680-\U0001f6ff\U0001f7e0-\U0001f7f0\U0001f90c-\U0001f9ff\U0001fa70-\U0001faff"
    "\u231a\u231b\u23e9-\u23ec\u23f0\u23f3\u25fd\u25fe\u2614\u2615\u2648-\u2653\u267f\u2693\u26a1\u26aa\u26ab\u26bd\u26be"
    "\u26c4\u26c5\u26ce\u26d4\u26ea\u26f2\u26f3\u26f5\u26fa\u26fd\u2705\u270a\u270b\u2728\u274c\u274e\u2753-\u2755\u2757"
    "\u2795-\u2797\u27b0\u27bf\u2b1b\u2b1c\u2b50\u2b55]"
)
# Symbols that U+FE0F turns into pictures; arrows, ©, ™ and others that mean something in a text are not among them.
_SYMBOL = (
    "[\u2328\u23cf\u23ed-\u23ef\u23f1\u23f2\u23f8-\u23fa\u24c2\u25aa\u25ab\u25b6\u25c0\u25fb\u25fc\u2600-\u27a0\u27a2-\u27bf"
    "\u303d\u3297\u3299\U0001f170\U0001f171\U0001f17e\U0001f17f]"
)
_ONE = f"(?:{_PICTURE}\ufe0f?|{_SYMBOL}\ufe0f)(?:[\U0001f3fb-\U0001f3ff]|[\U000e0020-\U000e007f])*"
_EMOJI = f"{_ONE}(?:\u200d(?:{_ONE}|{_SYMBOL}))*"
_KEYCAP = re.compile("([#*0-9])\ufe0f?\u20e3")
_COUNTED = re.compile(f"{_EMOJI}|{_KEYCAP.pattern}")
_RUN = re.compile(f"(?:{_EMOJI}\u200d?[ \t]*)+")

_STRAY = re.compile("[\ufe0f\ufeff\ufffd\u00ad\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\\*{3,}|#{7,}")
_CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]+`)", re.DOTALL)
# Opening or closing bold; neither 2**3 nor 2 ** 3.
_BOLD = re.compile(r"(?<!\*)(?!(?<=[0-9A-Za-z_)\]])\*\*[0-9A-Za-z_(])(?!(?<=\s)\*\*\s)\*\*(?!\*)")


def emoji_count(text: str) -> int:
    """Number of emoji; a joined sequence (family, flag tag, skin tone) is one. A flag of two letters counts as two."""
    return sum(1 for _ in _COUNTED.finditer(text))


def scrub(text: str) -> str:
    """`text` without emoji and stray formatting, code between backticks excepted.

    Taken out: emoji (of a keycap the digit stays), control and replacement characters, variation selector 16, runs of `***`
    and of more than six `#`, the last `**` when they are odd in number, white space at line ends, more than one empty line.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    while (clean := _once(text)) != text:
        text = clean
    return text


def _once(text: str) -> str:
    parts = _CODE.split(text)  # prose, code, prose, …
    parts[::2] = [_STRAY.sub("", _without_emoji(_KEYCAP.sub(r"\1", prose))) for prose in parts[::2]]
    bold = [(i, match.span()) for i in range(0, len(parts), 2) for match in _BOLD.finditer(parts[i])]
    if len(bold) % 2:
        i, (start, end) = bold[-1]
        parts[i] = parts[i][:start] + parts[i][end:]
    parts[::2] = [re.sub(r"\n{3,}", "\n\n", re.sub(r"(?<![ \t])[ \t]+(?=\n)", "", prose)) for prose in parts[::2]]
    return "".join(parts).strip()


def _without_emoji(text: str) -> str:
    """One space is left between what an emoji stood between, if there was any, or if two words would become one."""
    pieces, end = [], 0
    for match in _RUN.finditer(text):
        before, after = text[end : match.start()], text[match.end() : match.end() + 1]
        last = before[-1:]
        if not after or after in "\n,.!?;:)":
            before = before.rstrip(" \t")
        elif last.strip() and (match.group()[-1] in " \t" or (_in_word(last) and _in_word(after))):
            before += " "
        pieces.append(before)
        end = match.end()
    return "".join(pieces) + text[end:]


def _in_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"
