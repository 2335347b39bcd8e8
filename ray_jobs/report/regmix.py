"""The report's section on RegMix: how well unseen mixtures are predicted, what was chosen, what each domain does to each
language."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from cluster import storage
from ray_jobs.report import plots
from ray_jobs.report.names import named
from ray_jobs.run import adopted
from ray_jobs.run.graph import WEIGHTS


def section(uri: str) -> dict | None:
    """Plots and numbers of the stages regmix/…, or None when the run has none."""
    folder = adopted.path(uri, WEIGHTS)
    if not storage.exists(storage.join(folder, "weights.json")):
        return None
    found = storage.read_json(storage.join(folder, "weights.json"))
    langs = sorted(found["prior"])
    chosen = {lang: found["weights"].get(f"all/{lang}", 0.0) for lang in langs}
    shares = {"prior (token counts)": found["prior"], "tempered": found["tempered"], "RegMix": chosen}
    rho, predicted, larger = found["rho"], found["predicted"], found.get("larger")
    rows = [
        {
            "lang": lang,
            "folds": rho["folds"][lang],
            "heldout": rho["heldout"] and rho["heldout"][lang],
            **{name: predicted[name][lang] for name in ("prior", "tempered", "chosen")},
        }
        for lang in rho["folds"]
    ]
    return {
        "proxies": found["proxies"],
        "heldout": found["heldout_proxies"],
        "parameters": found.get("parameters"),
        "matched": found.get("matched_tokens"),
        "kept": found.get("kept", []),
        "larger": larger and {**larger, "rho": _mean(larger["rho"])},
        "followed": found["followed"],
        "regression": found["regression"],
        "rho_folds": _mean(rho["folds"]),
        "rho_heldout": rho["heldout"] and _mean(rho["heldout"]),
        "rows": rows,
        "step": f"{found['step']:.0%}",
        "scatter": Markup(_scatter(folder)),
        "weights": Markup(
            plots.grouped_bars(
                [*map(named, langs)], {n: [s[lang] for lang in langs] for n, s in shares.items()}, "share"
            )
        ),
        "effects": Markup(_effects(folder, found["step"])),
    }


def _mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def _scatter(folder: str) -> str:
    """Losses less their language's mean, so that languages lie on one another."""
    table = storage.read_table(storage.join(folder, "predicted.parquet"))
    language, heldout = np.array(table["language"].to_pylist()), table["heldout"].to_numpy()
    measured, predicted = table["measured"].to_numpy(), table["predicted"].to_numpy()
    centre = np.array([measured[language == lang].mean() for lang in language])
    kinds = {"folds of the training proxies": ~heldout, "held-out proxies": heldout}
    series = {
        name: ((measured - centre)[which], (predicted - centre)[which]) for name, which in kinds.items() if which.any()
    }
    return plots.scatter(series, "measured loss less its language's mean", "predicted")


def _effects(folder: str, step: float) -> str:
    """A domain of which no proxy had so much is marked: what is said of it is extrapolated."""
    table = storage.read_table(storage.join(folder, "effects.parquet")).to_pylist()
    change = {(row["domain"], row["language"]): row["loss_change"] for row in table}
    domains, languages = (sorted({pair[i] for pair in change}) for i in (0, 1))
    measured = {row["domain"]: row["largest_share"] >= step for row in table}
    values = [[change[domain, lang] for lang in languages] for domain in domains]
    labels = [named(domain) if measured[domain] else f"{named(domain)} *" for domain in domains]
    return plots.heat_map(labels, [*map(named, languages)], values, y="more of", x="loss of", colour="change of loss")
