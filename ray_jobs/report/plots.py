"""The report's plots, each an SVG in a box that scrolls. Languages have English names, so no plot needs a font for a script.

Colours are written as the variables of templates/style.html, so that a plot is dark on a dark page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # after the backend is chosen
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.typing import RcKeyType

from cluster.terminal import count, size
from ray_jobs.report.summary import Learnt

INK, MUTED, GRID = "#1f2933", "#667085", "#e4e7ec"
COLOURS = ("#1d6fa5", "#d9822b", "#2f9e6e", "#b5485d", "#7a5cc2", "#8a8f98", "#c2a83e", "#3fa7b5", "#9c6b45", "#5b7f2f")
ON_DARK, ON_LIGHT = "#fffffe", "#1f2932"  # ink on a coloured square, which is the same on every page
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line", "#ffffff": "ground"} | {
    c: f"c{i}" for i, c in enumerate(COLOURS)
}
STYLE: dict[RcKeyType, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "svg.fonttype": "none",
    "svg.hashsalt": "pinisi",
    "legend.frameon": False,
}


def _svg(figure, alone: bool = False) -> str:
    """`alone`: on white, its text as outlines, for pages of any colour and readers without our fonts."""
    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "path" if alone else "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=not alone, bbox_inches="tight")
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    if alone:
        return text
    named = re.sub(r"#[0-9a-f]{6}\b", lambda m: f"var(--{VARIABLES[m[0]]})" if m[0] in VARIABLES else m[0], text)
    return f'<div class="plot">{named}</div>'


def lines(series: Mapping[str, tuple[Sequence, Sequence]], x: str, y: str) -> str:
    """`series`: name -> (x values, y values)."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.2, 2.9))
        for index, (name, (xs, ys)) in enumerate(series.items()):
            colour, dashes = COLOURS[index % len(COLOURS)], ("-", "--", ":")[index // len(COLOURS) % 3]
            marker = "o" if len(xs) < 4 else None
            axes.plot(xs, ys, dashes, label=name, color=colour, linewidth=1.6, marker=marker, markersize=3)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value / 1000:,g}k" if value >= 10_000 else f"{value:g}")
        )
        if len(series) > 6:
            axes.legend(fontsize=7, ncols=2, loc="upper left", bbox_to_anchor=(1.0, 1.04))
        elif len(series) > 1:
            axes.legend(fontsize=8)
        return _svg(figure)


def grouped_bars(
    groups: Sequence[str], series: Mapping[str, Sequence[float | None]], y: str, width: float = 10.5
) -> str:
    """One group of bars per entry of `groups`, one bar per series; None leaves a gap."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(width, 3.0))
        each = 0.8 / max(len(series), 1)
        for index, ((name, values), colour) in enumerate(zip(series.items(), COLOURS, strict=False)):
            xs = [g - 0.4 + each * (index + 0.5) for g, v in enumerate(values) if v is not None]
            axes.bar(xs, [v for v in values if v is not None], width=each * 0.92, label=name, color=colour)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.set_xticks(range(len(groups)), groups)
        if sum(map(len, groups)) > 10 * width:
            plt.setp(axes.get_xticklabels(), rotation=35, ha="right")
        axes.grid(axis="x", visible=False)
        axes.set_ylabel(y)
        if len(series) > 1:
            axes.legend(fontsize=8, ncols=len(series), loc="upper center", bbox_to_anchor=(0.5, 1.16))
        return _svg(figure)


def stacked_rows(rows: Sequence[str], series: Mapping[str, Sequence[float]], x: str, width: float = 10.5) -> str:
    """A horizontal bar per row, stacked from the series."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(width, 0.6 + 0.27 * len(rows)))
        left = [0.0] * len(rows)
        for index, (name, values) in enumerate(series.items()):
            colour = COLOURS[index % len(COLOURS)]
            axes.barh(range(len(rows)), values, left=left, label=name, color=colour, height=0.72)
            left = [a + b for a, b in zip(left, values, strict=True)]
        axes.set_yticks(range(len(rows)), rows)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(x)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return _svg(figure)


def funnel(stages: Sequence[str], counts: Sequence[int]) -> str:
    """Documents left after each stage, as horizontal bars with their numbers."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.2, 0.5 + 0.34 * len(stages)))
        axes.barh(range(len(stages)), counts, color=COLOURS[0], height=0.7)
        for y, count in enumerate(counts):
            axes.text(count, y, f" {count:,}", va="center", fontsize=8, color=INK)
        axes.set_yticks(range(len(stages)), stages)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.set_xlim(0, max([*counts, 1]) * 1.16)
        return _svg(figure)


def dumbbells(rows: Sequence[Learnt], alone: bool = False) -> str:
    """Bits per byte of each language before and after, a row each: the first in the list on top, replay languages below.

    A thin line is the 95 % interval of the change, drawn about the model after; a bar across is the control."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8.2, 0.9 + 0.3 * len(rows)))
        control = "without expansion"
        for y, one in enumerate(rows):
            colour = COLOURS[1] if one.replay else COLOURS[0]
            axes.annotate(
                "", (one.after, y), (one.before, y), arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 2.4}
            )
            axes.plot([one.before], [y], "o", markersize=7, markerfacecolor="white", markeredgecolor=colour)
            axes.plot([one.after], [y], "o", markersize=7, color=colour)
            if one.change.low is not None and one.change.high is not None:
                ends = [one.before + one.change.low, one.before + one.change.high]
                axes.plot(ends, [y, y], color=INK, linewidth=0.9, alpha=0.7, zorder=1)
            if one.control is not None and one.replay:
                axes.plot([one.control], [y], "|", markersize=13, markeredgewidth=2, color=INK, label=control)
                control = "_nolegend_"
        new = {one.replay: COLOURS[1] if one.replay else COLOURS[0] for one in rows}
        for replay, colour in sorted(new.items()):
            kind = "known before (replay)" if replay else "new language"
            axes.plot([], [], "o", color=colour, label=f"{kind}: before (open), after (full)")
        axes.set_yticks(range(len(rows)), [one.name for one in rows], color=INK)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        low, high = (limit(v for one in rows for v in (one.before, one.after)) for limit in (min, max))
        room = 0.06 * (high - low) or 0.1
        axes.set_xlim(low - room, high + room)  # an interval of two documents may reach far beyond
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("bits per byte of held-out text (lower is better); thin line: 95 % interval of the change")
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.9 / (0.9 + 0.3 * len(rows))), ncols=3)
        return _svg(figure, alone)


def page_to_token(rows: Sequence[tuple[str, int, int]], tokens: int, alone: bool = False) -> str:
    """What is left behind each stage: (stage in words, pages, bytes of text); the last row is what became tokens."""
    with plt.rc_context(STYLE):
        figure, both = plt.subplots(1, 2, figsize=(8.2, 0.5 + 0.36 * len(rows)), sharey=True)
        labels = [name for name, _, _ in rows]
        panels = (
            ("pages", count, [pages for _, pages, _ in rows]),
            ("text", size, [n_bytes for _, _, n_bytes in rows]),
        )
        for axes, (title, write, values) in zip(both, panels, strict=True):
            axes.barh(range(len(rows)), values, color=[COLOURS[0]] * (len(rows) - 1) + [COLOURS[2]], height=0.7)
            for y, value in enumerate(values):
                last = f" = {count(tokens)} tokens" if title == "text" and y == len(rows) - 1 else ""
                axes.text(value, y, f" {write(value)}{last}", va="center", fontsize=8, color=INK)
            axes.set_yticks(range(len(rows)), labels, color=INK)
            axes.set_xlim(0, max([*values, 1]) * 1.2)
            axes.set_title(title, fontsize=9, loc="left", color=MUTED)
            axes.grid(visible=False)
            axes.set_xticks([])
            axes.tick_params(axis="y", length=0)
            axes.spines["bottom"].set_visible(False)
        both[0].invert_yaxis()
        return _svg(figure, alone)


def scatter(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str) -> str:
    """`series`: name -> (x values, y values); the diagonal is where the two agree."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.8, 4.2))
        for index, (name, (xs, ys)) in enumerate(series.items()):
            axes.scatter(xs, ys, label=name, color=COLOURS[index], s=10, alpha=0.55, linewidths=0)
        low, high = (limit(v for pair in series.values() for values in pair for v in values) for limit in (min, max))
        axes.plot([low, high], [low, high], color=MUTED, linewidth=0.8, linestyle="--")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.legend(fontsize=8)
        return _svg(figure)


def heat_map(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], *, y: str, x: str, colour: str
) -> str:
    """A square per row and column; blue below 0, red above, with its number."""
    with plt.rc_context(STYLE | {"axes.grid": False}):
        size = max(3.2, 0.42 * len(columns))
        figure, axes = plt.subplots(figsize=(size + 1.2, max(2.6, 0.34 * len(rows))))
        largest = max(abs(v) for row in values for v in row) or 1.0
        image = axes.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto")
        for r, row in enumerate(values):
            for c, value in enumerate(row):
                ink = ON_DARK if abs(value) > 0.6 * largest else ON_LIGHT
                axes.text(
                    c, r, f"{value:.1f}".replace("-0.0", "0.0"), ha="center", va="center", fontsize=6.5, color=ink
                )
        axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
        axes.set_yticks(range(len(rows)), rows)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        figure.colorbar(image, ax=axes, shrink=0.8, label=colour).outline.set_visible(False)
        return _svg(figure)
