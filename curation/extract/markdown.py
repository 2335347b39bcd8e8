"""Chosen lines of a page as Markdown: headings, lists, tables, quotes and code. Links, images and emphasis are plain text.

The text is that of `curation.extract.render`, with marks before lines. A table whose cells are short lines becomes a pipe
table; one that lays out a page becomes lines. Nothing in the text is escaped but pipes in cells.
"""

from __future__ import annotations

import html as entities
import re

import numpy as np

from curation.extract import tags
from curation.extract.head import attributes
from curation.extract.lines import Lines
from curation.extract.markup import Tree
from curation.extract.tags import FLAGS, SILENT

PRE, LI, OL, TABLE, TD, TH, QUOTE = (tags.TAG[name] for name in ("pre", "li", "ol", "table", "td", "th", "blockquote"))
H1, H6, CODE, KBD, SAMP, TT, BR = (tags.TAG[name] for name in ("h1", "h6", "code", "kbd", "samp", "tt", "br"))
INLINE_CODE = (CODE, KBD, SAMP, TT)
CELL_CHARS = 300
DEEPEST = 6  # levels of lists and quotes that are shown
_LANGUAGE = re.compile(r"(?:^|[\s_-])(?:lang|language|brush:?|highlight-source|highlight)[-_ ]([\w+#-]{1,20})")
_TICKS = re.compile(r"`+")


def markdown(html: bytes, tree: Tree, lines: Lines, keep: np.ndarray) -> str:
    """The kept lines as Markdown."""
    tag, parent = tree.tag.tolist(), tree.parent.tolist()
    around = _around(tag, parent)
    numbers = _numbers(tag, parent)
    tables = _tables(tag, parent, lines, keep, around)
    blocks: list[tuple[str, str]] = []  # (kind, lines); equal kinds that begin with "=" stand without an empty line
    kept = np.flatnonzero(keep).tolist()
    seen_items: set[int] = set()
    place = 0
    while place < len(kept):
        k = kept[place]
        first, owner = int(lines.first[k]), int(lines.owner[k])
        pre, table, item, quotes = (around[name][first] for name in ("pre", "table", "item", "quotes"))
        prefix = "> " * min(quotes, DEEPEST)
        until = place + 1
        if pre:
            while until < len(kept) and around["pre"][int(lines.first[kept[until]])] == pre:
                until += 1
            code = "\n".join(_code(html, tree, lines, one) for one in kept[place:until]).strip("\n").rstrip()
            language = _LANGUAGE.search(_classes(html, tree, pre))
            ticks = "`" * max(3, 1 + max(map(len, _TICKS.findall(code)), default=0))
            body = f"{ticks}{language[1] if language else ''}\n{code}\n{ticks}"
            indent = "  " * min(around["depth"][item], DEEPEST) if item else ""
            blocks.append(("code", _indented(body, prefix + indent)))
        elif table in tables:
            while until < len(kept) and around["table"][int(lines.first[kept[until]])] == table:
                until += 1
            rows = _rows(html, tree, lines, kept[place:until], around, parent)
            blocks.append(("table", _indented(_pipes(rows), prefix)))
        elif H1 <= tag[owner] <= H6:
            text = _line(html, tree, lines, k)
            again = bool(blocks) and blocks[-1][0] == f"heading {owner}"  # two lines of one heading are one
            if again:
                blocks[-1] = (blocks[-1][0], f"{blocks[-1][1]} {text}")
            else:
                blocks.append((f"heading {owner}", f"{prefix}{'#' * (tag[owner] - H1 + 1)} {text}"))
        elif item:
            text = _line(html, tree, lines, k)
            depth = min(around["depth"][item], DEEPEST) - 1
            mark = f"{numbers[item]}. " if item in numbers else "- "
            lead = "  " * depth + (mark if item not in seen_items else " " * len(mark))
            seen_items.add(item)
            blocks.append((f"=list {quotes}", f"{prefix}{lead}{text}"))
        else:
            blocks.append((f"=text {owner}", prefix + _line(html, tree, lines, k)))
        place = until
    return _joined(blocks)


def _joined(blocks: list[tuple[str, str]]) -> str:
    parts: list[str] = []
    before = ""
    for kind, text in blocks:
        if parts:
            parts.append("\n" if kind == before and kind.startswith("=") else "\n\n")
        parts.append(text)
        before = kind
    return "".join(parts)


def _around(tag: list[int], parent: list[int]) -> dict[str, list[int]]:
    """Of each node: the `pre`, table, list item and cell around it, and how deep it is in quotes and lists; 0 for none."""
    n = len(tag)
    found = {name: [0] * n for name in ("pre", "table", "item", "cell", "quotes", "depth")}
    pre, table, item, cell, quotes, depth = found.values()
    for i in range(1, n):
        p, t = parent[i], tag[i]
        pre[i] = pre[p] or (i if t == PRE else 0)
        table[i] = i if t == TABLE else table[p]
        item[i] = i if t == LI else 0 if t == TABLE else item[p]
        cell[i] = i if t in (TD, TH) else 0 if t == TABLE else cell[p]
        quotes[i] = quotes[p] + (t == QUOTE)
        depth[i] = depth[p] + (t == LI)
    return found


def _numbers(tag: list[int], parent: list[int]) -> dict[int, int]:
    """The number of each item of an ordered list."""
    count: dict[int, int] = {}
    numbers = {}
    for i in range(1, len(tag)):
        if tag[i] == LI and tag[parent[i]] == OL:
            numbers[i] = count[parent[i]] = count.get(parent[i], 0) + 1
    return numbers


def _tables(tag: list[int], parent: list[int], lines: Lines, keep: np.ndarray, around: dict) -> set[int]:
    """The tables of data: two columns and two rows or more, each cell a short line, no table or heading within."""
    cells: dict[int, dict[int, set[int]]] = {}
    bad: set[int] = set()
    per_cell: dict[int, int] = {}
    for k in np.flatnonzero(keep).tolist():
        first = int(lines.first[k])
        table, cell = around["table"][first], around["cell"][first]
        if not table:
            continue
        if not cell or around["pre"][first] or H1 <= tag[lines.owner[k]] <= H6 or lines.chars[k] > CELL_CHARS:
            bad.add(table)
            continue
        if outer := around["table"][parent[table]]:
            bad.add(outer)
        per_cell[cell] = per_cell.get(cell, 0) + 1
        if per_cell[cell] > 4:
            bad.add(table)
        cells.setdefault(table, {}).setdefault(parent[cell], set()).add(cell)
    return {
        table
        for table, rows in cells.items()
        if table not in bad and len(rows) > 1 and max(map(len, rows.values())) > 1
    }


def _rows(  # noqa: PLR0917
    html: bytes, tree: Tree, lines: Lines, kept: list[int], around: dict, parent: list[int]
) -> list[list[str]]:
    rows: dict[int, dict[int, str]] = {}
    for k in kept:
        cell = around["cell"][int(lines.first[k])]
        row = rows.setdefault(parent[cell], {})
        text = _line(html, tree, lines, k).replace("|", "\\|")
        row[cell] = f"{row[cell]} {text}" if cell in row else text
    found = []
    for node, texts in rows.items():
        own = [i for i in range(node + 1, int(tree.stop[node])) if tree.tag[i] in (TD, TH) and parent[i] == node]
        found.append([texts.get(cell, "") for cell in own])
    return found


def _pipes(rows: list[list[str]]) -> str:
    width = max(map(len, rows))
    table = [row + [""] * (width - len(row)) for row in rows]
    table.insert(1, ["---"] * width)
    return "\n".join(f"| {' | '.join(row)} |" for row in table)


def _line(html: bytes, tree: Tree, lines: Lines, k: int) -> str:
    """A line's text, white space as one space, code in backticks."""
    parts: list[str] = []
    i, until = int(lines.first[k]), int(lines.stop[k])
    while i < until:
        t = int(tree.tag[i])
        if tree.space[i]:
            parts.append(" ")
        if FLAGS[t] & SILENT:
            i = int(tree.stop[i])
            continue
        if t == 0:
            text = html[tree.start[i] : tree.end[i]].decode("utf-8", "replace")
            text = entities.unescape(text) if "&" in text else text
            in_code = int(tree.tag[tree.parent[i]]) in INLINE_CODE and "`" not in text and text.strip()
            parts.append(f"`{text.strip()}`" if in_code else text)
        i += 1
    return " ".join("".join(parts).split())


def _code(html: bytes, tree: Tree, lines: Lines, k: int) -> str:
    parts = []
    for i in range(int(lines.first[k]), int(lines.stop[k])):
        if tree.tag[i] == 0:
            parts.append(html[tree.start[i] : tree.end[i]].decode("utf-8", "replace"))
        elif tree.tag[i] == BR:
            parts.append("\n")
    return entities.unescape("".join(parts)).replace("\r\n", "\n")


def _classes(html: bytes, tree: Tree, pre: int) -> str:
    """Classes of a `pre`, of what is directly around it and of the `code` in it."""
    nodes = [pre, int(tree.parent[pre])]
    if pre + 1 < tree.stop[pre] and tree.tag[pre + 1] == CODE:
        nodes.insert(0, pre + 1)
    return " ".join(attributes(html, tree, i).get("class", "") for i in nodes if tree.tag[i])


def _indented(text: str, prefix: str) -> str:
    return "\n".join(prefix + line for line in text.split("\n")) if prefix else text
