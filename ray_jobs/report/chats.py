"""The report's section on the chats that SFT reads, from `sft/data/statistics.json` alone."""

from __future__ import annotations

from collections import Counter

from markupsafe import Markup

from cluster import storage
from ray_jobs.report import plots
from ray_jobs.report.names import named
from ray_jobs.run import adopted
from ray_jobs.run.graph import SFT_DATA

SHOWN = 8  # categories with a colour of their own
OTHERS = "others"


def section(uri: str) -> dict:
    """`plot` of conversations by language and category, `cells` and `dropped` as rows of tables, and the sums."""
    found = storage.read_json(adopted.path(uri, SFT_DATA, "statistics.json"))
    cells = found["cells"]
    sizes: Counter[str] = Counter()
    for cell in cells:
        sizes[cell["category"]] += cell["conversations"]
    first = [name for name, _ in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]]
    langs = sorted({cell["lang"] for cell in cells})
    counts: Counter[tuple[str, str]] = Counter()
    for cell in cells:
        counts[cell["category"] if cell["category"] in first else OTHERS, cell["lang"]] += cell["conversations"]
    shown = [*first, OTHERS] if len(sizes) > len(first) else first
    series = {name: [counts[name, lang] for lang in langs] for name in shown}
    return {
        "plot": Markup(plots.stacked_rows([*map(named, langs)], series, "conversations")),
        "cells": cells,
        "conversations": sum(cell["conversations"] for cell in cells),
        "tokens": sum(cell["tokens"] for cell in cells),
        "dropped": [(rule, sum(langs.values()), langs) for rule, langs in found["dropped"].items()],
        "not_sampled": found["not_sampled"],
    }
