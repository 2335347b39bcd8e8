"""How often small models tell a bad filter from a good one, and say nothing of two that are equal.

    python benchmarks/experiment_ablate.py [--trials 120] [--first 0] [--seeds 3] [--shared-only]

Each trial has documents of its own: walks in two Markov chains, and rubbish (a few words again and again). The bad filter drops
15 % of the good documents and keeps the rubbish, a seventh of all; the slightly bad one keeps a quarter of that rubbish. Of the
null, each filter drops another 20 % of the good documents by chance. Judged on 20 held-out documents a language, other ones for
each trial, by `ray_jobs.experiment.statistics.difference`.

Peer: the same with an order of its own for each filter, from the same first weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from table import row, write

from ray_jobs.experiment import ablate
from ray_jobs.experiment.ablate import Corpus
from ray_jobs.experiment.statistics import Difference, difference
from train.methods import proxy

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import grammars

STEPS = 80
GROUP = 10  # trials whose models are trained together
HELDOUT, ITEMS = 60, 20  # of a language: all, and those of one trial
CASES = ("bad", "slightly bad", "null")
WAYS = ("shared", "own")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first trial; other ones are other documents"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shared-only", action="store_true", help="without the peer and the slightly bad filter")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases, ways = (("bad", "null"), WAYS[:1]) if args.shared_only else (CASES, WAYS)
    seeds = range(42, 42 + args.seeds)
    began = time.process_time()
    heldout = grammars.documents(np.random.default_rng(0), HELDOUT, "held")
    found: dict[tuple[str, str], list[Difference]] = defaultdict(list)
    end = args.first + args.trials
    for first in range(args.first, end, GROUP):
        trials = range(first, min(first + GROUP, end))
        pairs = [filters(trial, args.seeds)[case] for trial in trials for case in cases]
        bits = {seed: trained(pairs, ways, number, seed, args.seeds, heldout) for number, seed in enumerate(seeds)}
        for n, (trial, case) in enumerate((trial, case) for trial in trials for case in cases):
            items = drawn(trial, list(heldout))
            base, *others = (
                {seed: {key: of[n * (1 + len(ways)) + m][key] for key in items} for seed, of in bits.items()}
                for m in range(1 + len(ways))
            )
            for way, one in zip(ways, others, strict=True):
                found[case, way].append(difference(one, base))
        print(f"{trials.stop - args.first} trials, {time.process_time() - began:.0f} s of CPU time", flush=True)
    write(
        "experiment-ablate",
        table(found, args.seeds),
        tuned_on="nothing; trials are drawn from generators with fixed seeds",
    )


def filters(trial: int, seeds: int) -> dict[str, tuple[Corpus, Corpus]]:
    """What both filters of each case keep."""
    rng = np.random.default_rng([1, trial])
    good = grammars.documents(rng, 100 * seeds, "good")
    rubbish = grammars.documents(rng, 17 * seeds, "rubbish", good=False)
    bad = grammars.without(rng, good, 0.15)
    return {
        "bad": (good, bad | rubbish),
        "slightly bad": (good, bad | grammars.without(rng, rubbish, 0.75)),
        "null": (grammars.without(rng, good, 0.2), grammars.without(rng, good, 0.2)),
    }


def trained(pairs: list, ways: Sequence[str], number: int, seed: int, seeds: int, heldout: Corpus) -> list[dict]:  # noqa: PLR0917
    """Bits per byte of the models of a pair: of both filters on shared rows, and with "own" of the second in an order of its
    own."""
    setting, batches = grammars.setting(STEPS), []
    with tempfile.TemporaryDirectory() as folder:
        for n, pair in enumerate(pairs):
            ours, other = (ablate.part(side, number, seeds, heldout) for side in pair)
            batches += ablate.shared_batches(ours, other, f"{folder}/{n}", setting, seed)
            if "own" in ways:
                batches.append(ablate.shared_batches(ours, other, f"{folder}/{n}-own", setting, seed + 1000)[1])
        config = dataclasses.replace(setting.config, seed=seed)
        losses = proxy.losses(setting.shape, batches, ablate.measured(heldout, setting), config)
    return [ablate.bits_per_byte(one, heldout) for one in losses]


def drawn(trial: int, keys: list[str]) -> list[str]:
    """The held-out documents of one trial."""
    rng = np.random.default_rng([2, trial])
    picked = [rng.choice(HELDOUT, ITEMS, replace=False) + HELDOUT * n for n in range(len(grammars.LANGUAGES))]
    return [keys[k] for k in np.concatenate(picked)]


def table(found: dict[tuple[str, str], list[Difference]], seeds: int) -> list[dict]:
    def both(case: str, of: Callable[[Difference], float]) -> tuple[float, tuple[str, float] | None]:
        ours, *own = (float(np.mean([of(one) for one in found[case, way]])) for way in WAYS if (case, way) in found)
        return ours, ("an order of its own", own[0]) if own else None

    rows = []
    cases = [case for case in CASES if (case, "shared") in found]
    for case in cases:
        target, least = {"bad": (0.95, True), "null": (0.05, False)}.get(case, (None, True))
        ours, peer = both(case, lambda one: one.shown)
        name = f"{case} filter: difference shown, {seeds} seeds, {len(found[case, 'shared'])} trials"
        rows.append(row(name, "share of trials", ours, peer=peer, target=target, least=least))
    for case in cases:
        ours, peer = both(case, lambda one: (one.high - one.low) / 2)
        rows.append(row(f"{case}: half of the interval", "bits per byte", ours, peer=peer))
        rows.append(row(f"{case}: difference", "bits per byte", both(case, lambda one: one.value)[0]))
    held = float(np.mean([one.low <= 0 <= one.high for one in found["null", "shared"]]))
    rows.append(row("null: intervals that hold 0", "share of trials", held, target=0.95))
    return rows


if __name__ == "__main__":
    main()
