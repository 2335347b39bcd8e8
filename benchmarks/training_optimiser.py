"""Adam's moments in 8 bits beside torch's fused AdamW: time of an update, memory, checkpoint, and the loss that a run ends with.

    python benchmarks/training_optimiser.py [--rows 4000] [--columns 1024] [--updates 5]

One thread. Time is CPU time of the process, so a busy machine does not matter much. The runs are those of
tests/equality/test_optim_equality.py: a tiny model on a language of 61 tokens, where other texts are the yardstick.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from table import row, write
from torch import nn

from train.checkpoint import checkpoint
from train.kernels import adamw as optim

sys.path.append(str(Path(__file__).parents[1] / "tests" / "equality"))
import test_optim_equality as tiny


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--columns", type=int, default=1024)
    parser.add_argument("--updates", type=int, default=5, help="timed, after one that is not")
    args = parser.parse_args()
    torch.set_num_threads(1)
    peer = f"torch AdamW, torch {torch.__version__}"
    measured = {states: measure(states, args) for states in optim.STATES}
    case = f"matrix of {args.rows} x {args.columns}"
    units = {
        "an update": "ns of CPU time a parameter",
        "moments": "bytes a parameter",
        "checkpoint": "bytes a parameter",
    }
    limits = {"moments": 2.1, "checkpoint": 6.1}
    rows = [
        row(f"{what}, {case}", unit, measured["8bit"][what], peer=(peer, measured["fp32"][what]), least=False,
            target=limits.get(what))
        for what, unit in units.items()
    ]  # fmt: skip
    for beta2 in (0.95, 0.999):
        (exact, loss), (rounded, loss_8bit), (chance, _) = (
            tiny.train(states, beta2, seed) for states, seed in (("fp32", 0), ("8bit", 0), ("fp32", 1))
        )
        rows.append(row(f"loss at the end, beta2 {beta2}", "nats", loss_8bit, peer=(peer, loss)))
        apart = float((rounded - exact).norm() / (chance - exact).norm())
        rows.append(row(f"weights apart, other texts = 1, beta2 {beta2}", "", apart, target=0.1, least=False))
    write("training-optimiser", rows, tuned_on="nothing")


def measure(states: str, args: argparse.Namespace) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    p = nn.Parameter(torch.randn(args.rows, args.columns, generator=generator))
    optimizer = optim.adamw([("p", p)], lr=1e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, states=states)
    p.grad = torch.randn(args.rows, args.columns, generator=generator)
    optimizer.step()
    began = time.process_time()
    for _ in range(args.updates):
        optimizer.step()
    seconds = (time.process_time() - began) / args.updates
    state = optim.state_tensors(optimizer, {"p": p})
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(folder, 1, state)
        written = sum(os.path.getsize(path) for path in Path(folder).rglob("*.safetensors"))
    return {
        "an update": 1e9 * seconds / p.numel(),
        "moments": sum(tensor.nbytes for name, tensor in state.items() if name != "p") / p.numel(),
        "checkpoint": written / p.numel(),
    }


if __name__ == "__main__":
    main()
