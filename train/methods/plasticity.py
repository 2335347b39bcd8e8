"""How much a base still learns from a language for the way that its weights go: the indicator of an over-trained base.

    (loss of the first update - loss of the last) / |weights after - weights before|₂

of some updates of plain training on the same rows; the loss of an update is that before it. A base that was trained for longer
gains less for the same way (Springer et al. 2025, "Overtrained Language Models Are Harder to Fine-Tune"). It compares bases of
one shape at one learning rate.
"""

from __future__ import annotations

from typing import TypedDict

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from train.batches.decoder import CausalLM
from train.batches.parts import BatchFn, LossFn
from train.distributed import data_parallel, weights
from train.loop import LoopConfig, fit


class Plasticity(TypedDict):
    """`loss_drop` in nats a token, `norm` of the change of all weights, and the first divided by the second."""

    updates: int
    loss_drop: float
    norm: float
    loss_drop_per_norm: float


def measure(
    model: CausalLM, batch_fn: BatchFn, loss_fn: LossFn, config: LoopConfig, out: str, *, device: torch.device
) -> Plasticity:
    """Train `model` in place for `config.steps` updates, which write no checkpoint, on the rows of the first update again and
    again. Call it on every rank; the model is of no further use."""
    before: list[torch.Tensor] = []
    losses: list[float] = []

    def again(rows: list[int]) -> dict[str, torch.Tensor]:
        return batch_fn([row % config.rows_per_step for row in rows])

    def keep(model: CausalLM, batch: dict[str, torch.Tensor]):
        if not before:  # the first forward pass: weights lie where they are trained
            before.extend(weights.own(p).detach().clone() for p in model.parameters())
        return loss_fn(model, batch)

    fit(model, again, keep, config, out, device=device, on_log=lambda record: losses.append(record["loss"]))
    squares = [
        (float((weights.own(p).detach() - old).double().square().sum()), isinstance(p, DTensor))
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
