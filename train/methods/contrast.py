"""Which parts of a decoder other languages need more than the ones that it knows: those that pre-training then changes alone.

Before training, with g_r,u the gradient of the mean loss of row r in the weights of unit u (train/kernels/chosen.py),

    G_u = mean over the rows r of a group of languages of |g_r,u|²        as many rows of each language
    score_u = G_u(target) / (G_u(replay) + eps)

with eps a hundredth of the mean of G(replay) in the layer. Scores are divided by their mean in the layer, and of each kind of
unit the `share` with the highest ones, over all layers, is chosen (ties: the earlier layer, the earlier unit).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypedDict, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from train.batches.decoder import CausalLM, layers_of
from train.batches.parts import Batch, LossFn, on_device
from train.distributed import data_parallel, exact
from train.kernels.chosen import KINDS, PLACES, Choice, Place, counts, number

EPS = 1e-2  # of the mean replay gradient of a layer

Vectors = list[dict[str, Tensor]]
"""Of each layer, of each kind: a number for each unit."""


def scores(target: Vectors, replay: Vectors) -> Vectors:
    """The normalised scores of all units from the mean squared gradients of both groups of languages."""
    found: Vectors = []
    for above, below in zip(target, replay, strict=True):
        found.append({})
        for kind in KINDS:
            up, down = above[kind].double(), below[kind].double()
            ratio = up / (down + EPS * down.mean() + torch.finfo(torch.float64).tiny)
            found[-1][kind] = ratio / (ratio.mean() or 1.0)
    return found


def choose(target: Vectors, replay: Vectors, share: float) -> Choice:
    """The `share` (at least one unit) of each kind whose score is highest."""
    of = scores(target, replay)
    chosen: Choice = [{kind: [] for kind in KINDS} for _ in of]
    for kind in KINDS:
        flat = [(-float(score), layer, unit) for layer, one in enumerate(of) for unit, score in enumerate(one[kind])]
        for _, layer, unit in sorted(flat)[: number(len(flat), share)]:
            chosen[layer][kind].append(unit)
    return [{kind: sorted(units) for kind, units in one.items()} for one in chosen]


class Ratio(TypedDict):
    """Of the units of one kind in one layer: how many are chosen, and G(target) / G(replay) of all and of the chosen ones. None
    where there are none, or replay has no gradient."""

    units: int
    chosen: int
    ratio: float | None
    ratio_of_chosen: float | None


def ratios(target: Vectors, replay: Vectors, choice: Choice) -> list[dict[str, Ratio]]:
    """What was chosen of each layer, of each kind, and what the gradients there are."""
    found: list[dict[str, Ratio]] = []
    for above, below, chosen in zip(target, replay, choice, strict=True):
        found.append({})
        for kind in KINDS:
            up, down, units = above[kind].double(), below[kind].double(), chosen[kind]
            found[-1][kind] = {
                "units": len(up),
                "chosen": len(units),
                "ratio": _divided(up.sum(), down.sum()),
                "ratio_of_chosen": _divided(up[units].sum(), down[units].sum()),
            }
    return found


def _divided(up: Tensor, down: Tensor) -> float | None:
    return float(up / down) if down > 0 else None


class Measured(NamedTuple):
    """Mean squared gradients of all units on rows of the target languages and of the replay ones; in `never`, of each layer, the
    units of the feed-forward whose gate was never open (above 0) on the target rows."""

    target: Vectors
    replay: Vectors
    never: list[int]


class _Probe(nn.Linear):
    """A linear layer that adds up the squares of its weight's gradient along one axis, and keeps no gradient."""

    axis: int
    squares: Tensor
    opened: Tensor | None
    spark: Tensor

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if self.opened is not None:
            self.opened |= (y.detach() > 0).flatten(0, -2).any(0)
        return _Squares.apply(y, x, self.spark, self)


class _Squares(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor, x: Tensor, spark: Tensor, module: _Probe) -> Tensor:
        ctx.save_for_backward(x)
        ctx.module = module
        return y.view_as(y)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        (x,), module = ctx.saved_tensors, ctx.module
        grad_OI = grad.flatten(0, -2).float().t() @ x.flatten(0, -2).float()
        module.squares += grad_OI.square().sum(1 - module.axis)
        return grad, None, None, None


def measure(
    model: CausalLM,
    loss_fn: LossFn,
    target: Iterable[Callable[[], Batch]],
    replay: Iterable[Callable[[], Batch]],
    autocast: torch.autocast,
) -> Measured:
    """Measure a model that lies where it computes, sharded or not, on batches of one row each; it cannot be trained afterwards.

    `target` and `replay`: what makes the batches of the languages, each language as many. Call it on every rank with the same
    ones: each rank computes a part of them, and their numbers are added in the order of the rows, with one thread on a CPU. So
    the bits of the result do not depend on the number of ranks."""
    model.requires_grad_(False)
    model.eval()
    for layer in layers_of(model):  # activations may be computed again, but nothing in it drops any
        cast(nn.Module, layer).training = True
    device = model.model.embed_tokens.weight.device
    probes = _probed(model, device)
    groups = [list(target), list(replay)]
    rank, world = data_parallel.rank_world()
    sums: list[list[Tensor]] = []
    never: list[int] = []
    with exact.threads(1 if device.type == "cpu" else None):
        for rows in groups:
            total = [torch.zeros_like(probe.squares, dtype=torch.float64) for _, probe in probes]
            for first in range(0, len(rows), world):
                # a rank without a row computes one again, as a sharded model needs all ranks
                batch = on_device(rows[min(first + rank, len(rows) - 1)](), device)
                for _, probe in probes:
                    probe.squares.zero_()
                with autocast:
                    parts = loss_fn(model, batch | {"step": torch.zeros((), dtype=torch.int64)})
                (parts.loss_sum / max(1.0, float(parts.count))).backward()
                for one in _of_ranks([probe.squares for _, probe in probes])[: len(rows) - first]:
                    for whole, value in zip(total, one, strict=True):
                        whole += value
            sums.append([whole / len(rows) for whole in total])
            if rows is groups[0]:
                never = [int((~_on_any(probe.opened)).sum()) for _, probe in probes if probe.opened is not None]
    on_target, on_replay = (_per_unit(model, probes, of) for of in sums)
    return Measured(on_target, on_replay, never)


def _on_any(opened: Tensor) -> Tensor:
    """Which are open on any rank."""
    found = opened.to(torch.int32)
    if dist.is_initialized():
        dist.all_reduce(found)
    return found > 0


def _probed(model: CausalLM, device: torch.device) -> list[tuple[tuple[int, Place], _Probe]]:
    probes = []
    for at, layer in enumerate(layers_of(model)):
        counts(layer)
        for place in PLACES:
            module = getattr(getattr(layer, place.branch), place.projection)
            module.__class__ = _Probe
            module.axis = place.axis
            module.squares = torch.zeros(module.weight.shape[place.axis], device=device)
            # gradients flow also where nothing before a layer learns
            module.spark = torch.zeros((), device=device, requires_grad=True)
            gate = place.projection == "gate_proj"
            module.opened = torch.zeros(module.out_features, dtype=torch.bool, device=device) if gate else None
            probes.append(((at, place), cast(_Probe, module)))
    return probes


def _of_ranks(mine: list[Tensor]) -> list[list[Tensor]]:
    """The vectors of each rank, in the order of ranks."""
    if not dist.is_initialized():
        return [[one.double() for one in mine]]
    flat = torch.cat(mine)
    every = [torch.empty_like(flat) for _ in range(dist.get_world_size())]
    dist.all_gather(every, flat)
    return [[part.double() for part in one.split([len(vector) for vector in mine])] for one in every]


def _per_unit(model: CausalLM, probes: list[tuple[tuple[int, Place], _Probe]], sums: list[Tensor]) -> Vectors:
    """Sums over the slices of each unit, on the CPU."""
    layers = layers_of(model)
    found: Vectors = [
        {kind: torch.zeros(n, dtype=torch.float64) for kind, n in counts(layer).items()} for layer in layers
    ]
    for ((layer, place), _), value in zip(probes, sums, strict=True):
        of = found[layer][place.kind]
        of += value.cpu().view(len(of), -1).sum(1)
    return found
