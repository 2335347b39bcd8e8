"""How the signals of a policy are distributed in each language, with the bounds drawn in and the share that each drops.

Drawn as SVG by hand, a path for what a bound leaves and one for what it drops: some 700 bytes a picture, no font, no script.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from cluster import storage
from ray_jobs.report.data import parts
from ray_jobs.run import adopted
from ray_jobs.run.graph import POLICY, SIGNALS

BINS, WIDTH, HEIGHT = 32, 192, 48
MOST = 600  # pictures on a page
WIDE = 50  # times as large as the smallest: then the axis is logarithmic


class Histogram(NamedTuple):
    """One signal in one language. `dropped`: share of the measured documents that break a bound."""

    lang: str
    documents: int
    dropped: float
    broken: int
    bounds: list[tuple[str, float]]
    low: float
    high: float
    log: bool
    picture: Markup


class Signal(NamedTuple):
    name: str
    broken: int
    languages: list[Histogram]  # what drops most first


class Section(NamedTuple):
    dropping: list[Signal]
    idle: list[Signal]  # bounds that no document breaks
    read: int
    of: int
    documents: int
    left_out: int


def section(uri: str) -> Section | None:
    """None until filter/policy is done; a run of before it wrote its bounds has none either."""
    target = adopted.path(uri, POLICY, "_bounds.json")
    if not storage.exists(target):
        return None
    bounds: dict[str, dict[str, dict[str, float]]] = storage.read_json(target)
    looked = parts.looked_at(adopted.path(uri, SIGNALS))
    values = _values(uri, looked, bounds)
    found: dict[str, list[Histogram]] = defaultdict(list)
    for lang, rules in sorted(bounds.items()):
        for signal, of_signal in rules.items():
            measured = values.get((lang, signal))
            if of_signal and measured is not None and len(measured):
                found[signal].append(histogram(lang, measured, of_signal))
    signals = [
        Signal(name, sum(one.broken for one in ones), sorted(ones, key=lambda one: (-one.dropped, one.lang)))
        for name, ones in found.items()
    ]
    signals.sort(key=lambda one: (-one.broken, one.name))
    room, kept = MOST, []
    for one in signals:
        kept.append(one._replace(languages=one.languages[:room]))
        room -= len(kept[-1].languages)
    left_out = sum(len(one.languages) for one in signals) - sum(len(one.languages) for one in kept)
    shown = [one for one in kept if one.languages]
    dropping, idle = ([one for one in shown if bool(one.broken) is drops] for drops in (True, False))
    return Section(dropping, idle, len(looked.names), looked.of, looked.documents, left_out)


def _values(uri: str, looked: parts.Looked, bounds: Mapping[str, Mapping]) -> dict[tuple[str, str], np.ndarray]:
    """(language, signal) -> the values that are measured; shares stay float32, as they are compared."""
    names = sorted({signal for rules in bounds.values() for signal in rules})
    found: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for _, table in parts.tables(adopted.path(uri, SIGNALS), looked.names, ["lang", *names]):
        for lang in set(table["lang"].unique().to_pylist()) & bounds.keys():
            mine = table.filter(pc.equal(table["lang"], lang))
            for signal in bounds[lang]:
                if signal in mine.column_names:
                    measured = mine[signal].drop_null()
                    kind = np.float32 if measured.type == pa.float32() else np.float64
                    array = measured.to_numpy().astype(kind)
                    found[lang, signal].append(array[~np.isnan(array)])
    return {key: np.concatenate(arrays) for key, arrays in found.items()}


def histogram(lang: str, values: np.ndarray, bounds: Mapping[str, float]) -> Histogram:
    """`values` not empty. From the 0.5th to the 99.5th percentile, or a bound beyond; what lies outside is in the last bins."""
    breaks = np.zeros(len(values), bool)
    for bound, number in bounds.items():
        limit = values.dtype.type(
            number
        )  # as `curation.policy.policy.apply`: shares are float32, so is their threshold
        breaks |= values < limit if bound == "min" else values > limit
    finite = values[np.isfinite(values)]
    limits = [float(n) for n in bounds.values() if np.isfinite(n)]
    ends_of = [*(np.percentile(finite, [0.5, 99.5]).tolist() if len(finite) else ()), *limits] or [0.0]
    low, high = min(ends_of), max(ends_of)
    log = low > 0 and high / low > WIDE
    scale = np.log if log else np.asarray
    ends = scale(np.array([low, high], np.float64))
    room = 0.02 * float(ends[1] - ends[0]) or 0.5
    edges = np.linspace(ends[0] - room, ends[1] + room, BINS + 1)
    at = np.clip(scale(np.clip(values.astype(np.float64), low, high)), edges[0], edges[-1])
    left, gone = (np.histogram(at[mask], edges)[0] for mask in (~breaks, breaks))
    lines = [(float(scale(np.float64(n))) - edges[0]) / (edges[-1] - edges[0]) for n in limits]
    broken = int(breaks.sum())
    return Histogram(
        lang, len(values), broken / len(values), broken, list(bounds.items()), low, high, log, _draw(left, gone, lines)
    )


def _draw(left: np.ndarray, gone: np.ndarray, lines: list[float]) -> Markup:
    """Bars in two colours, those that are dropped on top, and a broken line at each bound. Heights are square roots: a bound
    cuts tails, which nobody would see beside the middle."""
    width = WIDTH / BINS
    most = max(1.0, float((left + gone).max())) ** 0.5
    whole, part = [], []
    for number, (kept, dropped) in enumerate(zip(left.tolist(), gone.tolist(), strict=True)):
        top = (kept + dropped) ** 0.5 / most * HEIGHT
        foot = kept / (kept + dropped) * top if kept + dropped else 0.0
        x = number * width
        if kept:
            whole.append(f"M{x:g} {HEIGHT}v-{foot:.1f}h{width - 1:g}v{foot:.1f}z")
        if dropped:
            part.append(f"M{x:g} {HEIGHT - foot:.1f}v-{top - foot:.1f}h{width - 1:g}v{top - foot:.1f}z")
    bars = "".join(f'<path class="{name}" d="{"".join(of)}"/>' for name, of in (("keep", whole), ("drop", part)) if of)
    marks = "".join(f"M{x * WIDTH:.1f} 0v{HEIGHT}" for x in lines)
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{bars}<path class="bound" d="{marks}"/></svg>'
    )
