"""The report's section on `train.pretrain.update`: what learnt in pre-training, and of contrast what it was chosen by."""

from __future__ import annotations

from markupsafe import Markup

from ray_jobs.report import plots

KINDS = {"units": "feed-forward units", "heads": "query heads", "kv_heads": "key/value heads"}


def section(manifest: dict, choice: dict | None) -> dict | None:
    """Of the manifest of stage 1 and its `update.json`: the `rule`, how many parameters learn, and of contrast a `plot` of the
    chosen share of each layer and a `table` of (layer, [(chosen, of so many, gradient ratio of all, of the chosen) of each kind],
    units that are never open); None where all learns."""
    rule = manifest.get("update")
    if not rule:
        return None
    found = {
        "rule": rule,
        "learning": manifest["learning"],
        "parameters": manifest["parameters"],
        "never_active": manifest.get("never_active"),
        "loss_drop_per_norm": manifest.get("loss_drop_per_norm"),
    }
    layers = (choice or {}).get("by_layer")
    if not layers or not choice:
        return found
    shares = {name: [layer[kind]["chosen"] / layer[kind]["units"] for layer in layers] for kind, name in KINDS.items()}
    numbers = [str(number) for number in range(1, len(layers) + 1)]
    return found | {
        "plot": Markup(plots.grouped_bars(numbers, shares, "share that learns", 4.8)),
        "kinds": list(KINDS.values()),
        "rows": choice["rows_per_language"],
        "table": [
            (number, [layer[kind] for kind in KINDS], never)
            for number, layer, never in zip(numbers, layers, choice["never_active_by_layer"], strict=True)
        ],
    }
