"""Texts of strangers as the report shows them: their beginning, personal data masked, what cannot be seen named."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from curation.signals.masking import mask
from ray_jobs.report.page_text import Piece, pieces

MOST_CHARS, MOST_URL = 300, 200
READ_CHARS = 2_000  # of a text that are looked at; masking does not see what lies behind


class Shown(NamedTuple):
    lang: str
    pieces: list[Piece]
    cut: bool
    url: str


def of(rows: Sequence[tuple[str | None, str, str]]) -> list[Shown]:
    """`rows`: language, text, URL. A run keeps texts before the filter unmasked; here every one is masked."""
    if not rows:
        return []
    langs = [lang for lang, _, _ in rows]
    clean = masked([text[:READ_CHARS] for _, text, _ in rows], langs)
    addresses = masked([url for _, _, url in rows], langs)
    result = []
    for (lang, whole, _), text, url in zip(rows, clean, addresses, strict=True):
        text = " ".join(text.split())
        begin = beginning(text)
        more = len(begin) < len(text) or len(whole) > READ_CHARS
        result.append(Shown(lang or "", pieces(begin), more, line(url)))
    return result


def masked(texts: Sequence[str], langs: Sequence[str | None]) -> list[str]:
    columns = {"text": pa.array(texts, pa.string()), "lang": pa.array(langs, pa.string())}
    return mask(pa.record_batch(columns))["text"].to_pylist()


def line(text: str) -> str:
    r"""An address or a word of the ledger: cut, with hidden characters by their names.

    >>> line("a\u202eb"), len(line("x" * 999))
    ('aU+202Eb', 201)
    """
    cut = text if len(text) <= MOST_URL else f"{text[:MOST_URL]}…"
    return "".join(piece.text for piece in pieces(cut))


def beginning(text: str, most: int = MOST_CHARS) -> str:
    """At most so many characters, and the marks that belong to the last of them.

    >>> beginning("ที่นี่", 1), beginning("fish", 9)
    ('ที่', 'fish')
    """
    end = most
    while end < len(text) and end < most + 8 and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return text[:end]
