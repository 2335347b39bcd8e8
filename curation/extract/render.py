"""Chosen lines of a page to plain text: paragraphs, lines, rows of tables and code as they stand."""

from __future__ import annotations

import html as entities

import numba
import numpy as np

from curation.extract import tags
from curation.extract.attributes import is_space
from curation.extract.lines import BLOCK, Lines
from curation.extract.markup import Tree
from curation.extract.tags import FLAGS, SILENT

PRE, TD, TH, TR = (tags.TAG[n] for n in ["pre", "td", "th", "tr"])
CELL_CHARS = 120  # longer cells get lines of their own


def text(html: bytes, tree: Tree, lines: Lines, keep: np.ndarray) -> str:
    """The kept lines. An empty line parts paragraphs, headings, tables and code from what follows; list items and rows are
    lines; cells are parted by tabs. White space is one space, but for code. Entities are decoded."""
    page = np.frombuffer(html, np.uint8)
    data = _render(
        *(page, tree.tag, tree.parent, tree.start, tree.end, tree.stop, tree.space),
        *(lines.first, lines.stop, lines.chars, lines.gap, keep, FLAGS),
    )
    found = data.tobytes().decode("utf-8", "replace")
    return entities.unescape(found).replace("\xa0", " ") if "&" in found or "\xa0" in found else found


@numba.njit(cache=True, inline="always")
def _hard_space(html, j, end):
    """Bytes of a no-break space that begins here, as UTF-8 or `&nbsp;`; 0 when none does."""
    if html[j] == 0xC2 and j + 1 < end and html[j + 1] == 0xA0:
        return 2
    if html[j] == 38 and j + 5 < end and html[j + 1] == 110 and html[j + 2] == 98 and html[j + 3] == 115:
        return 6 if html[j + 4] == 112 and html[j + 5] == 59 else 0
    return 0


@numba.njit(cache=True)
def _render(html, tag, parent, start, end, stop, space, first, until, chars, gap, keep, flags):  # noqa: PLR0917
    n, n_lines = len(tag), len(first)
    room = 1
    for k in range(n_lines):
        if keep[k]:
            room += 2 + until[k] - first[k]
            for i in range(first[k], until[k]):
                if tag[i] == 0:
                    room += end[i] - start[i]
    out = np.empty(room, np.uint8)
    code = np.zeros(n, np.bool_)
    cell = np.zeros(n, np.int32)
    n_in = np.zeros(n, np.int32)  # lines of a cell
    for i in range(1, n):
        p = parent[i]
        code[i] = code[p] or tag[i] == PRE
        cell[i] = i if tag[i] == TD or tag[i] == TH else cell[p]
    for k in range(n_lines):
        n_in[cell[first[k]]] += 1
    at = 0
    level = 0
    before = -1  # the line before, if it is the only one of a short cell
    for k in range(n_lines):
        level = max(level, gap[k])
        if not keep[k]:
            continue
        c = cell[first[k]]
        alone = c > 0 and n_in[c] == 1 and chars[k] <= CELL_CHARS
        if at:
            if alone and before > 0 and parent[c] == parent[before]:
                out[at] = 9
                at += 1
            else:
                same_table = alone and before > 0 and parent[parent[c]] == parent[parent[before]]
                out[at] = 10
                at += 1
                if level == BLOCK and not same_table:
                    out[at] = 10
                    at += 1
        level = 0
        before = c if alone else -1
        line_start = at
        gap_open = False
        i = first[k]
        while i < until[k]:
            if flags[tag[i]] & SILENT:
                gap_open = gap_open or space[i] != 0
                i = stop[i]
                continue
            if space[i]:
                gap_open = True
            if tag[i] == 0:
                if code[i]:
                    for j in range(start[i], end[i]):
                        if at > line_start or html[j] != 10:
                            out[at] = html[j]
                            at += 1
                    gap_open = False
                else:
                    j = start[i] - 1
                    while j + 1 < end[i]:
                        j += 1
                        b = html[j]
                        hard = _hard_space(html, j, end[i])
                        if hard or is_space(b):
                            gap_open = True
                            j += max(hard - 1, 0)
                            continue
                        if gap_open and at > line_start:
                            out[at] = 32
                            at += 1
                        gap_open = False
                        out[at] = b
                        at += 1
            i += 1
        while at > line_start and is_space(out[at - 1]):
            at -= 1
    return out[:at]
