"""Texts of a wanted length in tokens, with sentences hidden at wanted depths.

A haystack is the beginning of a list of documents, cut at the end of a sentence. How many sentences fit is found by bisection
over the tokens of the *whole* text: tokens of sentences do not add up, as a tokenizer joins them. So one sentence fewer fits and
one more does not, whatever the tokenizer; the length falls short by less than that sentence, which has `MOST` characters at most.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Sequence

MOST = 240  # characters of a sentence; a longer one is cut, at a space where it has one
SHORT = 0.1
"""By how much of its length a prompt may fall short."""

_ENDS = re.compile(r"(?:[.!?…။។]+[\"'”’»)\]]*\s+|[。！？]+[”’」』）]*\s*|\n+)")


def sentences(text: str) -> list[str]:
    """A text cut into sentences with the white space behind them; together they are the text again."""
    ends = [found.end() for found in _ENDS.finditer(text)]
    whole = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True) if b > a]
    return [piece for one in whole for piece in _pieces(one)]


def _pieces(text: str) -> list[str]:
    out = []
    while len(text) > MOST:
        at = max(text.rfind(" ", 0, MOST), text.rfind("\t", 0, MOST)) + 1
        if at < MOST // 4:  # no space where one would do: between letters, before no sign that belongs to one
            at = next((i for i in range(MOST, MOST // 2, -1) if unicodedata.category(text[i])[0] != "M"), MOST)
        out.append(text[:at])
        text = text[at:]
    return [*out, text] if text else out


def fitting(tokens: Callable[[int], int], budget: int, most: int, guess: int) -> int:
    """A number n of sentences, 0 to `most`, with tokens(n) <= budget, and tokens(n + 1) > budget unless n is `most`; -1 where
    not even none fits. Begins to look at `guess`; asks some 2 log2 of how far that is off."""
    if tokens(0) > budget:
        return -1
    fits, over, step, at = 0, most + 1, 1, min(max(guess, 1), most)
    while over - fits > 1:
        at = min(max(at, fits + 1), over - 1)
        if tokens(at) <= budget:
            fits, at = at, at + step
        else:
            over, at = at, at - step
        step *= 2
        if not fits < at < over:
            at = (fits + over) // 2
    return fits


def hidden(pieces: Sequence[str], inserts: Sequence[tuple[float, str]], starts: Sequence[int] | None = None) -> str:
    """The text of `pieces` with each sentence of `inserts` (depth 0 to 1, sentence) behind that share of the pieces, those of
    one depth in the order given. `starts`: the only places, but the two ends, where something may stand, sorted."""
    places: dict[int, list[str]] = {}
    for depth, sentence in inserts:
        place = round(depth * len(pieces))
        places.setdefault(place if starts is None else _nearest(place, starts, len(pieces)), []).append(sentence)
    out: list[str] = []
    for place in range(len(pieces) + 1):
        for sentence in places.get(place, ()):
            apart = "" if not out or out[-1][-1:].isspace() else " "
            out.append(f"{apart}{sentence}{'' if sentence[-1:].isspace() else ' '}")
        out += pieces[place : place + 1]
    return "".join(out)


def _nearest(place: int, starts: Sequence[int], end: int) -> int:
    i = bisect_left(starts, place)
    return min({0, end, *starts[max(i - 1, 0) : i + 1]} - {p for p in starts if p > end}, key=lambda p: abs(p - place))
