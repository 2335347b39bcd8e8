"""The expressions by which byte-level BPE cuts text into pieces, and what tells them apart (mixture/bpe/pretokenize.py)."""

from __future__ import annotations

import re
from typing import NamedTuple


class Rules(NamedTuple):
    """What differs between the expressions."""

    any_prefix: bool  # any sign, not only a space, may stand before a word
    digits: int  # characters of a number that stay together
    digit_prefix: bool  # a space before a number belongs to it
    any_case: bool  # 'S as well as 's
    lines: bool  # line ends after signs, and white space up to a line end, are one piece
    marks: bool = False  # combining marks count as letters


_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{_WORDS}|\p{{N}}|{_REST}"
LLAMA3 = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
MARKS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
RULES = {
    QWEN2: Rules(any_prefix=True, digits=1, digit_prefix=False, any_case=True, lines=True),
    MARKS: Rules(any_prefix=True, digits=1, digit_prefix=False, any_case=True, lines=True, marks=True),
    LLAMA3: Rules(any_prefix=True, digits=3, digit_prefix=False, any_case=True, lines=True),
    GPT2: Rules(any_prefix=False, digits=1 << 62, digit_prefix=True, any_case=False, lines=False),
}
"""Expression, as tokenizer.json writes it -> what `next_piece` needs to know."""


def with_marks(pattern: str, marks: str) -> str:
    """An expression of RULES that takes the characters of `marks` for letters; a run of code points is written as one range. What
    has none of them is cut as before."""
    runs: list[list[int]] = []
    for code in sorted(set(map(ord, marks))):
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    inside = "".join(chr(low) if low == high else f"{chr(low)}-{chr(high)}" for low, high in runs)
    return _joining(pattern, inside)


def _joining(pattern: str, inside: str) -> str:
    for letters, joined in ((r"\p{L}+", rf"[\p{{L}}{inside}]+"), (r"\p{L}\p{N}]", rf"\p{{L}}\p{{N}}{inside}]")):
        pattern = pattern.replace(letters, joined)
    return pattern


def without_marks(pattern: str) -> tuple[str, str]:
    """The expression of RULES that `with_marks` was given, and the marks; an expression that it did not make as it is."""
    found = re.search(r"\[\\p\{L\}([^\]\\]+)\]\+", pattern)
    base = next((known for known in RULES if found and _joining(known, found[1]) == pattern), None)
    if found is None or base is None:
        return pattern, ""
    marks = re.sub(r"(.)-(.)", lambda run: "".join(map(chr, range(ord(run[1]), ord(run[2]) + 1))), found[1])
    return base, marks
