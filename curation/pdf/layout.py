"""From words on a page to lines in reading order.

Words that stand close on a line make a run. A page, or a part of one, has columns where a gutter divides most of its runs,
each side has at least three lines beside the other's, and the lines fill their sides (cells of a table do not). Runs that lie
across the gutter, such as titles, divide the page into bands: within a band the left column is read before the right one, and
each side may have columns again. What has no columns is read line by line, with a tab between cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from curation.pdf.words import Word

RUN_GAP = 0.8  # of the height of a line: where words are further apart another run begins
CELL_GAP = 1.5  # where runs of a line are further apart they are cells
GUTTER = 0.5  # the least width of a gutter, in heights
SIDE = 0.15  # the least share of the runs that a column has
FILLED = 0.5  # the least share of its column that a line fills, at the median
ACROSS = 0.35  # the greatest share of the lines that may lie across a gutter
LINES = 3  # the fewest lines of a column
MOST = 0.9  # of the lines of a region end within its right edge; a title may be longer
STEP = 3.0  # points between places that are tried
DEPTH = 4  # columns within columns
NO_SPACE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\u3000-\u30ff"


@dataclass
class Run:
    """Words of one line that stand close."""

    text: str
    left: float
    top: float
    right: float
    bottom: float
    font: str = ""

    @property
    def height(self) -> float:
        return max(self.bottom - self.top, 0.1)


@dataclass
class Line(Run):
    """A line of a region (a column of a band, or a page), whose `edges` are its left and right."""

    region: int = 0
    edges: tuple[float, float] = (0.0, 0.0)


def runs(words: Sequence[Word]) -> list[Run]:
    """Words put together as they are drawn."""
    found: list[Run] = []
    before = -1
    parts: list[str] = []  # of the text of the last run
    for text, left, top, right, bottom, line, font, spaced in words:
        if line == before:
            last = found[-1]
            height, tall, gap = max(bottom - top, 0.1), last.height, left - last.right
            if -0.5 * height < gap < RUN_GAP * max(height, tall) and _beside(last, top, bottom):
                parts += (" ", text) if spaced else (text,)
                last.right = max(last.right, right)
                if height > 0.8 * tall:  # not of signs that stand higher or lower
                    last.top, last.bottom = min(last.top, top), max(last.bottom, bottom)
                continue
        if found:
            found[-1].text = "".join(parts)
        found.append(Run(text, left, top, right, bottom, font))
        before, parts = line, [text]
    if found:
        found[-1].text = "".join(parts)
    return found


def _beside(run: Run, top: float, bottom: float) -> bool:
    """Whether something from `top` to `bottom` is on the line of a run."""
    overlap = min(run.bottom, bottom) - max(run.top, top)
    return overlap > 0.5 * min(run.height, max(bottom - top, 0.1))


def rows(found: Sequence[Run]) -> list[list[Run]]:
    """Runs by line, from above and from the left."""
    result: list[list[Run]] = []
    for run in sorted(found, key=lambda one: ((one.top + one.bottom) / 2, one.left)):
        if result and any(_beside(one, run.top, run.bottom) for one in result[-1][-3:]):
            result[-1].append(run)
        else:
            result.append([run])
    return [sorted(row, key=lambda one: one.left) for row in result]


def lines(found: Sequence[Run]) -> list[Line]:
    """The lines of a page in reading order."""
    result: list[Line] = []
    for number, region in enumerate(_regions(list(found), DEPTH)):
        lined = rows(region)
        ends = sorted(max(run.right for run in row) for row in lined)
        edges = (min(run.left for run in region), ends[int(MOST * (len(ends) - 1))])
        result += [_line(row, number, edges) for row in lined]
    return result


def _line(row: list[Run], region: int, edges: tuple[float, float]) -> Line:
    text = row[0].text
    for before, run in pairwise(row):
        gap = (run.left - before.right) / max(before.height, run.height)
        text += ("\t" if gap > CELL_GAP else " " if gap > 0.12 else "") + run.text
    largest = max(row, key=lambda one: len(one.text))
    left, right = row[0].left, max(run.right for run in row)
    return Line(text, left, largest.top, right, largest.bottom, largest.font, region, edges)


def _regions(found: list[Run], depth: int) -> list[list[Run]]:
    """Runs that are read line by line, in the order of reading."""
    gutter = _gutter(found) if depth and len(found) >= 2 * LINES else None
    if gutter is None:
        return [found] if found else []
    result: list[list[Run]] = []
    across: list[Run] = []
    left: list[Run] = []
    right: list[Run] = []

    def band() -> None:
        for side in (left, right):
            result.extend(_regions(side.copy(), depth - 1))
            side.clear()

    for row in rows(found):
        crossing = any(run.left < gutter < run.right for run in row)
        if crossing:
            band()
            across += row
            continue
        if across:
            result.append(across.copy())
            across.clear()
        left += [run for run in row if run.right <= gutter]
        right += [run for run in row if run.left >= gutter]
    band()
    if across:
        result.append(across)
    return result


def _gutter(found: list[Run]) -> float | None:
    """The place between two columns, or None."""
    height = median(run.height for run in found)
    ends = sorted({round(run.right, 1) for run in found})
    begins = sorted({int(run.left / STEP): run.left for run in sorted(found, key=lambda run: -run.left)}.values())
    total = sum(run.right - run.left for run in found)
    best: tuple[float, float] | None = None
    at = 0
    for begin in begins:  # a gutter ends where some runs begin
        while at < len(ends) and ends[at] <= begin - GUTTER * height:
            at += 1
        if at == 0:
            continue
        place = begin - GUTTER * height / 2
        left = [run for run in found if run.right <= place]
        right = [run for run in found if run.left >= place]
        if len(left) < LINES or len(right) < LINES:
            continue
        across = len(found) - len(left) - len(right)
        if across > ACROSS * len(found) or not _are_columns(left, right, place):
            continue
        sides = [sum(run.right - run.left for run in side) for side in (left, right)]
        if min(sides) < SIDE * total:
            continue
        score = sum(sides) / total + 0.5 * min(sides) / max(sides)
        if best is None or score > best[0]:
            best = score, place
    return best[1] if best else None


def _are_columns(left: list[Run], right: list[Run], place: float) -> bool:
    """Whether the lines of two sides fill them and stand beside one another."""
    width = min(place - min(run.left for run in left), max(run.right for run in right) - place)  # of the narrower one
    if any(
        median(min(1.0, (run.right - run.left) / max(width, 0.1)) for run in side) < FILLED for side in (left, right)
    ):
        return False
    sides = [rows(left), rows(right)]
    if min(map(len, sides)) < LINES:
        return False
    spans = [(min(row[0].top for row in lined), max(row[0].bottom for row in lined)) for lined in sides]
    together = min(spans[0][1], spans[1][1]) - max(spans[0][0], spans[1][0])
    return together > 0.5 * min(end - begin for begin, end in spans)
