"""Data parallelism: who takes part, and how gradients of the ranks become one.

Replicated parameters share one flat fp32 gradient buffer (`.grad` of each is a view of it), so that a step has one
all-reduce and one norm whatever the number of tensors. With FSDP2 parameters are DTensors, whose gradients are summed over
ranks as each layer's backward pass ends. Gradients stay sums: what they are divided by, the count and the factor of clipping,
is one number that the optimiser takes as it reads them. So beside the backward pass and the optimiser's own reading a buffer is
passed over three times in an update, 4 bytes a parameter each: set to zero, its norm, and written back by the optimiser.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate

from train.batches.decoder import Decoder, layers_of
from train.distributed import exact, vocabulary


def rank_world() -> tuple[int, int]:
    """(rank, world size); (0, 1) where torch.distributed is not initialised."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def data_rank_world(context_parallel: int) -> tuple[int, int]:
    """`rank_world` in terms of ranks that read different rows, where `context_parallel` neighbours share each row.

    Raises ValueError when it does not divide the number of ranks."""
    rank, world = rank_world()
    if world % context_parallel:
        raise ValueError(
            f"context_parallel {context_parallel} does not divide the number of workers, {world}; each row is shared by "
            f"{context_parallel} of them, so start a multiple of {context_parallel}, or set it to 1."
        )
    return rank // context_parallel, world // context_parallel


def sum_over_ranks(values: Iterable[float], device: torch.device) -> list[float]:
    """The sum of each value over all ranks, in fp64."""
    values = list(values)
    if dist.is_initialized():
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        values = total.tolist()
    return values


def native_precision(device: torch.device) -> str:
    """ "bf16" if the devices of all ranks multiply it in hardware (1.4 to 1.6 times as fast on an AVX-512 core), else "fp32"."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        cpu = torch.cpu.get_capabilities()
        native = cpu.get("avx512_bf16") or cpu.get("amx_bf16")
    return "fp32" if sum_over_ranks([not native], device)[0] else "bf16"


def choose_algorithms(deterministic: bool) -> None:
    """Whether this process takes only algorithms that give the same bits each time; a GPU is slower with them."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        # no code of ours reads such memory
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch makes it at run time
    torch.use_deterministic_algorithms(deterministic)


def shard(model: Decoder, precision: str, device: torch.device, within: int | None = None) -> None:
    """Shard the matrices of `model` over all ranks by FSDP2, in place: each layer's, and the embedding's.

    With `within`, groups of so many neighbouring ranks (a node, say) have the model whole between them (hybrid sharding): only
    within a group are weights gathered, and gradients are summed in it and then, shard by shard, over the groups.

    Vectors (gains of norms, biases) stay whole and in fp32 on every rank: they are a ten-thousandth of a model, and bf16 would
    round what they have learnt away. A model that lies elsewhere goes to `device` layer by layer, so that no device must hold
    it whole.

    The head is a sharded group of its own (an `lm_head` is never called: its weight goes into the chunked loss), or the
    embedding's parameter where the two are tied. Gradients are sums over ranks; `precision` "bf16" gathers matrices in bf16,
    for autocast to compute with (train/kernels/precision.py), and reduces in fp32.
    """
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if precision == "bf16":
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    mesh, body = _mesh(device, within), model.model
    heads = [child for child in model.children() if child is not body]
    tied = [head for head in heads if head.weight is body.embed_tokens.weight]
    vectors = {p for p in model.parameters() if p.ndim < 2}
    for p in vectors:
        if (
            not p.is_meta
        ):  # else they are made where they belong when the model is filled (train/distributed/weights.py)
            p.data = p.data.to(device)
    parts = [*layers_of(model), body, *(head for head in heads if head not in tied)]
    for part in parts:
        group = fully_shard(part, mesh=mesh, mp_policy=policy, ignored_params=vectors)
        group.set_force_sum_reduction_for_comms(True)
        group.set_gradient_divide_factor(1.0)
    for head in tied:
        head.weight = body.embed_tokens.weight
    for head in heads:
        if head is getattr(model, "lm_head", None):
            body.register_forward_pre_hook(functools.partial(_prefetch, head.weight))


def _mesh(device: torch.device, within: int | None) -> DeviceMesh:
    world = dist.get_world_size()
    if within is None or within == world:
        return init_device_mesh(device.type, (world,))
    if world % within:
        raise ValueError(
            f"shard_within {within} does not divide the number of workers, {world}; start a multiple of {within}, or leave it "
            "out to shard over all."
        )
    return init_device_mesh(device.type, (world // within, within), mesh_dim_names=("replicate", "shard"))


_GATHERING = "gathering"  # attribute of a sharded head


def _prefetch(weight_VD: DTensor, module: nn.Module, args: tuple) -> None:
    """Begin to gather the head as the forward pass of the body begins, to have it when that ends."""
    device = weight_VD.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
    with torch.no_grad():
        cast_VD = cast(DTensor, weight_VD.to(dtype))
        whole_VD = cast_VD.redistribute(placements=[Replicate()] * cast_VD.device_mesh.ndim, async_op=True)
    setattr(weight_VD, _GATHERING, whole_VD.to_local())


def gathered(weight_VD: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in `dtype`, whole, outside autograd: a shard is rounded before it is sent. Every rank calls it."""
    whole_VD = getattr(weight_VD, _GATHERING, None)
    if whole_VD is not None:
        delattr(weight_VD, _GATHERING)
        whole_VD = whole_VD.wait() if hasattr(whole_VD, "wait") else whole_VD
        if whole_VD.dtype == dtype:
            return whole_VD
    found = weight_VD.detach().to(dtype)
    return found.full_tensor() if isinstance(found, DTensor) else found


def scattered(gradient_VD: Tensor, weight_VD: Tensor) -> Tensor:
    """The sum over ranks of each rank's whole `gradient_VD`, in the placement of `weight_VD`, which may be sharded or not."""
    if not isinstance(weight_VD, DTensor):
        return gradient_VD
    mesh, placed = weight_VD.device_mesh, weight_VD.placements
    partial = DTensor.from_local(gradient_VD, mesh, [Partial()] * mesh.ndim, run_check=False)
    # within a group first, which leaves a shard to be summed over the groups
    of_group = partial.redistribute(placements=[*[Partial()] * (mesh.ndim - 1), placed[-1]])
    return of_group.redistribute(placements=placed)


ROW = 1 << 16
"""Numbers of the gradient buffer whose norm is taken in one fp32 sum."""


def sum_over_groups(model: nn.Module, wanted: bool) -> None:
    """Whether the backward passes to come sum over the groups of `shard`'s `within`; only the last of an update has to."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_requires_all_reduce(wanted, recurse=False)


class Gradients:
    """The gradients of a model's parameters and of extra ones, which are outside the norm and never clipped.

    An update calls `zero`, backward passes, `reduce`, `norm` and `divisor`, and hands the last to `train.kernels.adamw.step`.
    With a `tree` they are summed in its order, and `added` is called after every micro-batch."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], extra: Iterable[nn.Parameter] = (), tree: exact.Sum | None = None
    ) -> None:
        self._tree = tree
        parameters, extra = [p for p in parameters if p.requires_grad], list(extra)
        self.sharded = [p for p in parameters if isinstance(p, DTensor)]
        replicated = [p for p in parameters if not isinstance(p, DTensor)]
        n, n_extra = sum(p.numel() for p in replicated), sum(p.numel() for p in extra)
        device = (parameters or extra)[0].device
        self._flat = torch.zeros(n + n_extra + 1, dtype=torch.float32, device=device)
        self._model, self._extra, self.loss = self._flat[:n], self._flat[n:-1], self._flat[-1]
        self._count = 1.0
        start = 0
        for p in [*replicated, *extra]:
            p.grad = self._flat[start : start + p.numel()].view_as(p)
            vocabulary.mark(p)
            start += p.numel()

    def zero(self) -> None:
        self._flat.zero_()
        for p in self.sharded:
            p.grad = None

    def added(self, micro_batch: int) -> None:
        """The gradients and the loss of this rank's `micro_batch`-th are in the buffer."""
        if self._tree:
            self._tree.added(micro_batch, self._flat)

    def reduce(self, count: float) -> None:
        """Sum over ranks (the sharded gradients already are). Of these sums `loss`, which the caller added up, is divided by
        `count` here, and the gradients as the optimiser reads them (`divisor`)."""
        if self._tree:
            self._tree.total(self._flat)
        elif dist.is_initialized():
            dist.all_reduce(self._flat)
        self.loss.mul_(1 / count)
        self._count = count

    def norm(self) -> float:
        """L2 norm of the model's gradients, divided by the count, equal on every rank; not finite if any gradient or the loss
        is not."""
        # rows: one fp32 sum over millions of squares would lose digits, and an fp64 one would copy the buffer
        whole = self._model[: len(self._model) // ROW * ROW].view(-1, ROW)
        rest = self._model[len(whole) * ROW :]
        pieces = [torch.linalg.vector_norm(whole, dim=1), torch.linalg.vector_norm(rest).view(1)]
        squares = torch.cat(pieces).double().square().sum()
        if self.sharded:
            local = torch._foreach_norm(self._sharded_gradients())
            squares_sharded = (torch.stack(local).double() ** 2).sum()
            mesh = self.sharded[0].device_mesh
            dist.all_reduce(squares_sharded, group=mesh.get_group(mesh.ndim - 1))  # groups of ranks have copies
            squares = squares + squares_sharded
        # 0 * inf and 0 * nan are nan: what is outside the norm must be finite too
        return float(squares.sqrt() / self._count + 0 * (self.loss + self._extra.sum()))

    def divisor(self, factor: float = 1.0) -> float:
        """What the optimiser has to divide all gradients by, so that they are means, and the model's means times `factor`."""
        if factor != 1 and self._extra.numel():
            self._extra.mul_(1 / factor)  # the factor is not for them
        return self._count / factor

    def _sharded_gradients(self) -> list[Tensor]:
        """What this rank has of each."""
        return [p.grad.to_local() for p in self.sharded if isinstance(p.grad, DTensor)]
