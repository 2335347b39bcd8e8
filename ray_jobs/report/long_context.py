"""The report's section on long_context: held-out text by its position in a row, before and after."""

from __future__ import annotations

from markupsafe import Markup

from ray_jobs.report import plots


def section(manifest: dict) -> dict | None:
    """`plot` of the mean over languages, a `table` of (language, [(before, after) of each bucket]), the `buckets`; None where
    nothing was measured by position."""
    before, after = manifest.get("positions_before") or {}, manifest.get("positions_after") or {}
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for name, value in after.items():
        lang, _, bucket = name.rpartition(" ")
        if name in before:
            found.setdefault(lang, {})[bucket] = (before[name], value)
    buckets = sorted({bucket for of in found.values() for bucket in of}, key=lambda bucket: int(bucket.split("-")[0]))
    whole = [of for of in found.values() if len(of) == len(buckets)]  # a mean of the same languages in each bucket
    if not buckets or not whole:
        return None
    middles = [sum(map(int, bucket.split("-"))) / 2 for bucket in buckets]
    series = {
        title: (middles, [sum(of[bucket][i] for of in whole) / len(whole) for bucket in buckets])
        for i, title in enumerate(("before", "after"))
    }
    return {
        "plot": Markup(plots.lines(series, "position in the row", "bits per byte, mean of languages")),
        "buckets": buckets,
        "table": [(lang, [of.get(bucket) for bucket in buckets]) for lang, of in found.items()],
        "languages": len(whole),
    }
