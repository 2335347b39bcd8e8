"""The lines of a page's tree, with what can be counted in each: the units that main content is chosen by.

A line is what a browser would set without a break: text between starts and ends of block elements, `<br>` and table cells.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from curation.extract import tags
from curation.extract.attributes import is_space
from curation.extract.hints import LINK
from curation.extract.markup import Tree
from curation.extract.tags import FLAGS, LINE, PARAGRAPH, SILENT

A, TD, TH, PRE, BR = (tags.TAG[n] for n in ["a", "td", "th", "pre", "br"])


class Lines(NamedTuple):
    """Arrays over lines. `first`: its first node of text, `stop`: the node after its last; `owner`: the innermost block
    element around it. `chars`: letters, digits and marks, a Han character, kana or hangul counted as 2; `linked`: of these,
    within links. `ends`: sentence ends. `gap`: what parts it from the line before (CELL, ROW, BLOCK). `key`: hash."""

    first: np.ndarray
    stop: np.ndarray
    owner: np.ndarray
    chars: np.ndarray
    linked: np.ndarray
    ends: np.ndarray
    gap: np.ndarray
    key: np.ndarray


CELL, ROW, BLOCK = 1, 2, 3


def lines(html: bytes, tree: Tree) -> Lines:
    """Lines of a page, silent elements (scripts, menus to choose from) left out."""
    page = np.frombuffer(html, np.uint8)
    return Lines(*_lines(page, tree.tag, tree.parent, tree.start, tree.end, tree.stop, tree.hints, FLAGS))


@numba.njit(cache=True)
def _lines(html, tag, parent, start, end, stop, hints, flags):  # noqa: PLR0917
    n = len(tag)
    first = np.zeros(n, np.int32)
    until = np.zeros(n, np.int32)
    owner = np.zeros(n, np.int32)
    chars = np.zeros(n, np.int32)
    linked = np.zeros(n, np.int32)
    ends = np.zeros(n, np.int32)
    gap = np.zeros(n, np.uint8)
    key = np.zeros(n, np.uint64)
    closing = np.zeros(n + 1, np.uint8)  # what ends before this node
    block = np.zeros(n, np.int32)  # innermost block element of each node
    link = np.zeros(n, np.bool_)
    code = np.zeros(n, np.bool_)
    count = 0
    level = BLOCK  # what ended or began since the last text
    i = 1
    while i < n:
        t = tag[i]
        p = parent[i]
        level = max(level, closing[i])
        if t == 0:
            block[i] = block[p]
            c, e, h, anything = _count(html, start[i], end[i])
            if anything and (level == 0 or c + e > 0 or code[p]):
                if level > 0:
                    first[count], owner[count], gap[count] = i, block[p], level
                    count += 1
                    level = 0
                k = count - 1
                until[k] = i + 1
                chars[k] += c
                ends[k] += e
                key[k] = key[k] * np.uint64(0x9E3779B97F4A7C15) + h
                if link[p]:
                    linked[k] += c
            elif level == 0:
                until[count - 1] = i + 1
            i += 1
            continue
        f = flags[t]
        if f & SILENT:
            closing[stop[i]] = max(closing[stop[i]], closing[i])
            i = stop[i]
            continue
        kind = (BLOCK if f & PARAGRAPH else ROW) if f & LINE else CELL if t in (TD, TH) else 0
        block[i] = i if kind and t != BR else block[p]
        link[i] = link[p] or (t == A and hints[i] & LINK != 0)
        code[i] = code[p] or t == PRE
        if kind:
            level = max(level, kind)
            closing[stop[i]] = max(closing[stop[i]], kind)
        i += 1
    return (
        first[:count],
        until[:count],
        owner[:count],
        chars[:count],
        linked[:count],
        ends[:count],
        gap[:count],
        key[:count],
    )


@numba.njit(cache=True)
def _count(html, i, end):
    """(letters, sentence ends, hash, whether anything is to be seen) of bytes in UTF-8 with entities."""
    chars, ends = 0, 0
    anything = False
    value = np.uint64(0)
    while i < end:
        c = html[i]
        if not is_space(c):
            anything = True
            value = value * np.uint64(131) + np.uint64(c)
        if c < 128:
            if c == 38:  # an entity is one letter, or white space
                j = i + 1
                while j < end and j < i + 10 and (48 <= html[j] <= 57 or 97 <= html[j] | 32 <= 122 or html[j] == 35):
                    j += 1
                if j < end and html[j] == 59:
                    if not (j == i + 5 and html[i + 1] == 110 and html[i + 2] == 98):
                        chars += 1
                    i = j + 1
                    continue
            elif 48 <= c <= 57 or 97 <= c | 32 <= 122:
                chars += 1
            elif (c in {46, 33, 63}) and (
                i + 1 >= end or is_space(html[i + 1]) or html[i + 1] == 34 or html[i + 1] == 39 or html[i + 1] == 226
            ):
                ends += 1
            i += 1
        elif c < 0xE0:
            chars += c >= 0xC3 or (c == 0xC2 and i + 1 < end and (html[i + 1] == 0xAA or html[i + 1] == 0xBA))
            i += 2
        elif c < 0xF0:
            code = (
                (np.int64(c & 15) << 12) | (np.int64(html[i + 1] & 63) << 6) | np.int64(html[i + 2] & 63)
                if i + 2 < end
                else 0
            )
            if (
                0x3041 <= code <= 0x30FF
                or 0x3400 <= code <= 0x9FFF
                or 0xF900 <= code <= 0xFAFF
                or 0xAC00 <= code <= 0xD7A3
            ):
                chars += 2
            elif code in {12290, 65281, 65311, 4171, 6100, 6101, 8230}:
                ends += 1
            elif 0x0100 <= code < 0x2000 or 0x2C00 <= code < 0x2E00 or 0xA000 <= code < 0xFB00:
                chars += 1
            i += 3
        else:
            chars += 1
            i += 4
    return chars, ends, value, anything
