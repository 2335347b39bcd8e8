"""How much a base still learns from a language for the way that its weights go: the indicator of an over-trained base.

    (loss of the first update - loss of the last) / |weights after - weights before|₂

of some updates of plain training on the same rows; the loss of an update is that before it. A base that was trained for longer
gains less for the same way (Springer et al. 2025, "Overtrained Language Models Are Harder to Fine-Tune"). It compares bases of
one shape at one learning rate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypedDict

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from train.batches.decoder import CausalLM
from train.batches.parts import Batch, LossFn
from train.distributed import data_parallel, weights
from train.loop import LoopConfig, fit


class Plasticity(TypedDict):
    """`loss_drop` in nats a token, `norm` of the change of all weights, and the first divided by the second."""

    updates: int
    loss_drop: float
    norm: float
    loss_drop_per_norm: float


def measure(
    model: CausalLM,
    rows: Sequence[Callable[[], Batch]],
    loss_fn: LossFn,
    config: LoopConfig,
    out: str,
    *,
    device: torch.device,
) -> Plasticity:
    """Train `model` in place for `config.steps` updates, each on all of `rows` (what makes batches of one row each); it writes
    no checkpoint. Call it on every rank; the model is of no further use. The number of ranks changes no more than the order of
    sums: rows without a label make the rest of an update that all have to share."""
    world = data_parallel.rank_world()[1]
    shared = len(rows) if config.exact else -(-len(rows) // world) * world
    config = dataclasses.replace(config, rows_per_step=shared, micro_rows=1)
    before: list[torch.Tensor] = []
    losses: list[float] = []

    def again(numbers: list[int]) -> Batch:
        row = numbers[0] % shared
        return rows[row]() if row < len(rows) else _unread(rows[0]())

    def keep(model: CausalLM, batch: dict[str, torch.Tensor]):
        if not before:  # the first forward pass: weights lie where they are trained
            before.extend(weights.own(p).detach().cpu().clone() for p in model.parameters())
        return loss_fn(model, batch)

    fit(model, again, keep, config, out, device=device, on_log=lambda record: losses.append(record["loss"]))
    squares = [
        (float((weights.own(p).detach().cpu() - old).double().square().sum()), isinstance(p, DTensor))
        for p, old in zip(model.parameters(), before, strict=True)
    ]
    norm = sum(value for value, sharded in squares if not sharded)
    shards = [p for p in model.parameters() if isinstance(p, DTensor)]
    if shards:  # groups of ranks have copies
        mine = torch.tensor(sum(value for value, sharded in squares if sharded), dtype=torch.float64, device=device)
        mesh = shards[0].device_mesh
        dist.all_reduce(mine, group=mesh.get_group(mesh.ndim - 1))
        norm += float(mine)
    # rank 0 alone has the records
    first, last = data_parallel.sum_over_ranks([losses[0], losses[-1]] if losses else [0.0, 0.0], device)
    drop, norm = first - last, norm**0.5
    return {
        "updates": config.steps,
        "loss_drop": drop,
        "norm": norm,
        "loss_drop_per_norm": drop / norm if norm else 0.0,
    }


def _unread(batch: Batch) -> Batch:
    """The batch without a label."""
    return {**batch, "labels": torch.full_like(batch["labels"], -100), "count": torch.tensor(0)}
