"""The report's section on synthesize: what models made, how much of each language it is, and why texts were refused."""

from __future__ import annotations


def section(manifest: dict) -> dict | None:
    """`tasks`, `share` by language, and `rules` with the most frequent first; None where no model made texts."""
    if not manifest.get("tasks"):
        return None
    tasks = [
        {**task, **{key: sum(one[key] for one in task["languages"].values()) for key in ("asked", "kept")}}
        for task in manifest["tasks"]
    ]
    rules = sorted(manifest["rules"].items(), key=lambda item: (-item[1], item[0]))
    return {"tasks": tasks, "share": manifest["share"], "rules": rules, "beyond": manifest["beyond_share"]}
