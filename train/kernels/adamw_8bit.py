"""AdamW whose two moments take 8 bits each: 2.05 bytes a parameter in place of 8.

Matrices are cut into blocks of at most 256 columns of one row, so a block never crosses the rows between which FSDP2 shards and
a state means the same for any number of ranks. With m and v Adam's moments (arXiv 1412.6980), a block keeps

    sqrt(v) = s 2^(-(255 - c) r)        c in 0..255; s the block's largest, 2^(-255 r) s its smallest, but at least 2^-16 s
    m       = a u / 127 * sqrt(v)       u in -127..127; a the block's largest |m| / sqrt(v)

with s, r and a in fp32. The first is logarithmic: each value is right to 4.4 % or better, and what is smaller than 2^-16 of the
largest counts as that, which can only make an update smaller. The second is in units of the update, m / sqrt(v), which Adam's
betas bound: an outlier of the gradient costs its block nothing, where a code of m itself (arXiv 2110.02861, torchao) must spend
its levels on it, and where v is rounded to 0 its update explodes.

Both are running means, and one step may change them by less than a level; rounded to the nearest they would never fall. So
rounding is stochastic with E[v] and E[m] exact, by a hash of (update, row, column): no state of its own, the same for any number
of ranks. An update uses the moments before they are rounded. Vectors (norms, biases) and extra groups keep fp32 moments.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from train.kernels import layers

WIDTH = 256
"""Most columns of a block."""

BYTES = 2 + 12 / WIDTH
"""Of a parameter in blocks that are full."""

NAMES = ("exp_avg_8bit", "exp_avg_8bit_scale", "exp_avg_sq_8bit", "exp_avg_sq_8bit_scale", "exp_avg_sq_8bit_step")

_RANGE = 16  # octaves of sqrt(v) in a block, at most
_FINEST = 2**-12  # octaves between two levels, at least: what fp32 can still tell apart
_CHUNK = {"cpu": 1 << 16, "cuda": 1 << 24}  # elements at a time, uncompiled: what lies between stays in the cache


class AdamW8bit:
    """`torch.optim.AdamW` for `groups`, with 8-bit moments for the parameters of the first `quantised` groups.

    `state[p]` has "step" and, of those, "exp_avg_8bit" (int8) and "exp_avg_sq_8bit" (uint8) in the shape of p,
    "exp_avg_8bit_scale" (a), "exp_avg_sq_8bit_scale" (s) and "exp_avg_sq_8bit_step" (r), fp32 [rows, blocks], sharded by rows
    as p is.
    """

    def __init__(
        self, groups: list[dict], *, quantised: int, lr: float, betas: tuple[float, float], eps: float
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "maximize": False}
        exact = groups[quantised:]
        self._exact = torch.optim.AdamW(exact, lr, betas, eps, weight_decay=0.0, fused=True) if exact else None
        self._groups = [defaults | group for group in groups[:quantised]]
        self.param_groups = [*self._groups, *(self._exact.param_groups if self._exact else [])]
        self.state = self._exact.state if self._exact else {}
        for group in self._groups:
            for p in group["params"]:
                self.state[p] = {"step": torch.zeros((), dtype=torch.float32), **zeros(p)}

    @torch.no_grad()
    def step(self, divisor: float = 1.0) -> None:
        """One update of all parameters that have a gradient, by their gradients divided by `divisor`."""
        if self._exact:
            divided(self._exact, divisor)
        for group in self._groups:
            for p in group["params"]:
                if p.grad is not None:
                    update(p, self.state[p], group, divisor)


def divided(optimizer: torch.optim.AdamW, divisor: float) -> None:
    """A step of fused AdamW by gradients divided by `divisor`. The kernel does it, as for torch's GradScaler, and leaves the
    quotients in the gradients."""
    device = optimizer.param_groups[0]["params"][0].device
    optimizer.grad_scale = torch.full((), divisor, device=device)  # type: ignore[attr-defined]  # torch looks for it
    optimizer.step()


def zeros(p: Tensor) -> dict[str, Tensor]:
    """The quantised moments of a parameter [R, ...] before the first update."""
    if isinstance(p, DTensor) and any(isinstance(place, Shard) and place.dim for place in p.placements):
        raise ValueError("8-bit optimiser states need parameters that are sharded by rows.")
    blocks = (p.shape[0], math.ceil(p[0].numel() / WIDTH))
    return {
        "exp_avg_8bit": _like(p, p.shape, torch.int8),
        "exp_avg_8bit_scale": _like(p, blocks, torch.float32),
        "exp_avg_sq_8bit": _like(p, p.shape, torch.uint8),
        "exp_avg_sq_8bit_scale": _like(p, blocks, torch.float32),
        "exp_avg_sq_8bit_step": _like(p, blocks, torch.float32),
    }


def update(p: Tensor, state: dict[str, Tensor], group: dict, divisor: float = 1.0) -> None:
    """One update of `p` by `p.grad` / `divisor`, in place, as AdamW does it."""
    state["step"] += 1
    step, first_row = int(state["step"]), 0
    assert p.grad is not None
    if isinstance(p, DTensor):
        first_row = compute_local_shape_and_global_offset(p.shape, p.device_mesh, p.placements)[1][0]
    tensors = [_local(tensor).flatten(1) for tensor in (p, p.grad, *(state[name] for name in NAMES))]
    rows, columns = tensors[0].shape
    if not rows:
        return
    blocks = tensors[3].shape[1]
    kernel = _kernel(p.device)
    at_once = max(1, _CHUNK[p.device.type] // columns) if kernel is _update else rows
    numbers, updates = _numbers(
        p.device, step, group["lr"], group["weight_decay"], group["eps"], *group["betas"], group["maximize"], divisor
    )
    for start in range(0, rows, at_once):
        kernel(*(tensor[start : start + at_once] for tensor in tensors), numbers, updates, first_row + start, blocks)


def decode(state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Adam's moments (exp_avg, exp_avg_sq) of the rows that this rank has, in fp32."""
    u, a, c, s, r = (_local(state[name]) for name in NAMES)
    m, root = _decode(u.flatten(1), a, c.flatten(1), s, r)
    return m.flatten(1)[:, : u[0].numel()].view(u.shape), root.square().flatten(1)[:, : u[0].numel()].view(u.shape)


def _update(p, grad, u, a, c, s, r, numbers, updates, row: int, blocks: int) -> None:  # noqa: PLR0917
    keep, rate, correction, eps, beta1, beta2, divisor = numbers.unbind()
    m, root = _decode(u, a, c, s, r)
    g = _blocks(grad.float() / divisor, blocks)
    m = torch.lerp(g, m, beta1)
    v = torch.lerp(g.square(), root.square(), beta2)
    root, columns = v.sqrt(), p.shape[1]
    change = (m / (root / correction + eps)).flatten(1)[:, :columns]
    p.copy_(p * keep - rate * change)

    # rounded: to the level below or the one above, so that the mean is v
    top = root.amax(2, keepdim=True)
    share = root / torch.where(top > 0, top, 1)
    step = (-share.amin(2, keepdim=True).log2() / 255).clamp(_FINEST, _RANGE / 255)
    below = (255 + share.log2() / step).floor().clamp(0, 254)
    level = torch.exp2((below - 255) * step)
    up = (share.square() / level.square() - 1) / (torch.exp2(2 * step) - 1)
    noise_v, noise_m = _noise(updates, row, root)
    code = below + (up > noise_v)
    root = torch.exp2((code - 255) * step) * top
    ratio = m / torch.where(root > 0, root, 1)
    most = ratio.abs().amax(2, keepdim=True)
    unit = (ratio * (127 / torch.where(most > 0, most, 1)) + noise_m).floor().clamp(-127, 127)
    for stored, value in ((u, unit), (c, code)):
        stored.copy_(value.flatten(1)[:, :columns])
    for stored, value in ((a, most), (s, top), (r, step)):
        stored.copy_(value.squeeze(2))


def _decode(u: Tensor, a: Tensor, c: Tensor, s: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """m and sqrt(v), [rows, blocks, width]."""
    blocks = s.shape[1]
    root = torch.exp2((_blocks(c.float(), blocks) - 255) * r.unsqueeze(2)) * s.unsqueeze(2)
    return _blocks(u.float(), blocks) * (a / 127).unsqueeze(2) * root, root


def _blocks(x: Tensor, blocks: int) -> Tensor:
    """[rows, columns] to [rows, blocks, width], all blocks of a row equally wide, with zeros after the last column."""
    width = -(-x.shape[1] // blocks)
    missing = blocks * width - x.shape[1]
    return (nn.functional.pad(x, (0, missing)) if missing else x).view(x.shape[0], blocks, width)


def _noise(updates: Tensor, row: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Two numbers in [0, 1) for each element, by a hash (multiply, shift, xor, as in murmur3) of update, row and column."""
    rows, blocks, width = like.shape
    row_R = torch.arange(rows, dtype=torch.int32, device=like.device) + row
    column = torch.arange(blocks * width, dtype=torch.int32, device=like.device).view(blocks, width)
    x = (row_R * 0x3C6EF372 + updates * 0x1B873593)[:, None, None] + column * 0x61C88647
    # shifts of negative numbers draw in ones, which the masks take away
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * 0x2C1B3C6D
    x = x ^ ((x >> 16) & 0xFFFF)
    return (x & 0xFFFF) / 65536.0, ((x >> 16) & 0xFFFF) / 65536.0


@functools.lru_cache(8)
def _numbers(  # noqa: PLR0917
    device: torch.device,
    step: int,
    lr: float,
    decay: float,
    eps: float,
    beta1: float,
    beta2: float,
    maximize: bool,
    divisor: float,
) -> tuple[Tensor, Tensor]:
    """What an update needs, as tensors: numbers that change would be compiled anew each time."""
    rate = lr / (1 - beta1**step) * (-1 if maximize else 1)
    numbers = [1 - lr * decay, rate, math.sqrt(1 - beta2**step), eps, beta1, beta2, divisor]
    return torch.tensor(numbers, device=device), torch.tensor(step, dtype=torch.int32, device=device)


@functools.cache
def _kernel(device: torch.device):
    """The update of some rows: on a GPU in one kernel, where torch.compile works."""
    if device.type == "cuda" and not layers.why_not_compile(device):
        return torch.compile(_update, dynamic=True)
    return _update


def _like(p: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if not isinstance(p, DTensor):
        return torch.zeros(shape, dtype=dtype, device=p.device)
    local = torch.zeros((p.to_local().shape[0], *shape[1:]), dtype=dtype, device=p.device)
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        local, p.device_mesh, p.placements, run_check=False, shape=torch.Size(shape), stride=stride
    )


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
