"""The report's section on prune: bits per byte of each language before, after the masks and after healing."""

from __future__ import annotations

from markupsafe import Markup

from ray_jobs.report import plots
from ray_jobs.report.names import named


def section(manifest: dict) -> dict | None:
    """`plot`, and a `table` of (language, its bits per byte, damage, share of the masks' damage that healing took away), the
    worst first; None where nothing was measured."""
    found = manifest.get("damage")
    if not found:
        return None
    series = {
        title: [one[key] for one in found.values()]
        for title, key in (("before", "before"), ("after masks", "masks"), ("healed", "healed"))
    }
    table = []
    for lang, one in found.items():
        cost, lost = one["masks"] - one["before"], one["healed"] - one["before"]
        table.append((named(lang), one, lost, 1 - lost / cost if cost > 0 else None))
    return {
        "plot": Markup(plots.grouped_bars([*map(named, found)], series, "bits per byte")),
        "table": table,
        "before": manifest["parameters_before"],
        "after": manifest["parameters"],
        "removed": manifest["removed_share"],
        "healed_by": manifest["healed_by"],
        "layers": manifest.get("ffn_open_by_layer"),
    }
