"""How fast one core makes packed rows from token stores in the page cache: tokens per second.

    python benchmarks/mixture_sampler.py [--tokens 64000000] [--rows 4000] [--out benchmarks/results/mixture-sampler.json]

Peer: the loader of small training scripts, random slices of one np.memmap cast to int64 and stacked (no documents, no mask,
no epochs, no mixture): a lower bound on the work. Ours gives inputs, labels, document ids and positions of a mixture.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from table import row, write

from mixture.order.sampler import Sampler, rows
from mixture.store.token_store import TokenStore, write_store

CONTEXT = 4096
BATCH = 8
POOLS = 15
TARGET = 50  # M tokens/s/core


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=64_000_000, help="in all pools together")
    parser.add_argument("--rows", type=int, default=4000, help="rows timed in each of five rounds")
    args = parser.parse_args()
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})  # one core
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for vocab_size, name in ((16_384, "uint16"), (151_936, "uint32")):
            pools = make_pools(Path(folder) / name, args.tokens, vocab_size)
            weights = {pool: 1.0 / (rank + 1) for rank, pool in enumerate(pools)}
            sampler = Sampler(pools, [{"from_sample": 0, "weights": weights}], CONTEXT, seed=0)
            flat = Path(folder) / f"{name}.bin"
            flat.write_bytes(b"".join(store.tokens.tobytes() for store in pools.values()))
            for store in pools.values():
                store.tokens.sum()  # into the page cache
            ours = rate(lambda batch, sampler=sampler: rows(sampler, list(batch)), args.rows)
            located = rate(lambda batch, sampler=sampler: [sampler.address(i) for i in batch], args.rows)
            peer = rate(peer_rows(flat, pools["pool00"].dtype), args.rows)
            results.append(
                row(
                    f"packed rows from a {name} store, context {CONTEXT}",
                    "M tokens/s/core",
                    ours / 1e6,
                    peer=("np.memmap slices, stacked", peer / 1e6),
                    target=TARGET,
                )
            )
            results.append(row(f"finding the rows only, {name}", "M tokens/s/core", located / 1e6))
    write("mixture-sampler", results, tuned_on="nothing")


def make_pools(folder: Path, tokens: int, vocab_size: int) -> dict[str, TokenStore]:
    """Pools of equal size; document lengths log-normal around 500 tokens, as web pages have."""
    rng = np.random.default_rng(0)
    pools = {}
    for pool in range(POOLS):
        lengths = np.minimum(rng.lognormal(6.2, 1.1, 10 * tokens // POOLS // 500), 50_000).astype(int) + 1
        lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), tokens // POOLS)) + 1]
        documents = ((f"{d:032x}", "xx", 4 * n, rng.integers(1, vocab_size, n)) for d, n in enumerate(lengths.tolist()))
        write_store(str(folder / str(pool)), documents, vocab_size, eod=0)
        pools[f"pool{pool:02}"] = TokenStore(str(folder / str(pool)))
    return pools


def peer_rows(path: Path, dtype: np.dtype) -> Callable[[range], object]:
    data = np.memmap(path, dtype, mode="r")
    data.sum()
    rng = np.random.default_rng(0)

    def batch(indices: range) -> tuple[np.ndarray, np.ndarray]:
        starts = rng.integers(0, len(data) - CONTEXT - 1, len(indices))
        inputs = np.stack([data[start : start + CONTEXT].astype(np.int64) for start in starts])
        labels = np.stack([data[start + 1 : start + 1 + CONTEXT].astype(np.int64) for start in starts])
        return inputs, labels

    return batch


def rate(make: Callable[[range], object], n_rows: int) -> float:
    """Tokens per second of the thread's CPU time: the median of five rounds after a warm-up, each over new rows."""
    make(range(256))
    rates = []
    for round in range(1, 6):
        begin = time.thread_time()
        for first in range(round * n_rows, (round + 1) * n_rows, BATCH):
            make(range(first, first + BATCH))
        rates.append(n_rows * CONTEXT / (time.thread_time() - begin))
    return sorted(rates)[2]


if __name__ == "__main__":
    main()
