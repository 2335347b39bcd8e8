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
    langs, texts, urls = ([row[i] for row in rows] for i in range(3))
    read = pa.array([text[:READ_CHARS] for text in texts], pa.string())
    clean = mask(pa.record_batch({"text": read, "lang": pa.array(langs, pa.string())}))["text"].to_pylist()
    addresses = mask(pa.record_batch({"text": pa.array(urls, pa.string()), "lang": pa.array(langs, pa.string())}))
    result = []
    for lang, whole, text, url in zip(langs, texts, clean, addresses["text"].to_pylist(), strict=True):
        text = " ".join(text.split())
        begin = beginning(text)
        more = len(begin) < len(text) or len(whole) > READ_CHARS
        result.append(Shown(lang or "", pieces(begin), more, "".join(p.text for p in pieces(url[:MOST_URL]))))
    return result


def beginning(text: str, most: int = MOST_CHARS) -> str:
    """At most so many characters, and the marks that belong to the last of them.

    >>> beginning("ที่นี่", 1), beginning("fish", 9)
    ('ที่', 'fish')
    """
    end = most
    while end < len(text) and end < most + 8 and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return text[:end]
