"""Units, tables and what is left of control characters."""

import random

import printed
import pytest
from rich.cells import cell_len

from cluster import terminal
from cluster.terminal import Column


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.004, "0.004 s"), (3.0, "3 s"), (9.949, "9.9 s"), (9.95, "10 s"), (59.4, "59 s"), (59.6, "1 m"),
        (61, "1 m 1 s"), (599.4, "9 m 59 s"), (599.6, "10 m"), (3569, "59 m"), (3575, "1 h"), (7800, "2 h 10 m"),
        (86_399, "1 d"), (273_600, "3 d 4 h"), (1e9, "11,574 d 2 h"), (-5, "0 s"),
    ],
)  # fmt: skip
def test_durations(seconds, text):
    assert terminal.duration(seconds) == text


def test_no_duration_jumps():
    """Whatever is said differs from the truth by less than what the last unit rounds away."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    for _ in range(2000):
        seconds = 10 ** random.uniform(0, 8)
        parts = terminal.duration(seconds).replace(",", "").split()
        said = sum(float(n) * units[unit] for n, unit in zip(parts[::2], parts[1::2], strict=True))
        assert abs(said - seconds) <= max(0.06, 0.051 * seconds if seconds < 10 else 0.5, seconds / 20)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (999.6, "1 kB"), (1234, "1.23 kB"), (133e12, "133 TB"), (999_499e3, "999 MB"),
     (999_600e3, "1 GB"), (4.2e18, "4.2 EB"), (5e21, "5,000 EB")],
)  # fmt: skip
def test_sizes(n_bytes, text):
    assert terminal.size(n_bytes) == text


def test_counts_and_rates():
    assert [terminal.short(n) for n in (0, 9999, 9999.6, 12_345, 1e12, 3.69e9)] == [
        "0", "9,999", "10 k", "12.3 k", "1 T", "3.69 B",
    ]  # fmt: skip
    assert terminal.count(10**12) == "1,000,000,000,000"
    rates = {
        0: "0/s",
        2.2: "2.2/s",
        18.34: "18.3/s",
        99.96: "100/s",
        1859.4: "1,859/s",
        999_600: "1 M/s",
        0.3: "18/min",
    }
    assert {rate: terminal.rate(rate) for rate in rates} == rates
    assert terminal.rate(1 / 600) == "6/h"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x9b31m", r"\x9b31m"),
        ("evil\u202etxt", r"evil\u202etxt"),
        ("\ud800", r"\ud800"),
        ("ไทย ខ្មែរ 中文 é", "ไทย ខ្មែរ 中文 é"),
        ("[red]not markup[/]", "[red]not markup[/]"),
    ],
)
def test_data_cannot_steer_the_terminal(capsys, text, shown):
    assert terminal.clean(text) == shown
    terminal.show(terminal.table([Column("name"), Column("found", free=True)], [(text, text)]))
    terminal.show(terminal.verbatim(text))
    assert capsys.readouterr().out.splitlines()[1:] == [f"{shown}  {shown}", shown]


def random_table(rng):
    """Columns and rows of all kinds, with names and counts that are too wide."""
    words = [
        "crawl",
        "dpo/on_policy_9",
        "high_quality/" + "x" * 60,
        "ខ្មែរ",
        "中文中文",
        "a\x1b[2Jb",
        "/long/" + "p" * 90,
    ]
    columns = [Column("name")]
    for number in range(rng.randint(0, 8)):
        kind = rng.choice([terminal.numbers, terminal.sizes])
        columns.append(kind(f"n{number}", drop=rng.randint(1, 3)))
    if rng.random() < 0.5:
        columns.append(Column("found", free=True))
    rows = []
    for _ in range(rng.randint(1, 6)):
        row = [rng.choice(words)]
        for column in columns[1:]:
            text = " ".join(rng.choices(words, k=rng.randint(0, 9)))
            number = rng.choice([None, 0, 7, 10 ** rng.randint(0, 15)])
            row.append(text if column.free else number)
        rows.append(row)
    return columns, rows


@pytest.mark.parametrize("wide", [40, 80, 200])
def test_any_table_fits_and_is_aligned(wide, capsys):
    rng = random.Random(wide)
    for _ in range(300):
        columns, rows = random_table(rng)
        terminal.show(terminal.table(columns, rows, columns_wide=wide))
        printed.check(capsys.readouterr().out, "name", wide=wide)


def test_counts_are_written_in_full_where_there_is_room_then_short_then_columns_go():
    columns = [
        Column("name"),
        terminal.numbers("in", drop=1),
        terminal.numbers("out"),
        terminal.numbers("rate", drop=2),
    ]
    rows = [("crawl", 10**12, 12_345, 7)]
    shown = [
        [line.plain for line in terminal.table(columns, rows, columns_wide=wide)][1].split()
        for wide in (80, 30, 20, 12)
    ]
    assert shown[0] == ["crawl", "1,000,000,000,000", "12,345", "7"]
    assert shown[1] == ["crawl", "1", "T", "12.3", "k", "7"]
    assert shown[2] == ["crawl", "1", "T", "12.3", "k"]
    assert shown[3] == ["crawl", "12.3", "k"]


def test_a_long_name_has_its_own_line_and_takes_no_room_from_others():
    name = "all/" + "x" * 100
    lines = terminal.table(
        [Column("pool"), terminal.numbers("rows", drop=1)], [(name, 10**9), ("th", 3)], columns_wide=80
    )
    assert [line.plain for line in lines] == ["pool           rows", name, "      1,000,000,000", "th                3"]


def test_text_breaks_between_words_and_nowhere_else():
    lines = [line.plain for line in terminal.paragraph("ab " * 30 + "x" * 90 + " \x1b end", 4, columns_wide=80)]
    assert all(cell_len(line) <= 80 or line == "    " + "x" * 90 for line in lines)
    assert " ".join(" ".join(lines).split()) == "ab " * 30 + "x" * 90 + r" \x1b end"


def test_width_is_that_of_the_terminal_or_80(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal.width() == 80  # no terminal here
    monkeypatch.setenv("COLUMNS", "132")
    assert terminal.width() == 132
