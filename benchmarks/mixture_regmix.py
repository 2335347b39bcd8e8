"""How well losses of unseen mixtures are ranked: Spearman's rho on the published RegMix runs, and what a fit costs.

    PINISI_SAMPLE_DIR=... python benchmarks/mixture_regmix.py

Fitted to the 512 training runs of 1M, tested on 256 runs of 1M, 256 of 60M and 64 of 1B (sail-sg/regmix). Peers are the published
numbers on Pile-CC, the only target there (RegMix, arXiv 2407.01492, table 2); the other domains have no published numbers.
"""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path

import numpy as np
from table import row, write

from mixture.regmix.mixtures import sample_mixtures
from mixture.regmix.regression import cross_validate, fit, spearman
from mixture.regmix.search import best_mixture

PUBLISHED = {"linear": (0.9008, 0.8926, 0.8801), "lightgbm": (0.9845, 0.9864, 0.9712)}
TARGETS = {"linear": (0.90, 0.89, 0.87), "lightgbm": (0.984, 0.983, 0.960), "best": (0.9845, 0.9864, 0.9712)}
SCALES = ("1m", "60m", "1B")
TUNED_ON = "the training runs alone; the tests' figures were in sight"  # of `best`, which is our choice


def main() -> None:
    folder = Path(os.environ["PINISI_SAMPLE_DIR"]) / "regmix"
    names, losses = table(folder / "train_pile_loss_1m.csv")
    _, weights = table(folder / "train_mixture_1m.csv")
    tests = [(table(folder / f"test_mixture_{s}.csv")[1], table(folder / f"test_pile_loss_{s}.csv")[1]) for s in SCALES]
    pile = next(i for i, name in enumerate(names) if "pile_cc" in name)
    rows, fitted = [], {}
    for kind in ("linear", "lightgbm", "best"):
        seen = TUNED_ON if kind == "best" else None
        begin = time.process_time()
        fitted[kind] = fit(weights, losses, kind)
        seconds = (time.process_time() - begin) / len(names)
        rhos = [spearman(measured, fitted[kind].predict(mixtures)) for mixtures, measured in tests]
        published = PUBLISHED.get(kind, PUBLISHED["lightgbm"])
        for scale, rho, theirs, target in zip(SCALES, rhos, published, TARGETS[kind], strict=True):
            peer = (f"published, {kind if kind in PUBLISHED else 'lightgbm'}", theirs)
            rows.append(
                row(
                    f"{kind}: Pile-CC, 512 runs of 1M -> {scale}",
                    "rho",
                    rho[pile],
                    peer=peer,
                    target=target,
                    tuned_on=seen,
                )
            )
        for scale, rho in zip(SCALES, rhos, strict=True):
            rows.append(row(f"{kind}: mean of 13 domains -> {scale}", "rho", rho.mean(), tuned_on=seen))
            rows.append(row(f"{kind}: worst of 13 domains -> {scale}", "rho", rho.min(), tuned_on=seen))
        held_out = cross_validate(weights, losses[:, [pile]], kind)
        rows.append(row(f"{kind}: Pile-CC, 5 folds of the 512", "rho", spearman(losses[:, [pile]], held_out)[0]))
        rows.append(row(f"{kind}: fit of one target to 512 runs", "CPU s", seconds))
    for kind, n in (("lightgbm", 24), ("best", 24), ("best", 64), ("best", 128), ("best", 256)):
        rho = spearman(tests[0][1], fit(weights[:n], losses[:n], kind).predict(tests[0][0]))
        rows.append(
            row(
                f"{kind}: mean of 13 domains, {n} runs -> 1m",
                "rho",
                rho.mean(),
                tuned_on=TUNED_ON if kind == "best" else None,
            )
        )
    prior = dict(zip([f"{i:02}" for i in range(weights.shape[1])], weights.mean(axis=0), strict=True))
    begin = time.process_time()
    best_mixture(fitted["best"], prior, seed=42)
    rows.append(row("best: search, 100,000 mixtures, 13 targets, 512 runs", "CPU s", time.process_time() - begin))
    begin = time.process_time()
    sample_mixtures(prior, 512, 42)
    rows.append(row("512 mixtures of 17 domains", "CPU s", time.process_time() - begin))
    write("mixture-regmix", rows, tuned_on="nothing")


def table(path: Path) -> tuple[list[str], np.ndarray]:
    with open(path) as file:
        header, *lines = csv.reader(file)
    return header[1:], np.array([[float(cell) for cell in line[1:]] for line in lines])


if __name__ == "__main__":
    main()
