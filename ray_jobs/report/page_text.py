"""Text of strangers on a page: what a reader cannot see is named, everything else stays as it is."""

from __future__ import annotations

import re
from typing import NamedTuple

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad"  # control characters but tab and newline; soft hyphen
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change of direction
    "\u2028\u2029\ufeff\ufff9-\uffff\ue000-\uf8ff\U000e0000-\U000e0fff\U000f0000-\U0010ffff]"
)
"""Zero-width spaces and joiners are not among them: Khmer, Burmese, Lao and emoji are written with them."""


class Piece(NamedTuple):
    text: str
    hidden: bool


def pieces(text: str) -> list[Piece]:
    r"""The text in order, each hidden character by the name of its code point.

    >>> pieces("a\u202eb")
    [Piece(text='a', hidden=False), Piece(text='U+202E', hidden=True), Piece(text='b', hidden=False)]
    """
    found, at = [], 0
    for match in _HIDDEN.finditer(text):
        found.append(Piece(text[at : match.start()], False))
        found.append(Piece(f"U+{ord(match[0]):04X}", True))
        at = match.end()
    found.append(Piece(text[at:], False))
    return [piece for piece in found if piece.text]
