"""Selection of 100,000 chats by reward, perplexity and greedy cosine on two cores, beside the loop over single candidates
and a numpy version of SemDeDup (Abbas et al. 2023), which only compares within clusters of k-means.

Embeddings are a random mixture of near-copies: 40,000 directions of 896 numbers (the base model of 1B), a noise that puts
copies of one on both sides of a cosine of 0.6. Once in the recipe's cells (13 languages x 5 categories), once all in one.

    .venv/bin/python benchmarks/alignment_select.py
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import table
from train.selection.diverse import greedy, unit
from train.selection.select import select

N, WIDTH, DIRECTIONS, LIMIT = 100_000, 896, 40_000, 0.6
NAIVE = 4_000  # candidates of the loop, which is quadratic
CLUSTERS, ROUNDS = 300, 5  # of k-means, near the square root of N as SemDeDup advises
LANGUAGES, CATEGORIES = 13, 5


def main() -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        embeddings = np.memmap(Path(folder) / "embeddings", np.float32, "w+", shape=(N, WIDTH))
        directions = rng.standard_normal((DIRECTIONS, WIDTH), np.float32)
        for start in range(0, N, 10_000):
            of = rng.integers(0, DIRECTIONS, 10_000)
            noise = rng.standard_normal((10_000, WIDTH), np.float32) * rng.uniform(0.3, 1.1, (10_000, 1)).astype(
                np.float32
            )
            embeddings[start : start + 10_000] = directions[of] + noise
        del directions
        ids = [f"{i:06}" for i in range(N)]
        rewards, perplexities = rng.normal(size=N), rng.lognormal(size=N)
        langs = [f"l{i}" for i in rng.integers(0, LANGUAGES, N)]
        categories = [f"c{i}" for i in rng.integers(0, CATEGORIES, N)]
        rows = []
        for name, of, kinds in (("65 cells", langs, categories), ("one cell", ["l"] * N, ["c"] * N)):
            quotas = dict.fromkeys(zip(of, kinds, strict=True), N)
            before, cpu, wall = memory(), time.process_time(), time.perf_counter()
            found = [
                d for cell in select(ids, of, kinds, rewards, perplexities, embeddings, quotas, LIMIT) for d in cell
            ]
            seconds, core = time.perf_counter() - wall, time.process_time() - cpu
            taken = sum(d.rule == "taken" for d in found)
            print(f"{name}: {taken:,} taken of {len(found):,} in {seconds:.0f} s, {core:.0f} CPU s", flush=True)
            rows.append(table.row(f"{N:,} chats, {name}", "s", seconds, target=600, least=False))
            rows.append(table.row(f"{N:,} chats, {name}", "CPU s", core))
            rows.append(table.row(f"memory above the start, {name}", "GB", memory() - before))
        order = np.array([int(d.id) for d in found])
        taken = np.array([int(d.id) for d in found if d.rule == "taken"])
        rows += beside_the_loop(np.array(embeddings[order[:NAIVE]])) + beside_semdedup(
            embeddings, order, taken, seconds
        )
    table.write("alignment-select", rows, tuned_on="nothing")


def beside_the_loop(embeddings: np.ndarray) -> list[dict]:
    cpu = time.process_time()
    ours = greedy(lambda numbers: embeddings[numbers], NAIVE, NAIVE, LIMIT)
    seconds = time.process_time() - cpu
    cpu = time.process_time()
    units, taken = unit(embeddings), []
    kept = np.empty_like(units)
    for i in range(NAIVE):
        if not taken or np.round(kept[: len(taken)] @ units[i], 12).max() <= LIMIT:
            kept[len(taken)] = units[i]
            taken.append(i)
    naive = time.process_time() - cpu
    equal = np.flatnonzero(ours.taken_N).tolist() == taken
    rows = [table.row(f"{NAIVE:,} candidates", "candidates/CPU s", NAIVE / seconds, peer=("naive loop", NAIVE / naive))]
    return [*rows, table.row("same rows taken as by the loop (1 = yes)", "", float(equal), target=1)]


def beside_semdedup(embeddings: np.ndarray, order: np.ndarray, taken: np.ndarray, seconds: float) -> list[dict]:
    """Time of both on one cell in the same order, and near pairs that both leave."""
    wall = time.perf_counter()
    theirs = semdedup(embeddings, order)
    name = f"SemDeDup, numpy, {CLUSTERS} clusters"
    left = near(embeddings, taken), near(embeddings, theirs)
    return [
        table.row(f"{N:,} chats, one cell", "s", seconds, peer=(name, time.perf_counter() - wall)),
        table.row("kept with a near one kept too", "of 100", left[0], peer=(name, left[1]), target=0, least=False),
    ]


def semdedup(embeddings: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Rows kept: within each cluster those without a row above the limit that is earlier in `order`."""
    units = unit(embeddings[order]).astype(np.float32)
    centres = units[np.random.default_rng(0).choice(N, CLUSTERS, replace=False)]
    for _ in range(ROUNDS):
        of = np.concatenate([(units[i : i + 8192] @ centres.T).argmax(1) for i in range(0, N, 8192)])
        centres = np.stack([units[of == c].mean(0) if (of == c).any() else centres[c] for c in range(CLUSTERS)])
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    kept = []
    for c in range(CLUSTERS):
        members = np.flatnonzero(of == c)
        cosines = np.triu(units[members] @ units[members].T, 1)
        kept.append(members[cosines.max(0, initial=0) <= LIMIT])
    return order[np.concatenate(kept)]


def near(embeddings: np.ndarray, kept: np.ndarray, sample: int = 3000) -> float:
    """Of 100 kept rows, how many have another kept one above the limit; of a sample."""
    chosen = np.random.default_rng(1).choice(kept, min(sample, len(kept)), replace=False)
    units = unit(embeddings[chosen])
    found = np.zeros(len(chosen), bool)
    for start in range(0, len(kept), 8192):
        others = kept[start : start + 8192]
        cosines = np.round(units @ unit(embeddings[others]).T, 12)
        cosines[chosen[:, None] == others] = -1
        found |= (cosines > LIMIT).any(1)
    return 100 * float(found.mean())


def memory() -> float:
    """Largest resident memory so far, without the mapped file's pages where they are the only ones; GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
