"""What holds of all that a command prints: it fits, nothing is cut, columns stand under their titles, and data cannot send
control characters."""

import re

from rich.cells import cell_len

from cluster import terminal

WIDE = 80


def check(text: str, *titles: str, wide: int = WIDE) -> None:
    """`titles`: the first words of the header of each table in `text`; its rows go on until a blank line or a sentence."""
    assert "…" not in text and "\t" not in text
    assert all(c == "\n" or c.isprintable() for c in text), repr(text)
    lines = text.splitlines()
    for line in lines:
        assert line == line.rstrip()
        if cell_len(line) > wide:
            command = line.startswith(" " * 2 * terminal.INDENT)  # that mends something is one line to copy
            assert command or len(line.split()) == 1 or re.fullmatch(r"\S+ at byte [\d,]+", line.strip()), line
    for title in titles:
        found = [i for i, line in enumerate(lines) if line.startswith(title)]
        assert found, (title, text)
        for first in found:
            rows = 0
            for line in lines[first + 1 :]:
                if not line.strip():
                    break
                own = len(line.split()) == 1 or line.startswith(" " * terminal.INDENT)
                if "  " not in line.strip() and not own:
                    break  # a sentence behind the table
                if aligned(lines[first], line):
                    rows += 1
                else:
                    assert own, f"{lines[first]}\n{line}"
            assert rows


def aligned(header: str, row: str) -> bool:
    """Whether each cell begins or ends where a title does; a name may stand two blanks to the right, below its group."""
    starts, ends = zip(*_spans(header), strict=True)
    cells = _spans(row)
    below_a_group = cells[0][0] == 2
    return all(begin in starts or end in ends for begin, end in cells[below_a_group:])


def _spans(line: str) -> list[tuple[int, int]]:
    """Where the parts begin and end that stand two blanks or more from one another, in columns of the terminal."""
    found = [(match.start(), match.end()) for match in re.finditer(r"\S+( \S+)*", line)]
    return [(cell_len(line[:begin]), cell_len(line[:end])) for begin, end in found]
