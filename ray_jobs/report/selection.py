"""The report's section on selection and reward model: what was taken and why, how good the rewards are on held-out pairs."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
from markupsafe import Markup

from cluster import storage
from ray_jobs.report import plots
from ray_jobs.report.names import named
from ray_jobs.run import adopted
from ray_jobs.run.graph import REWARD, SFT_SELECT
from train.scores import reward_quality

RULES = ("taken", "too_similar", "quota")
BINS = 10


def selection(uri: str) -> dict | None:
    """Counts by rule and cell, and the scores of what was taken and what was not; None when the run has none."""
    target = adopted.path(uri, SFT_SELECT, "decisions.parquet")
    if not storage.exists(target):
        return None
    found = storage.read_table(target, ["lang", "category", "rule", "score", "cosine"])
    langs, categories, rules = (found[name].to_pylist() for name in ("lang", "category", "rule"))
    counts = Counter(zip(langs, categories, rules, strict=True))
    cells = sorted({cell[:2] for cell in counts})
    rows = [[*cell, *(counts[*cell, rule] for rule in RULES)] for cell in cells]
    by_lang = sorted(set(langs))
    shown = {
        rule: [sum(row[2 + i] for row in rows if row[0] == lang) for lang in by_lang] for i, rule in enumerate(RULES)
    }
    score, rule = found["score"].to_numpy(), np.array(rules)
    edges = np.linspace(0, 0.5, BINS + 1)
    scores = {name: np.histogram(score[rule == name], edges)[0].tolist() for name in RULES if (rule == name).any()}
    return {
        "candidates": len(found),
        "rules": {name: int((rule == name).sum()) for name in RULES},
        "cells": rows,
        "by_language": Markup(plots.stacked_rows([*map(named, by_lang)], shown, "conversations", 8.0)),
        "scores": Markup(plots.grouped_bars([f"{edge:.2f}" for edge in edges[:-1]], scores, "conversations", 6.4)),
    }


def reward(uri: str) -> dict | None:
    """Calibration, margins, and what length has to do with them; None when no pair was held out."""
    target = adopted.path(uri, REWARD, "heldout.parquet")
    if not storage.exists(target):
        return None
    table = storage.read_table(target)
    chosen, rejected = table["chosen_reward"].to_numpy(), table["rejected_reward"].to_numpy()
    margin = chosen.astype(np.float64) - rejected
    langs = np.array(table["lang"].to_pylist())
    lengths = [table[f"{side}_characters"].to_numpy() for side in ("chosen", "rejected")]
    share = reward_quality.accuracy(margin)
    bins = reward_quality.reliability(margin)
    curve = {"pairs": ([row["confidence"] for row in bins], [row["accuracy"] for row in bins])}
    edges = (
        np.linspace(margin.min(), margin.max(), BINS + 1) if np.ptp(margin) else np.array([margin[0], margin[0] + 1])
    )
    counts = np.histogram(margin, edges)[0].tolist()
    middles = [f"{(a + b) / 2:.1f}" for a, b in pairwise(edges)]
    return {
        "pairs": len(margin),
        "accuracy": share,
        "interval": reward_quality.interval(share, len(margin)),
        "calibration_error": reward_quality.calibration_error(margin),
        "bias": reward_quality.length_bias(chosen, rejected, *lengths),
        "bins": bins,
        "languages": [
            [str(lang), int((langs == lang).sum()), own, *reward_quality.interval(own, int((langs == lang).sum()))]
            for lang in np.unique(langs)
            for own in [reward_quality.accuracy(margin[langs == lang])]
        ],
        "curve": Markup(plots.scatter(curve, "confidence of the model", "share that was right")),
        "margins": Markup(plots.grouped_bars(middles, {"pairs": counts}, "pairs", 8.0)),
    }
