"""How long training stands still for a checkpoint: written at once, or from a copy while it goes on; beside torch's own writers.

    python benchmarks/training_checkpoint.py [--parameters 60] [--saves 4]

One process, weights and Adam's two moments in fp32 (12 bytes a parameter). Each way writes the same state several times to
the same disk, one after the other in turn, and trains between saves (a matrix product), so that a writer in the background
has something to be beside. Stalls are wall seconds of the call that the loop waits for; what a way needs in all is CPU time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from table import row, write
from torch.distributed.checkpoint import HuggingFaceStorageWriter

from train.checkpoint import checkpoint
from train.checkpoint import pieces as shards

CPU = torch.device("cpu")
TARGET = 0.2  # of the seconds that writing at once takes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=float, default=60.0, help="millions")
    parser.add_argument("--saves", type=int, default=4)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    state = make_state(int(args.parameters * 1e6))
    total = sum(tensor.nbytes for tensor in state.values())
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        stalls, trained = measure(folder, state, args.saves)
        read = reading(folder, state)
        dist.destroy_process_group()
    sync, ours = stalls["sync"], stalls["async"]
    results = [
        row("training stands still, written at once", "s", sync, peer=("torch DCP save, safetensors", stalls["dcp"])),
        row(
            "training stands still, written beside training",
            "s",
            ours,
            peer=("torch DCP async_save", stalls["dcp async"]),
        ),
        row("beside training / at once", "share", ours / sync, target=TARGET, least=False),
        row("size of a checkpoint", "MB", total / 1e6),
        row("training beside a writer / alone", "share of the speed", trained["async"] / trained["alone"]),
        row("finding, checking and loading the newest", "s", read["load"]),
        row("of which checksums", "s", read["checksums"]),
    ]
    write("training-checkpoint", results, tuned_on="nothing")


def make_state(parameters: int) -> dict[str, torch.Tensor]:
    """Weights and moments of a model of matrices of one million parameters each."""
    generator = torch.Generator().manual_seed(0)
    names = [f"model/layers.{i}" for i in range(max(1, parameters // 1_000_000))]
    weights = {name: torch.randn(1000, 1000, generator=generator) for name in names}
    moments = {f"{m}/{name}": torch.randn(1000, 1000, generator=generator) for m in ("m", "v") for name in names}
    return weights | moments


def measure(folder: str, state: dict, saves: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of each way's stall, and products a second of CPU time beside the writer and alone."""
    stalls: dict[str, list[float]] = {name: [] for name in ("sync", "async", "dcp", "dcp async")}
    trained: dict[str, list[float]] = {"async": [], "alone": []}
    at_once = checkpoint.Writer(f"{folder}/sync", CPU, 1, background=False)
    beside = checkpoint.Writer(f"{folder}/async", CPU, 1)
    for step in range(saves + 1):  # the first is not counted: buffers are taken, pages touched
        began = time.perf_counter()
        at_once.save(step, state)
        stalls["sync"].append(time.perf_counter() - began)

        began = time.perf_counter()
        dcp.save(state, storage_writer=HuggingFaceStorageWriter(f"{folder}/dcp-{step}", save_distributed=True))
        stalls["dcp"].append(time.perf_counter() - began)

        trained["alone"].append(train_for(1.0, lambda: False))
        began = time.perf_counter()
        beside.save(step, state)
        stalls["async"].append(time.perf_counter() - began)
        trained["async"].append(train_for(60.0, lambda: not beside.state()[0]))
        beside.finish()

        began = time.perf_counter()
        future = dcp.async_save(state, checkpoint_id=f"{folder}/dcp-async-{step}")
        stalls["dcp async"].append(time.perf_counter() - began)
        future.result()
        for name in ("dcp", "dcp-async"):
            for path in Path(folder, f"{name}-{step}").iterdir():
                path.unlink()
    median = lambda lists: {name: statistics.median(values[1:]) for name, values in lists.items()}  # noqa: E731
    return median(stalls), median(trained)


def train_for(seconds: float, done) -> float:
    """Products of matrices a second of this thread's CPU time, until `done()` or for so many seconds."""
    a = torch.randn(400, 400)
    began, cpu, products = time.perf_counter(), time.thread_time(), 0
    while time.perf_counter() - began < seconds and not (products and done()):
        a = (a @ a).tanh_()
        products += 1
    return products / (time.thread_time() - cpu)


def reading(folder: str, state: dict) -> dict[str, float]:
    began = time.perf_counter()
    newest = checkpoint.load_newest(f"{folder}/async", state)
    load = time.perf_counter() - began
    began = time.perf_counter()
    for name in newest.files:
        shards.checksum(f"{newest.uri}/{name}")
    return {"load": load, "checksums": time.perf_counter() - began}


if __name__ == "__main__":
    main()
