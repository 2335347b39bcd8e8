"""A plain twin of `curation.text.words` and `curation.text.segment`: strings, sets and lists, after the same published
description."""

from __future__ import annotations

import unicodedata
import zipfile
from functools import cache
from itertools import pairwise

import pyarrow as pa

from curation.text import icu_dictionary
from curation.text.form import in_one_form

UNSPACED_BLOCKS = (
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "IDEOGRAPHIC",
    "HALFWIDTH KATAKANA",
)
BEGINS = {
    "THAI": [*range(0x0E01, 0x0E2F), *range(0x0E40, 0x0E45)],
    "LAO": [*range(0x0E81, 0x0EAF), 0x0EDC, 0x0EDD, *range(0x0EC0, 0x0EC5)],
    "KHMER": range(0x1780, 0x17B4),
    "MYANMAR": range(0x1000, 0x102B),
}
NEVER_ENDS = {"THAI": [0x0E31, *range(0x0E40, 0x0E45)], "LAO": range(0x0EC0, 0x0EC5), "KHMER": [0x17D2], "MYANMAR": []}


@cache
def category(c: str) -> str:
    if unicodedata.category(c) == "Cf" or "\ufe00" <= c <= "\ufe0f":
        return "ignored"
    major = unicodedata.category(c)[0]
    if major == "M":
        return "mark"
    if major == "L":
        return "unspaced" if unicodedata.name(c, "").startswith(UNSPACED_BLOCKS) else "letter"
    if unicodedata.category(c) == "Nl":
        return "unspaced" if unicodedata.name(c).startswith("IDEOGRAPHIC") else "letter-like"
    return "special"


@cache
def script(c: str) -> str:
    """The dictionary that takes a letter or mark, or nothing."""
    if category(c) not in ("unspaced", "mark"):
        return ""
    block = unicodedata.name(c, "").replace("-", " ").split()[0]
    return dict.fromkeys(("CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC", "HALFWIDTH"), "HAN").get(
        block, block if block in BEGINS else ""
    )


@cache
def dictionary(name: str) -> tuple[dict[str, int], set[str]]:
    """(Words with their costs, also in the one form; all that a word starts with)."""
    file = {"THAI": "thai", "LAO": "lao", "KHMER": "khmer", "MYANMAR": "burmese", "HAN": "cj"}[name]
    with zipfile.ZipFile(icu_dictionary.jar()) as archive:
        text, offsets, costs = icu_dictionary.words(archive.read(f"{icu_dictionary.FOLDER}/{file}dict.dict"))
    letters = "".join(map(chr, text))
    words = dict(zip([letters[a:b] for a, b in pairwise(offsets)], costs.tolist(), strict=True))
    in_form = dict(zip(in_one_form(pa.array(words, pa.string())).to_pylist(), words.values(), strict=True))
    words = {word: cost for word, cost in in_form.items() if word} | words
    return words, {w[:i] for w in words for i in range(1, len(w) + 1)}


def segment(run: str, name: str) -> list[str]:
    return cheapest(run) if name == "HAN" else maximal(run, name)


def maximal(run: str, name: str) -> list[str]:
    words, prefixes = dictionary(name)

    def candidates(i: int) -> list[int]:
        return [n for n in range(1, len(run) - i + 1) if run[i : i + n] in words]

    def looked_at(i: int) -> int:
        n = 0
        while i + n < len(run):
            n += 1
            start = run[i : i + n]
            if start not in prefixes or (
                start in words and not any(p.startswith(start) and p != start for p in prefixes)
            ):
                break
        return n

    def best(i: int) -> int:
        found = candidates(i)
        if not found or i + found[-1] >= len(run):
            return found[-1] if found else 0
        mark = found[-1]
        for first in reversed(found):
            second = candidates(i + first)
            if second:
                mark = first
                if i + first + second[-1] >= len(run) or any(candidates(i + first + n) for n in second):
                    return mark
        return mark

    if name == "THAI" and len(run) < 4:
        return [run]
    out, at = [], 0
    while at < len(run):
        length = best(at)
        end = at + length
        if end < len(run) and length < 3 and not candidates(end) and (length == 0 or looked_at(end) < 3):
            end += 1
            while end < len(run):
                ends = ord(run[end - 1]) not in NEVER_ENDS[name]
                if ends and ord(run[end]) in BEGINS[name] and candidates(end):
                    break
                end += 1
        while end < len(run) and category(run[end]) == "mark":
            end += 1
        if end < len(run) and not candidates(end):
            if run[end] == "ฯ" and run[end - 1] not in "ฯๆ":
                end += 1
            if run[end : end + 1] == "ๆ" and run[end - 1] != "ๆ":
                end += 1
        out.append(run[at:end])
        at = end
    return out


def cheapest(run: str) -> list[str]:
    words, _ = dictionary("HAN")
    best: list[tuple[int, list[str]]] = [(0, [])]

    def katakana(c: str) -> bool:
        return ("\u30a1" <= c <= "\u30fe" and c != "\u30fb") or "\uff66" <= c <= "\uff9f"

    for end in range(1, len(run) + 1):
        options = []
        for start in range(max(0, end - 20), end):
            piece = run[start:end]
            cost = words.get(piece, 255 if end - start == 1 else None)
            whole = all(map(katakana, piece)) and (end == len(run) or not katakana(run[end]))
            if whole and len(piece) < 20 and (start == 0 or not katakana(run[start - 1])):
                by_length = [8192, 984, 408, 240, 204, 252, 300, 372, 480][len(piece)] if len(piece) < 9 else 8192
                cost = by_length if cost is None else min(cost, by_length)
            if cost is not None:
                options.append((best[start][0] + cost, start, piece))
        cost, start, piece = min(options)
        best.append((cost, [*best[start][1], piece]))
    return best[-1][1]


@cache
def pieces_of(token: str, segmented: bool) -> list[str]:
    """A token cut where scripts without spaces begin and end, and inside them; marks stay with what they follow."""
    pieces: list[str] = [""]
    joins = True  # whether the next letter belongs to the last piece
    i = 0
    while i < len(token):
        c = token[i]
        kind = category(c)
        if kind == "unspaced" and segmented and script(c):
            end = i + 1
            while end < len(token) and script(token[end]) == script(c):
                end += 1
            pieces += segment(token[i:end], script(c))
            joins, i = False, end
            continue
        if kind == "ignored":
            i += 1
            continue
        if kind == "unspaced" or (kind != "mark" and not joins):
            pieces.append("")
            joins = kind != "unspaced"
        pieces[-1] += c
        i += 1
    return pieces


def words_of(text: str, segmented: bool = True) -> list[str]:
    words = []
    for token in text.split():
        for piece in pieces_of(token, segmented):
            if word := word_of(piece):
                words.append(word)
    return words


@cache
def word_of(piece: str) -> str:
    while piece and category(piece[0]) == "special":
        piece = piece[1:]
    while piece and category(piece[-1]) == "special":
        piece = piece[:-1]
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in piece)
