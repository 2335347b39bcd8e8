"""Lines that run from page to page: heads, feet, page numbers.

They are the first and last lines of a page that stand at the same place on pages near by, with the same words or other digits.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from curation.pdf.layout import Run, rows

LOOKED_AT = 3  # lines at either end of a page
NEAR = 6  # pages
TIMES = 2
MARGIN = 0.16  # of the height of a page, at either end, where such lines stand
LARGE = 1.25  # times the height of most lines: a heading
DIGITS = re.compile(r"\d+")
ROMAN = re.compile(r"^[^\w]*[ivxlcdm]{1,8}[^\w]*$", re.IGNORECASE)
NUMBER = re.compile(r"^\W*(?:\w{1,8}\W+)?\d{1,5}(?:\s*(?:/|of|dari|จาก|trên)\s*\d{1,5})?\W*$")


def without(pages: Sequence[tuple[list[Run], float]]) -> list[list[Run]]:
    """The runs of each page, given with its height in points, without those that run along."""
    ends = [_ends(runs, height) for runs, height in pages]
    seen: dict[tuple[str, bool], list[tuple[int, float]]] = defaultdict(list)
    for number, found in enumerate(ends):
        for key, at_foot, place, _ in found:
            seen[key, at_foot].append((number, place))
    result = []
    for number, (runs, _) in enumerate(pages):
        gone: set[int] = set()
        stopped = {True: False, False: False}
        for key, at_foot, place, row in ends[number]:
            if stopped[at_foot]:
                continue
            same = {
                page for page, there in seen[key, at_foot] if abs(page - number) <= NEAR and abs(there - place) < 3.0
            }
            alone = len(pages) == 1 and at_foot and key in ("0", "roman") and len(ends[number]) > 1
            if len(same) >= TIMES or alone:
                gone |= {id(run) for run in row}
            else:
                stopped[at_foot] = True
        result.append([run for run in runs if id(run) not in gone] if gone else runs)
    return result


def _ends(runs: list[Run], height: float) -> list[tuple[str, bool, float, list[Run]]]:
    """(key, whether at the foot, place, runs) of the lines at either end of a page, from outside."""
    lined = rows(runs)
    if not lined:
        return []
    usual = sorted(run.height for run in runs)[len(runs) // 2]
    found = []
    for at_foot, some in ((False, lined[:LOOKED_AT]), (True, lined[: -LOOKED_AT - 1 : -1])):
        for row in some:
            place = (row[0].top + row[0].bottom) / 2
            inside = place < height * (1 - MARGIN) if at_foot else place > height * MARGIN
            if inside or max(run.height for run in row) > LARGE * usual:
                break
            text = " ".join(run.text for run in row)
            key = "roman" if ROMAN.match(text) else DIGITS.sub("0", text.casefold()).strip()
            key = "0" if NUMBER.match(text) and len(text) < 6 else key
            found.append((key, at_foot, place, row))
    return found
