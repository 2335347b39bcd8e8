"""What `train.exact` costs: an update with gradients summed in a fixed tree beside one as ever, with 1 and 2 workers on CPU.

    python benchmarks/train_exact.py [--rounds 4] [--steps 3] [--rows 8] [--micro-rows 8] [--contexts 1024 128]

Both train the same model (width 256, 4 layers, 16,384 tokens, head of its own) on the same rows in one process per worker, in
turns: in every round one runs and then the other, and the next round begins with the other. A run's first update is not timed.
CPU time is that of all workers together; wall-clock time is that of the first, and a busy machine shows in it. The ratio is the
median over rounds. One thread a worker. The weights that each number of workers ends with are compared too. Eight rows are
eight leaves of one row each, beside one micro-batch of all: the worst case, which short rows make worse.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from table import row, write

from train import model
from train.distributed import exact
from train.loop import LoopConfig, fit
from train.methods import pretrain

VOCABULARY = 16_384
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3, help="updates of a run, of which the first is not timed")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--micro-rows", type=int, default=8)
    parser.add_argument("--contexts", type=int, nargs="+", default=[1024, 128], help="the first has the target")
    args = parser.parse_args()
    rows, differ = [], 0
    for context in args.contexts:
        shas: set[str] = set()
        for world in (1, 2):
            rows += compared(args, context, world, shas)
        differ += len(shas) - 1
    rows.append(row("sizes at which the weights of 1 and 2 workers differ", "", differ, target=0, least=False))
    write("training-exact", rows, tuned_on="nothing")


def compared(args: argparse.Namespace, context: int, world: int, shas: set[str]) -> list[dict]:
    """The rows of one size and number of workers; the hashes of the weights that the exact runs ended with go into `shas`."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, (world, args, context, folder), nprocs=world)
        ranks = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("rank-*.json"))]
    shas |= {sha for rank in ranks for sha in rank["sha"]}
    cpu = [[sum(rank["cpu"][way][i] for rank in ranks) for i in range(args.rounds)] for way in (0, 1)]
    name = f"an update of {args.rows} rows of {context}, {world} worker{'s' * (world > 1)}"
    rows = []
    for unit, (plain, tree) in (("CPU time", cpu), ("wall-clock time", ranks[0]["wall"])):
        ratio = statistics.median(b / a for a, b in zip(plain, tree, strict=True))
        target = 1.15 if unit == "CPU time" and context == args.contexts[0] else None
        seconds = statistics.median(plain), statistics.median(tree)
        rows += [
            row(f"{unit} of {name}, exact / not", "ratio", ratio, target=target, least=False),
            row(f"{unit} of {name}, exact", "seconds", seconds[1], peer=("not exact", seconds[0]), least=False),
        ]
    waiting = 4 * exact.Sum(args.rows, args.micro_rows, 0, world).most_open
    return [*rows, row(f"{name}, sums that wait", "bytes a parameter", waiting, least=False)]


def worker(rank: int, world: int, args: argparse.Namespace, context: int, folder: str) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    found: dict = {"cpu": [[], []], "wall": [[], []], "sha": []}
    for i in range(args.rounds):
        for tree in (False, True) if i % 2 else (True, False):
            cpu, wall, net = run(args, context, folder, tree)
            found["cpu"][tree].append(cpu)
            found["wall"][tree].append(wall)
            if tree:
                weights = b"".join(p.detach().numpy().tobytes() for p in net.parameters())
                found["sha"].append(hashlib.sha256(weights).hexdigest())
    Path(f"{folder}/rank-{rank}.json").write_text(json.dumps(found))
    if world > 1:
        dist.destroy_process_group()


def run(args: argparse.Namespace, context: int, folder: str, tree: bool) -> tuple[float, float, torch.nn.Module]:
    """(CPU seconds, wall-clock seconds, both of an update on this rank; the trained model)"""
    net = model.build(SHAPE, seed=0)
    config = LoopConfig(
        steps=args.steps, rows_per_step=args.rows, micro_rows=args.micro_rows, lr=1e-3, log_every=args.steps, exact=tree
    )  # fmt: skip
    times: list[tuple[float, float]] = []

    def after_step(*_: object) -> None:
        times.append((time.process_time(), time.perf_counter()))

    fit(net, batch_fn(context), pretrain.loss, config, f"{folder}/out", after_step=after_step)
    cpu, wall = ((last - first) / (args.steps - 1) for first, last in zip(times[0], times[-1], strict=True))
    return cpu, wall, net


def batch_fn(context: int):
    def batch(numbers: list[int]) -> dict[str, torch.Tensor]:
        one = [torch.randint(VOCABULARY, (context + 1,), generator=torch.Generator().manual_seed(n)) for n in numbers]
        ids, places = torch.stack(one), torch.arange(context).expand(len(numbers), -1)
        return {
            "input_ids": ids[:, :-1],
            "labels": ids[:, 1:],
            "doc_ids": places // 300,
            "position_ids": places,
            "count": torch.tensor(ids[:, 1:].numel()),
        }

    return batch


if __name__ == "__main__":
    main()
