"""Context parallelism: n ranks share the positions of each row, for rows whose activations one device cannot hold.

A row of T positions is cut into chunks of C = 128, and part i of the n has chunks i and 2 n - 1 - i of every 2 n: a causal mask
makes late positions dear and early ones cheap, so each part has as many of both. Many small chunks and not 2 n large ones
(the head-tail split of others), because the work of a row of documents lies where the long ones are. Everything but attention
acts on a position alone. For attention every rank gathers the keys and values of the whole row, and its own queries attend to
them under the mask of the whole row (Llama 3, arXiv 2407.21783, section 3.3.2). So any mask over (query, key) works, documents
may cross the cuts, and a query's softmax is made in one piece, as without the split. The backward pass sums the gradients of
keys and values over the n ranks, in fp32, and leaves each rank its own.

With K the width of a layer's keys (or values), of `number` bytes each, a rank receives in a layer and of a row

    forward     2 K T number (n - 1) / n          again when activation checkpointing repeats the layer
    backward    2 K T 4 (n - 1) / n

Ranks d n .. d n + n - 1 share the rows of data rank d, so parts of a row are neighbours, which are usually on one node.

Axes: B row, T position of a row, S = T / n position of a part, K key/value heads, N head width, C position of a chunk,
M = T / (2 n C).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from train.batches.labels import IGNORE
from train.distributed import data_parallel

CHUNK = 128
"""flex_attention skips blocks of so many queries; rows that 2 n chunks do not divide are cut into 2 n equal ones."""

_PART = "context_part"  # attribute of a model's body

CUT = ("input_ids", "labels", "position_ids")
"""What a batch has a value of for each position. `doc_ids` stay whole: the mask is of the row."""

# torch 2.11 has only the second name of each, which 2.13 still has and warns of
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass(frozen=True)
class Part:
    """What this rank has of each row: part `index` of `n`. `group` is the n ranks that have the others."""

    index: int
    n: int
    group: dist.ProcessGroup | None = None

    def positions(self, length: int, device: torch.device | str = "cpu") -> Tensor:
        """The positions [S] in a row of `length`. Raises ValueError for a length that 2 n does not divide."""
        if length % (2 * self.n):
            raise ValueError(
                f"context_parallel {self.n} cuts rows into {2 * self.n} equal chunks, but one has {length} positions; "
                f"make it a multiple of {2 * self.n}."
            )
        chunks = torch.arange(length, device=device).view(-1, 2 * self.n, self._chunk(length))
        return torch.stack([chunks[:, self.index], chunks[:, 2 * self.n - 1 - self.index]], 1).flatten()

    def _chunk(self, length: int) -> int:
        return CHUNK if length % (2 * self.n * CHUNK) == 0 else length // (2 * self.n)

    def of(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """This part of the rows of `batch`, and its own `count`.

        Raises ValueError for a batch that is not of packed rows, or whose loss is not a sum over its labels."""
        missing = [name for name in (*CUT, "doc_ids") if name not in batch]
        if missing:
            raise ValueError(f"context_parallel needs packed rows, but the batch has no {missing[0]}.")
        if "count" in batch and int(batch["count"]) != int((batch["labels"] != IGNORE).sum()):
            raise ValueError(
                "context_parallel needs a loss that is a sum over labels, and this one counts other things."
            )
        here_S = self.positions(batch["input_ids"].shape[1])
        cut = {name: batch[name][:, here_S] for name in CUT}
        return batch | cut | {"count": (cut["labels"] != IGNORE).sum()}

    def whole(self, x_BS: Tensor, length: int) -> Tensor:
        """`x_BS` at its places in rows of `length`, and 0 where the other parts are: the sum over the ranks is the row."""
        here_S = self.positions(length, x_BS.device)
        return x_BS.new_zeros(len(x_BS), length).index_copy(1, here_S, x_BS)

    def gather(self, key_BKSN: Tensor, value_BKSN: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, K, T, N] of the whole rows, in the order of positions. Differentiable; every rank calls it."""
        device = key_BKSN.device.type  # keys leave rotation in fp32 under autocast, but attention will not take them so
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value_BKSN.dtype
        both = torch.stack([key_BKSN.to(dtype), value_BKSN.to(dtype)])
        return _Gather.apply(both, self.n, self._chunk(self.n * both.shape[-2]), self.group).unbind()


@contextmanager
def shared(model: nn.Module, n: int, device: torch.device) -> Iterator[Part | None]:
    """Let `model`, a causal LM with our attention, run on parts of rows while the context lasts; `n` = 1 changes nothing.

    Call it on every rank. Raises ValueError where `n` does not divide the number of ranks."""
    if n == 1:
        yield None
        return
    _, world = data_parallel.data_rank_world(n)
    mesh = dist.device_mesh.init_device_mesh(device.type, (world, n), mesh_dim_names=("data", "context"))["context"]
    part, body = Part(mesh.get_local_rank(), n, mesh.get_group()), model.get_submodule("model")
    setattr(body, _PART, part)
    try:
        yield part
    finally:
        delattr(body, _PART)


def of(model: nn.Module) -> Part | None:
    """The part of each row that `model` runs on here; None for whole rows."""
    return of_body(model.get_submodule("model"))


def of_body(body: nn.Module) -> Part | None:
    """As `of`, for a model's body."""
    return getattr(body, _PART, None)


class _Gather(torch.autograd.Function):
    """[2, B, K, S, N] of each part to [2, B, K, T, N]."""

    @staticmethod
    def forward(ctx, both: Tensor, n: int, chunk: int, group: dist.ProcessGroup) -> Tensor:
        ctx.n, ctx.chunk, ctx.group, ctx.dtype = n, chunk, group, both.dtype
        parts = both.new_empty(n, *both.shape)
        _all_gather(parts.flatten(0, 1), both.contiguous(), group=group)
        parts = parts.unflatten(-2, (-1, 2, chunk))  # n, 2, B, K, M, 2, C, N: of each 2 n chunks two
        chunks = both.new_empty(*parts.shape[1:5], 2 * n, chunk, both.shape[-1])
        for i in range(n):
            chunks[..., i, :, :] = parts[i, ..., 0, :, :]
            chunks[..., 2 * n - 1 - i, :, :] = parts[i, ..., 1, :, :]
        return chunks.flatten(-4, -2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        n = ctx.n
        chunks = grad.unflatten(-2, (-1, 2 * n, ctx.chunk))
        each = [torch.stack([chunks[..., i, :, :], chunks[..., 2 * n - 1 - i, :, :]], -3) for i in range(n)]
        parts = torch.stack(each).flatten(-4, -2).float()
        own = parts.new_empty(parts.shape[1:])
        _reduce_scatter(own, parts.flatten(0, 1), group=ctx.group)
        return own.to(ctx.dtype), None, None, None
