r"""Cut text into the pieces that no token crosses, as the expressions of GPT-2, Qwen2, Qwen3.5 and Llama 3 do, without one.

The expressions are lists of alternatives of which the first that matches wins; `next_piece` walks them by hand:

    contraction            'm 's 't 'd 've 're 'll  (any case, but for GPT-2)
    [^\r\n\p{L}\p{N}]?\p{L}+                        a word with at most one sign before it (GPT-2: only a space)
    \p{N}                                           a digit (Llama 3: up to three; GPT-2: a number, a space before it)
     ?[^\s\p{L}\p{N}]+[\r\n]*                       signs, a space before, line ends after them (GPT-2: none)
    \s*[\r\n]+                                      white space to its last line end (not GPT-2)
    \s+(?!\S)                                       white space but its last character, unless the text ends
    \s+                                             white space

Qwen3.5's (MARKS) is Qwen2's with \p{M} beside each \p{L}: vowel signs, tone marks and viramas stay in the word, where Qwen2's
cuts a Burmese, Khmer, Lao or Thai word before each. For it a mark is a letter, so the walk is the same.

The marks of some scripts alone may count as letters too (`patterns.with_marks`).

Which code point is a letter, a number or a space is asked of the engine inside `tokenizers` itself, once a process: its
Unicode version is not Python's. Cost: one table look-up a character; every character is read at most three times.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numba
import numpy as np
from tokenizers import Regex, pre_tokenizers

from mixture.bpe.patterns import Rules
from mixture.bpe.utf8 import CODES, load8, symbol

OTHER, LETTER, NUMBER, SPACE, NEWLINE = range(5)
APOSTROPHE, BLANK = 0x27, 0x20
ASSIGNABLE = (range(0xD800), range(0xE000, 0x34000), range(0xE0000, 0xE1000))  # all else is unassigned or private use


class Tables(NamedTuple):
    """uint8 by code point: its class, and which ASCII letter it is for a contraction (0: none)."""

    classes: np.ndarray
    letters: np.ndarray


@functools.cache
def tables(any_case: bool, marks: bool = False, joined: str = "") -> Tables:
    """The classes of all code points, in the Unicode version of the expression engine of `tokenizers`. All combining `marks`, or
    those of `joined`, are letters."""
    text = "".join(chr(code) for codes in ASSIGNABLE for code in codes)
    code_of = np.concatenate([np.arange(codes.start, codes.stop) for codes in ASSIGNABLE])
    runs = pre_tokenizers.Split(Regex(r"\p{L}+|\p{M}+|\p{N}+|\s+"), "isolated").pre_tokenize_str(text)
    first = "".join(run[0] for run, _ in runs)
    classes = np.zeros(CODES, np.uint8)
    for kind, pattern in ((LETTER, r"[\p{L}\p{M}]" if marks else r"\p{L}"), (NUMBER, r"\p{N}"), (SPACE, r"\s")):
        for run in _matches(pattern, first):
            start, stop = runs[run][1]
            classes[code_of[start:stop]] = kind
    classes[[0x0A, 0x0D]] = NEWLINE
    classes[list(map(ord, joined))] = LETTER
    return Tables(classes, _letters(any_case))


def _matches(pattern: str, text: str) -> list[int]:
    """Where in the text single characters match."""
    rest = pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(text)
    kept = {i for _, (start, stop) in rest for i in range(start, stop)}
    return [i for i in range(len(text)) if i not in kept]


def _letters(any_case: bool) -> np.ndarray:
    letters = np.zeros(CODES, np.uint8)
    folding = [chr(c) for c in range(0x20000) if not 0xD800 <= c < 0xE000]
    folding = [c for c in folding if {c.lower(), c.upper().lower(), c.casefold()} & set("stmdrevl")]
    for letter in "stmdrevl":
        for i in _matches(f"(?i:{letter})" if any_case else letter, "".join(folding)):
            letters[ord(folding[i])] = ord(letter)
    return letters


@numba.njit
def _contraction(at, end, letters):
    """The end of 's, 't, 're … whose apostrophe stands at `at`; `at` when there is none."""
    after = at + 1
    if after >= end:
        return at
    code, length = symbol(after)
    first = load8(letters + code)
    after += length
    if first == 0:
        return at
    if first in (0x73, 0x74, 0x6D, 0x64):  # s t m d
        return after
    if after >= end:
        return at
    code, length = symbol(after)
    second = load8(letters + code)
    if second == 0x65 and first in (0x72, 0x76):  # re ve
        return after + length
    return after + length if first == 0x6C and second == 0x6C else at  # ll


@numba.njit
def _run(at, end, classes, kind, limit):
    """The end of at most `limit` characters of one class from `at` on."""
    while at < end and limit > 0:
        code, length = symbol(at)
        if load8(classes + code) != kind:
            break
        at += length
        limit -= 1
    return at


ALL = 1 << 62


@numba.njit
def _white_space(at, end, classes, lines):
    """The end of the piece that begins with the white space at `at`."""
    stop, last, after_line = at, at, at
    while stop < end:
        code, length = symbol(stop)
        kind = load8(classes + code)
        if kind < SPACE:
            break
        last = stop
        stop += length
        if kind == NEWLINE:
            after_line = stop
    if lines and after_line > at:
        return after_line
    return stop if stop == end or last == at else last


@numba.njit
def next_piece(at, end, classes, letters, rules: Rules):
    """The address after the piece that begins at `at` (< end). `classes` and `letters` are addresses of `Tables`."""
    any_prefix, digits, digit_prefix, _, lines, _ = rules
    code, length = symbol(at)
    kind = load8(classes + code)
    if kind == LETTER:
        return _run(at + length, end, classes, LETTER, ALL)
    if code == APOSTROPHE:
        stop = _contraction(at, end, letters)
        if stop > at:
            return stop
    if kind == NUMBER:
        return _run(at + length, end, classes, NUMBER, digits - 1)
    second, kind_second = at + length, -1
    if second < end:
        code_second, _ = symbol(second)
        kind_second = load8(classes + code_second)
    if kind_second == LETTER and kind != NEWLINE and (any_prefix or code == BLANK):
        return _run(second, end, classes, LETTER, ALL)
    if kind_second == NUMBER and digit_prefix and code == BLANK:
        return _run(second, end, classes, NUMBER, digits)
    if kind == OTHER or (code == BLANK and kind_second == OTHER):
        stop = _run(second, end, classes, OTHER, ALL)
        return _run(stop, end, classes, NEWLINE, ALL) if lines else stop
    return _white_space(at, end, classes, lines)
