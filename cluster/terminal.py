"""What commands print for people: numbers with units that suit their size, and tables that fit the terminal.

Nothing is cut or folded. A table that is too wide writes its counts shorter, then leaves out its least important columns; a
pipe counts as 80 columns. Texts and paths that cannot be split have lines of their own, however long. Data cannot send
control characters to the terminal: `clean` shows them as escapes, and all that is printed here goes through it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

PIPE_COLUMNS = 80  # where there is no terminal
GAP = "  "
LONG_NAME = 32  # columns: a longer name in the first column has a line of its own rather than taking others' room
INDENT = 4  # of what belongs to the row above it
BYTES = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
COUNTS = ("", "k", "M", "B", "T", "Q")


def size(n_bytes: float) -> str:
    """Bytes in decimal units.

    >>> size(0), size(999), size(999_600), size(133e12)
    ('0 B', '999 B', '1 MB', '133 TB')
    """
    return _scaled(n_bytes, BYTES)


def count(n: float) -> str:
    """
    >>> count(1_234_567)
    '1,234,567'
    """
    return f"{n:,.0f}"


def short(n: float) -> str:
    """A count where there is little room: three digits from 10,000 on; B is 10^9.

    >>> short(9999), short(12_345), short(886e9)
    ('9,999', '12.3 k', '886 B')
    """
    return count(n) if abs(n) < 9999.5 else _scaled(n, COUNTS)


def duration(seconds: float) -> str:
    """The two largest units, and of ten minutes or more no seconds.

    >>> duration(0.42), duration(45), duration(125), duration(719), duration(7799), duration(273_600)
    ('0.42 s', '45 s', '2 m 5 s', '12 m', '2 h 10 m', '3 d 4 h')
    """
    if seconds < 59.5:
        return f"{max(seconds, 0.0):.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if (whole := round(seconds)) < 600:
        return _pair(whole, 60, "m", "s")
    if (minutes := round(seconds / 60)) < 24 * 60:
        return _pair(minutes, 60, "h", "m")
    return _pair(round(seconds / 3600), 24, "d", "h")


def rate(per_second: float) -> str:
    """
    >>> rate(1859.4), rate(2.2), rate(0.3), rate(0.001), rate(3.1e6)
    ('1,859/s', '2.2/s', '18/min', '3.6/h', '3.1 M/s')
    """
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        value = per_second * seconds
        if value >= 1 or unit == "h":
            break
    text = short(value) if value >= 999_500 else count(value) if value >= 99.95 else f"{value:.3g}"
    return f"{text if per_second else 0}/{unit if per_second else 's'}"


def clean(text: object) -> str:
    r"""`text` with all that is not printed (control characters, escapes, changes of direction) as `\x1b` and the like.

    >>> print(clean("a\x1b[2Jb\n"))
    a\x1b[2Jb\n
    """
    return "".join(c if c == " " or c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def width() -> int:
    """Columns of the terminal, or as COLUMNS says; 80 in a pipe."""
    return shutil.get_terminal_size((PIPE_COLUMNS, 24)).columns


@dataclass(frozen=True)
class Column:
    """A column: how its values are written, also when there is little room (`short`), and in which style of rich.

    `drop`: columns of the highest number are left out first where a table is too wide, those of 0 never. A value None is
    blank. `free`, of the last column only: text beside the row where it fits there, else on lines below it.
    """

    title: str
    write: Callable[[Any], str] = clean
    short: Callable[[Any], str] | None = None
    right: bool = False
    drop: int = 0
    style: Callable[[Any], str] = lambda value: ""
    free: bool = False


def numbers(title: str, drop: int = 0) -> Column:
    """A column of counts."""
    return Column(title, count, short, right=True, drop=drop)


def sizes(title: str, drop: int = 0) -> Column:
    """A column of bytes."""
    return Column(title, size, right=True, drop=drop)


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Any]],
    below: Sequence[Sequence[Text]] = (),
    title: str = "",
    columns_wide: int | None = None,
) -> list[Text]:
    """The lines of a table. `below`: lines under each row, as they are. A name in the first column that leaves the others no
    room has a line of its own."""
    wide = columns_wide or width()
    free = columns[-1] if columns[-1].free else None
    kept, cells, widths = _fitting(columns, rows, wide)
    titled = free is not None and _total(widths) + len(GAP) + len(free.title) <= wide  # else it is below in each row
    heads = [(columns[k].title, "") for k in kept] + ([(free.title, "")] if free and titled else [])
    lines = [*paragraph(title, columns_wide=wide), _line(columns, kept, heads, widths, "bold")]
    for i, (row, cell) in enumerate(zip(rows, cells, strict=True)):
        shown = [(text, columns[k].style(row[k])) for k, text in zip(kept, cell, strict=True)]
        if cell_len(cell[0]) > widths[0]:
            lines += verbatim(cell[0], style=shown[0][1])
            shown[0] = ("", "")
        text = "" if free is None or row[-1] is None else free.write(row[-1])
        style = free.style(row[-1]) if free and text else ""
        beside = titled and _total(widths) + len(GAP) + cell_len(text) <= wide
        lines.append(_line(columns, kept, [*shown, (text, style)] if beside else shown, widths))
        if text and not beside:
            lines += paragraph(row[-1], INDENT, style, wide)
        lines += below[i] if below else ()
    return lines


def paragraph(text: object, indent: int = 0, style: str = "", columns_wide: int | None = None) -> list[Text]:
    """`text` in lines that break between words; a word that is wider than the terminal has a line of its own."""
    wide = columns_wide or width()
    lines: list[str] = []
    for word in map(clean, str(text).split()):
        if lines and indent + cell_len(lines[-1]) + 1 + cell_len(word) <= wide:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [Text(" " * indent + line, style) for line in lines]


def verbatim(text: object, indent: int = 0, style: str = "") -> list[Text]:
    """One line however long, such as a command that is to be copied."""
    return [Text(" " * indent + clean(text), style)]


def show(lines: Iterable[Text]) -> None:
    """Print lines; colours only on a terminal that wants them (NO_COLOR, TERM)."""
    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(line)
    sys.stdout.flush()


def _fitting(
    columns: Sequence[Column], rows: Sequence[Sequence[Any]], wide: int
) -> tuple[list[int], list[list[str]], list[int]]:
    """The columns, without the free one, that fit in `wide`: in full, else short, else fewer; their cells and widths."""
    kept = [k for k, column in enumerate(columns) if not column.free]
    brief = False
    while True:
        cells = [[_cell(columns[k], row[k], brief) for k in kept] for row in rows]
        each = [[len(columns[k].title), *(cell_len(row[i]) for row in cells)] for i, k in enumerate(kept)]
        others = sum(len(GAP) + max(of) for of in each[1:])
        name = max(n for n in each[0] if n <= LONG_NAME)
        droppable = [k for k in kept if columns[k].drop]
        if name + others <= wide or (brief and not droppable):
            break
        if brief:
            kept.remove(max(droppable, key=lambda k: (columns[k].drop, k)))
        brief = True
    name = max([name, *(n for n in each[0] if n + others <= wide)])
    return kept, cells, [name, *map(max, each[1:])]


def _cell(column: Column, value: Any, brief: bool) -> str:
    return "" if value is None else ((column.short if brief else None) or column.write)(value)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _line(
    columns: Sequence[Column],
    kept: Sequence[int],
    cells: Sequence[tuple[str, str]],
    widths: Sequence[int],
    style: str = "",
) -> Text:
    """One line of (text, style) cells; a cell beyond `widths` is that of the free column."""
    line = Text(style=style)
    for i, (text, own) in enumerate(cells):
        blank = " " * (widths[i] - cell_len(text)) if i < len(widths) else ""
        right = bool(blank) and columns[kept[i]].right
        line.append(GAP if i else "").append(blank if right else "").append(text, own).append("" if right else blank)
    line.rstrip()
    return line


def _pair(n: int, base: int, high: str, low: str) -> str:
    parts = zip(divmod(n, base), (high, low), strict=True)
    return " ".join(f"{value:,} {unit}" for value, unit in parts if value)


def _scaled(value: float, units: Sequence[str]) -> str:
    """Three digits and the unit that makes them 1 to 999."""
    i = 0
    while abs(value) >= 999.5 and i < len(units) - 1:
        value, i = value / 1000, i + 1
    text = f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"
    return f"{text} {units[i]}".rstrip()
