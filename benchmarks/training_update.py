"""Updates of train.pretrain.update beside those of plain training: CPU time of a step, and bytes of what is kept to learn.

    git worktree add ../before COMMIT
    python benchmarks/training_update.py [--before ../before] [--rounds 7] [--updates 4]

A Qwen2 of the proportions of an 8B (feed-forward 5 x as wide, rank a sixteenth of the width, 4 queries to a key) with little
vocabulary, one thread. Each rule, and the plain loop of another checkout, is a process of its own; they take turns, and a ratio
is the median of those of the rounds, of the CPU time of the process: a busy machine does not matter much.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
SHAPE = {
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 1280,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
ROWS, CONTEXT, RANK, SHARE = 4, 256, 16, 0.15
RULES = ("all", "lora", "lora without vocabulary", "contrast")


def serve(rule: str, updates: int) -> None:
    """Answer each line of the input with the CPU seconds of so many updates; the first answer is of the bytes."""
    import torch

    from train import model
    from train.loop import LoopConfig, fit
    from train.methods import pretrain

    torch.set_num_threads(1)
    net, after = model.build(SHAPE, seed=0), None
    if rule.startswith("lora"):
        from train.kernels import low_rank

        low_rank.attach(net, RANK, vocabulary=rule == "lora")
    elif rule == "contrast":
        from train.kernels import chosen

        chosen.attach(net, chosen.even(net, SHARE))
        after = lambda step, net: chosen.write_back(net)  # noqa: E731

    def batch_fn(rows: list[int]) -> dict:
        ids = torch.stack(
            [
                torch.randint(0, SHAPE["vocab_size"], (CONTEXT + 1,), generator=torch.Generator().manual_seed(r))
                for r in rows
            ]
        )
        places = torch.arange(CONTEXT).expand(len(rows), -1)
        found = {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "doc_ids": places // 100, "position_ids": places}
        return found | {"count": torch.tensor(ids[:, 1:].numel())}

    learns = sum(p.numel() for p in net.parameters() if p.requires_grad)
    print(learns, flush=True)
    config = LoopConfig(steps=updates + 1, rows_per_step=ROWS, micro_rows=ROWS, lr=1e-4, log_every=1)
    times: list[float] = []
    note = lambda _: times.append(time.process_time())  # noqa: E731
    for _ in sys.stdin:
        times.clear()
        with tempfile.TemporaryDirectory() as folder:
            fit(net, batch_fn, pretrain.loss, config, folder, on_log=note, after_step=after)
        print(times[-1] - times[0], flush=True)  # the first update makes moments


def start(rule: str, updates: int, root: Path) -> tuple[subprocess.Popen, int]:
    command = [sys.executable, str(HERE / Path(__file__).name), "--one", rule, "--updates", str(updates)]
    environment = {**os.environ, "PYTHONPATH": str(root.resolve())}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root, env=environment
    )
    return process, int(process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="another checkout, whose plain loop takes turns too")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=4, help="timed at a time, after one that is not")
    parser.add_argument("--one", choices=RULES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        serve(args.one, args.updates)
        return
    from table import row, write

    running = {rule: start(rule, args.updates, HERE.parent) for rule in RULES}
    if args.before:
        running["before"] = start("all", args.updates, args.before)
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for number in range(args.rounds):
        order = list(running) if number % 2 else [*running][::-1]
        for name in order:
            process, _ = running[name]
            process.stdin.write("\n")
            process.stdin.flush()
            seconds[name].append(float(process.stdout.readline()) / args.updates)
    for process, _ in running.values():
        process.stdin.close()
        process.wait()

    rows = []
    each = {name: statistics.median(found) for name, found in seconds.items()}
    learns = {name: number for name, (_, number) in running.items()}
    base = each["all"]

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))

    for rule in RULES[1:]:
        name = f"{rule}, rank {RANK}" if rule.startswith("lora") else f"{rule}, share {SHARE}"
        rows.append(
            row(f"an update, {name}", "ms of CPU time", 1e3 * each[rule], peer=("all", 1e3 * base), least=False)
        )
        rows.append(row(f"paired ratio, {name}", "of all", ratio(rule, "all"), target=1.0, least=False))
        # a gradient and two moments of 4 bytes each
        sizes = [12 * learns[one] / 1e6 for one in (rule, "all")]
        rows.append(row(f"gradients and moments, {name}", "MB", sizes[0], peer=("all", sizes[1]), least=False))
    if args.before:
        rows.append(
            row("plain loop, paired ratio", "of the loop before", ratio("all", "before"), target=1.02, least=False)
        )
    write("training-update", rows, tuned_on="nothing")


if __name__ == "__main__":
    main()
