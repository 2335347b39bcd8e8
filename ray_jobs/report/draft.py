"""The report's section on draft: in each language, how many tokens a pass of the model yields with it."""

from __future__ import annotations


def section(manifest: dict) -> dict | None:
    """`model`, `gamma`, `vocabulary`, and `languages`: (language, what `train.drafts.measure.acceptance` says, with `gain`, the
    time without the draft over that with it), the best first; None where nothing was measured."""
    found = manifest.get("languages")
    if not found:
        return None
    rows = []
    for lang, of in sorted(found.items(), key=lambda item: (-item[1]["tokens_per_call"], item[0])):
        seconds = of["seconds"]
        rows.append((lang, {**of, "gain": seconds["plain"] / seconds["draft"] if seconds["draft"] else None}))
    return {**{key: manifest[key] for key in ("model", "gamma", "vocabulary")}, "languages": rows}
