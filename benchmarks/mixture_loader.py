"""How long a training waits for its batches: token stores on the local disk, and on an S3 server 50 ms away.

    python benchmarks/mixture_loader.py [--steps 60] [--latency 0.05]

A consumer takes micro-batches as the loop does (those of an update, then it computes) at 100,000 tokens/s; computing is
sleeping, as the thread of a GPU's process mostly does. Waiting is the share of time in which it asks for batches, after the
first update. Peer: the same batch function called in the loop, as without a loader. Rows are never read twice, and the cache
starts empty. A second number is how many tokens a second come when nothing is computed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from mixture_sampler import make_pools
from table import row, write

from mixture.order.sampler import Sampler, rows
from mixture.store import blocks
from mixture.store.token_store import TokenStore
from train.batches.parts import BatchFn
from train.loader import Loader, ahead
from train.loop import LoopConfig

CONTEXT = 4096
MICRO_ROWS = 4
ROWS_PER_STEP = 16
RATE = 100_000  # tokens/s of the consumer
TARGET = 1.0  # percent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60, help="updates of 65,536 tokens")
    parser.add_argument("--latency", type=float, default=0.05, help="of the S3 server, seconds")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        pools = make_pools(Path(folder) / "bucket", 40_000_000, 151_936)
        names = {name: Path(store.uri).name for name, store in pools.items()}
        measure(results, pools, "local disk", args.steps)
        with s3(folder, args.latency):
            far = {name: TokenStore(f"s3://bucket/{where}") for name, where in names.items()}
            for store in far.values():
                assert len(store.starts) == store.n_documents + 1  # read before the clock runs, as a training does
            measure(results, far, f"S3, {1000 * args.latency:.0f} ms away", args.steps)
            same(pools, far)
    write("mixture-loader", results, tuned_on="nothing")


def measure(results: list[dict], pools: dict[str, TokenStore], where: str, steps: int) -> None:
    config = LoopConfig(steps=steps, rows_per_step=ROWS_PER_STEP, micro_rows=MICRO_ROWS, lr=1.0)
    plain = consume(batch_fn(pools, seed=1), config, RATE)[0]
    with ahead(batch_fn(pools, seed=2), config) as loader:
        waiting, first, _ = consume(loader, config, RATE)
        assert isinstance(loader, Loader) and loader.restarts == 1
    peer = ("no loader", 100 * plain)
    text = f"waiting of a consumer of {RATE:,} tokens/s, {where}"
    results.append(row(text, "% of its time", 100 * waiting, peer=peer, target=TARGET, least=False))
    results.append(row(f"first update's batches, {where}", "s", first, least=False))
    plain = consume(batch_fn(pools, seed=3), config, None)[2]
    with ahead(batch_fn(pools, seed=4), config) as loader:
        speed = consume(loader, config, None)[2]
    results.append(row(f"batches alone, {where}", "M tokens/s", speed / 1e6, peer=("no loader", plain / 1e6)))


def batch_fn(pools: dict[str, TokenStore], seed: int) -> BatchFn:
    """Rows of a new run; what an earlier one has read is forgotten."""
    blocks._blocks.clear()
    weights = {pool: 1.0 / (rank + 1) for rank, pool in enumerate(pools)}
    sampler = Sampler(pools, [{"from_sample": 0, "weights": weights}], CONTEXT, seed)
    return lambda numbers: rows(sampler, numbers)


def consume(batch_fn: BatchFn, config: LoopConfig, rate: float | None) -> tuple[float, float, float]:
    """(share of the time spent asking for batches after the first update, seconds of the first, tokens/s of all others)."""
    waited = first = 0.0
    began = time.perf_counter()
    for step in range(config.steps):
        asked = time.perf_counter()
        numbers = range(step * config.rows_per_step, (step + 1) * config.rows_per_step)
        for i in range(0, len(numbers), config.micro_rows):
            batch_fn(list(numbers[i : i + config.micro_rows]))
        got = time.perf_counter()
        if step == 0:
            first, began = got - asked, got
        else:
            waited += got - asked
        if rate:
            time.sleep(config.rows_per_step * CONTEXT / rate)
    seconds = time.perf_counter() - began
    return waited / seconds, first, (config.steps - 1) * config.rows_per_step * CONTEXT / seconds


def same(near: dict[str, TokenStore], far: dict[str, TokenStore]) -> None:
    """Both give the same rows."""
    a, b = batch_fn(near, seed=9)(list(range(64))), batch_fn(far, seed=9)(list(range(64)))
    assert all(np.array_equal(a[name], b[name]) for name in a)


@contextmanager
def s3(folder: str, latency: float):
    """An S3 server over `folder`, in a process of its own."""
    command = [sys.executable, str(Path(__file__).parent / "s3_server.py"), folder, str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        port = server.stdout.readline().strip()
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        try:
            yield
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
