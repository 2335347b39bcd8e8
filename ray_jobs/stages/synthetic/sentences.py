"""Pieces of a document that a translation model reads one by one, and pieces that fit into a request.

Sentences end where the script marks it (`train.chat.translate.split`). Thai and Lao have no such mark, and OCR or poetry of
any script may have none for long. There a stretch of more than `LONGEST` characters is cut at spaces, which part phrases in
Thai and Lao, else behind commas, else between words as our segmenter finds them. Nothing is lost: the pieces joined are the text.
"""

from __future__ import annotations

import re

from curation.text.words import split_words
from train.chat import translate

LONGEST = 300  # characters of a sentence; NLLB was trained on sentences, and leaves out parts of long ones
_SPACES = re.compile(r"(?<=\s)(?=\S)")
_CLAUSES = re.compile(r"(?<=[,;:،、，；：၊])")


def split(text: str, keep: bool = True) -> list[tuple[str, bool]]:
    """`translate.split` whose sentences have at most `LONGEST` characters, unless a single word has more."""
    found: list[tuple[str, bool]] = []
    for piece, wanted in translate.split(text, keep):
        if not wanted or len(piece) <= LONGEST:
            found.append((piece, wanted))
            continue
        for part in _cut(piece):
            body = part.rstrip()
            found.append((body, True))
            if len(body) < len(part):
                found.append((part[len(body) :], False))
    return found


def pieces(text: str, most: int) -> list[tuple[str, str]]:
    """(A piece, what parts it from the next) of a document: whole paragraphs, joined as long as they have at most `most`
    characters; a paragraph of more is cut at its sentences."""
    found: list[tuple[str, str]] = []
    for number, part in enumerate(re.split(r"(\n+)", text.strip())):
        if number % 2:
            if found:
                found[-1] = (found[-1][0], part)
            continue
        if found and len(found[-1][0]) + len(found[-1][1]) + len(part) <= most:
            found[-1] = (found[-1][0] + found[-1][1] + part, "")
        elif len(part) <= most:
            found.append((part, ""))
        else:
            atoms = [piece for piece, _ in split(part, keep=False)]
            found += [(one, "") for one in _joined(atoms, most)]
    ends = [gap or piece[len(piece.rstrip()) :] for piece, gap in found]
    begins = [piece[: len(piece) - len(piece.lstrip())] for piece, _ in found[1:]] + [""]
    parted = zip(found, ends, begins, strict=True)
    return [(piece.strip(), end + begin) for (piece, _), end, begin in parted if piece.strip()]


def _cut(stretch: str) -> list[str]:
    parts = _joined(_SPACES.split(stretch), LONGEST)
    parts = [
        one for part in parts for one in ([part] if len(part) <= LONGEST else _joined(_CLAUSES.split(part), LONGEST))
    ]
    return [one for part in parts for one in ([part] if len(part) <= LONGEST else _joined(_words(part), LONGEST))]


def _joined(atoms: list[str], most: int) -> list[str]:
    """Neighbours joined as long as they fit."""
    found: list[str] = []
    for atom in atoms:
        if found and len(found[-1]) + len(atom) <= most:
            found[-1] += atom
        else:
            found.append(atom)
    return found


def _words(text: str) -> list[str]:
    """The words of a stretch with what stands between them before the next."""
    lowered, found, at = text.lower(), [], 0
    if len(lowered) != len(text):  # a letter whose small form has more code points
        return [text]
    for word in split_words(text):
        start = lowered.find(word, at)
        if start > at:
            found.append(text[at:start])
            at = start
    return [*found, text[at:]]
