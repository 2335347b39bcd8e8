"""What the training loop, the batch functions and the loss functions hand one another."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)
Model_contra = TypeVar("Model_contra", bound=nn.Module, contravariant=True)

Batch = dict[str, Tensor]

BatchFn = Callable[[list[int]], Batch]
"""Row numbers (global, 0 .. steps * rows_per_step - 1) to one micro-batch on CPU; pure, as resuming calls it again.

`batch["count"]` is a 0-d tensor with what the loss is divided by (valid tokens, or pairs); the loop adds `batch["step"]`,
the 0-d number of the update, which stays on the CPU, and counts `batch["input_ids"].numel()` as tokens where there is such a
key."""


class RowLosses(NamedTuple):
    """Of each row [B]: the index of its pool, the sum of its losses, and how many there are."""

    pool: Tensor
    loss: Tensor
    count: Tensor  # type: ignore[assignment]  # nobody calls tuple.count


class LossParts(NamedTuple):
    """What a loss function returns: the sum of losses, what it is divided by, sums of metrics (divided by it too), and,
    where the batch says which pool its rows are of, their losses.

    A term that must not depend on the count (a regulariser) is added to `loss_sum` times the micro-batch's own count.
    """

    loss_sum: Tensor
    count: int | Tensor  # type: ignore[assignment]  # nobody calls tuple.count
    metrics: dict[str, Tensor]
    rows: RowLosses | None = None


LossFn = Callable[[Model, Batch], LossParts]


def micro_batches(step: int, rows_per_step: int, micro_rows: int, rank: int, world: int) -> list[list[int]]:
    """The row numbers of each micro-batch that `rank` of `world` makes in update `step` (from 0).

    Ranks are counted as in `data_parallel.data_rank_world`."""
    rows = range(step * rows_per_step + rank, (step + 1) * rows_per_step, world)
    return [list(rows[i : i + micro_rows]) for i in range(0, len(rows), micro_rows)]


_HOST = "on_host"  # attribute of a tensor that was moved


def on_device(batch: Batch, device: torch.device) -> Batch:
    """`batch` on `device`, without waiting for what a GPU still has to do. `on_host` finds what a copy was made from."""
    found = {name: sent(value, device) for name, value in batch.items()}
    for name, value in found.items():
        if value is not batch[name]:
            setattr(value, _HOST, batch[name])
    return found


def on_host(tensor: Tensor) -> Tensor | None:
    """`tensor` on the CPU, where that needs no waiting: it is there, or `on_device` moved it; else None.

    For what decides shapes or loops: a look at a value on a GPU waits for all that is queued there."""
    return tensor if tensor.device.type == "cpu" else getattr(tensor, _HOST, None)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`, without waiting: a GPU copies so from page-locked memory only."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
