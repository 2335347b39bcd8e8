"""Ranks of a test are forks of one process that has imported what they need: to import PyTorch takes each of them seconds."""

import multiprocessing

import torch.multiprocessing as mp

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "pytest",
        "train.loop",
        *(f"train.methods.{name}" for name in ("distil", "dpo", "pretrain", "prune", "reward")),
        "transformers.models.qwen2.modeling_qwen2",
    ]
)


def run(function, arguments: tuple, count: int) -> None:
    """`function(rank, *arguments)` in so many processes. Raises with the trace of the first that fails."""
    mp.start_processes(function, arguments, count, start_method="forkserver")
