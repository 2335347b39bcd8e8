"""Linear cross-entropy in chunks: the loss of `softmax(hidden @ weight.T)` without ever holding all the logits.

loss = sum over positions of logsumexp(z) - z[label],   z = weight @ hidden

Positions are taken a chunk at a time: logits, their softmax and, when a gradient is wanted, its products with `weight` and
`hidden` at once, so memory is one chunk of logits plus the gradients themselves. The gradient of a sum is known up to one
factor, so the loss computes it in the forward pass and the backward pass only scales it (as in Liger, arXiv 2410.10989).
Token log-probabilities have a factor for each position, so their backward pass computes the chunk again.
Softmax and all sums are in fp32; under autocast the matrix products are in its dtype.
Only positions with a label are computed, where the host knows them without waiting for the device.
On a CPU the chunk's logits, their softmax and its gradient are one buffer that every chunk uses again: fresh memory of that
size costs more time than the arithmetic (2.4 ns an element for a softmax, 0.6 in place). On a GPU products of bf16 leave fp32
logits, unrounded, and one compiled function makes losses and the gradient in bf16 of them: 18 to 22 bytes a logit go to and
from memory (written 4, read two or three times, written 2, read by two products), where an operation at a time takes 46.
Log-probabilities, whose gradient comes later, need no whole row of logits: they take the vocabulary in tiles too, and
log-sum-exps of tiles are added.

With a z-loss (PaLM, arXiv 2204.02311), loss = sum of (lse - z[label] + c lse^2) with lse = logsumexp(z).
With a soft cap (Gemma 2, arXiv 2408.00118), z = cap tanh(x / cap) of x = weight @ hidden, so dz / dx = 1 - (z / cap)^2.

Axes: B batch, T position, D width, V vocabulary, N = the positions of B x T, C a chunk of N, U a tile of V.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from train.batches.labels import IGNORE
from train.batches.parts import on_host, sent
from train.distributed.data_parallel import gathered, scattered
from train.distributed.vocabulary import gradient_buffer
from train.kernels import layers, liger

KERNELS = ("auto", "chunked", "liger")
"""What computes the cross-entropy: this file, or train/kernels/liger.py; "auto" is Liger where it is installed and can do it."""

_CHOSEN = "cross_entropy"  # attribute of a model
_LOGIT_BYTES = {"cpu": 16 << 20, "cuda": 512 << 20}
_TILE_BYTES = _LOGIT_BYTES | {"cpu": 4 << 20}
_LEAST_CHUNK = 128
"""Every chunk reads and writes the fp32 gradient of the whole head, which fewer positions would not pay for."""
_GOOD_CHUNK, _MOST_LOGIT_BYTES = 2048, 4 << 30
"""On a GPU, where that reading and writing is a tenth of the products' time with so many positions: for logits of so much."""
_LEAST_CHUNK_OF_TILES = 512
"""The same where the vocabulary is cut into tiles, so that more positions cost no memory."""


def choose(model: nn.Module, kernel: str, device: torch.device) -> None:
    """Set which of `KERNELS` the losses of `model` take. Raises ValueError for one that cannot work on `device`."""
    if kernel == "auto" and not liger.works(device):
        kernel = "chunked"
    if kernel == "liger":
        liger.require(device)
    setattr(model, _CHOSEN, kernel)


def chosen(model: nn.Module) -> str:
    """What `choose` has set; "chunked" where it was not called."""
    return getattr(model, _CHOSEN, "chunked")


def linear_cross_entropy(  # noqa: PLR0917
    hidden_BTD: Tensor,
    weight_VD: Tensor,
    labels_BT: Tensor,
    chunk: int | None = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of next-token prediction, summed over the positions whose label is not -100.

    `labels_BT` is already shifted: the label of a position is the token after it. `chunk` is the number of positions whose
    logits exist at a time; left out, it is chosen for the vocabulary and the device. `z_loss` is the c above, `softcap` the
    bound of the logits.
    Returns (sum of losses, fp32 scalar; number of positions that count, int64 scalar).
    """
    return cross_entropy_and_rows(hidden_BTD, weight_VD, labels_BT, chunk, z_loss, softcap=softcap)[:2]


def cross_entropy_and_rows(  # noqa: PLR0917
    hidden_BTD: Tensor,
    weight_VD: Tensor,
    labels_BT: Tensor,
    chunk: int | None = None,
    z_loss: float = 0.0,
    kernel: str = "chunked",
    softcap: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`linear_cross_entropy`, and the sum of losses of each row, fp32 [B], in the same pass and without a gradient.

    The losses of the rows are without the z-loss. `kernel` is one of `KERNELS`; "liger" knows no z-loss, and "auto" takes it
    where there is none."""
    if kernel == "auto":
        kernel = "chunked" if z_loss else "liger"
    if kernel == "liger" and z_loss:
        raise ValueError(
            "cross_entropy: liger cannot tell the z-loss from the loss; set z_loss to 0 or leave it at chunked."
        )
    hidden_ND, labels_N, positions = _flatten(hidden_BTD, labels_BT)
    count = (labels_BT != IGNORE).sum() if positions is None else torch.tensor(len(positions))
    chunk = chunk or default_chunk(weight_VD)
    w_VD, buffer = gathered(weight_VD, _matmul_dtype(hidden_BTD)), gradient_buffer(weight_VD)
    if not torch.is_grad_enabled():
        weight_VD = weight_VD.detach()  # else the forward pass would compute its gradient, for nothing
    loss, loss_N = _SumOfLosses.apply(hidden_ND, weight_VD, w_VD, labels_N, chunk, z_loss, buffer, kernel, softcap)
    if positions is not None:
        loss_N = loss_N.new_zeros(labels_BT.numel()).index_copy(0, positions, loss_N)
    return loss, count, loss_N.view(labels_BT.shape).sum(-1)


def token_logprobs(
    hidden_BTD: Tensor, weight_VD: Tensor, labels_BT: Tensor, chunk: int | None = None, softcap: float | None = None
) -> Tensor:
    """log p(label) of every position [B, T] in fp32, 0 where the label is -100. Differentiable."""
    hidden_ND, labels_N, positions = _flatten(hidden_BTD, labels_BT)
    chunk = chunk or max(_LEAST_CHUNK_OF_TILES, default_chunk(weight_VD))
    w_VD, buffer_VD = gathered(weight_VD, _matmul_dtype(hidden_BTD)), gradient_buffer(weight_VD)
    logp_N = _TokenLogprobs.apply(hidden_ND, weight_VD, w_VD, labels_N, chunk, buffer_VD, softcap)
    if positions is not None:
        logp_N = logp_N.new_zeros(labels_BT.numel()).index_copy(0, positions, logp_N)
    return logp_N.view(labels_BT.shape)


def default_chunk(weight_VD: Tensor) -> int:
    """Positions per chunk so that a chunk of fp32 logits stays in cache on CPU, and keeps the card busy on CUDA."""
    device, of_position = weight_VD.device.type, 4 * weight_VD.shape[0]
    if device == "cpu":
        return max(_LEAST_CHUNK, _LOGIT_BYTES[device] // of_position // 16 * 16)
    good = min(_GOOD_CHUNK, _MOST_LOGIT_BYTES // of_position)
    return max(_LEAST_CHUNK, good, _LOGIT_BYTES["cuda"] // of_position) // 16 * 16


def _matmul_dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _flatten(hidden_BTD: Tensor, labels_BT: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Positions in one axis: those with a label, and which they are, where the host knows labels without waiting; or all."""
    hidden_ND, labels_N = hidden_BTD.flatten(0, -2), labels_BT.flatten()
    here_BT = on_host(labels_BT)
    if here_BT is None or bool((here_BT != IGNORE).all()):
        return hidden_ND, labels_N, None
    positions = sent((here_BT.flatten() != IGNORE).nonzero().squeeze(1), labels_N.device)
    return hidden_ND[positions], labels_N[positions], positions


def _logits(h_CD: Tensor, w_VD: Tensor, buffer: Tensor) -> Tensor:
    """fp32 logits of a chunk, at the beginning of `buffer` where it has room."""
    shape = (len(h_CD), len(w_VD))
    out_CV = buffer[: shape[0] * shape[1]].view(shape) if len(buffer) else None
    if h_CD.dtype == torch.float32:
        return torch.mm(h_CD, w_VD.T, out=out_CV)
    if h_CD.is_cuda:
        return torch.mm(h_CD, w_VD.T, out_dtype=torch.float32, out=out_CV)
    return (h_CD @ w_VD.T).float()


def _capped_(logits_CV: Tensor, cap: float | None) -> tuple[Tensor, Tensor | None]:
    """(logits under their soft cap, the derivative of the cap at each); without a cap the logits as they are, and None."""
    if cap is None:
        return logits_CV, None
    t_CV = logits_CV.div_(cap).tanh_()
    slope_CV = 1 - t_CV.square()
    return t_CV.mul_(cap), slope_CV


def _buffer(logits: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Room for so many logits; none for products that a CPU rounds to 16 bits."""
    rounded = device.type == "cpu" and dtype != torch.float32
    return torch.empty(0 if rounded else logits, dtype=torch.float32, device=device)


def _softmax_(logits_CV: Tensor) -> tuple[Tensor, Tensor]:
    """(softmax, logsumexp) of fp32 logits, which become their softmax.

    The largest probability is at least 1/V, so its logarithm is exact."""
    top_C = logits_CV.amax(-1)
    p_CV = torch.softmax(logits_CV, -1, out=logits_CV)
    return p_CV, top_C - p_CV.amax(-1).log()


# Of each of the following pairs, `_kernel` takes the one in place on a CPU and the one that a compiler fuses on a GPU.


def _losses_in_place(
    logits_CV: Tensor, labels_C: Tensor, softcap: float | None, z_loss: float, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of fp32 logits before their soft cap: (loss [C], logsumexp [C], gradient of the sum of losses [C, V] in `dtype`, None
    without one). The logits are no more."""
    valid_C, index_C1 = labels_C != IGNORE, labels_C.clamp(min=0).unsqueeze(1)
    logits_CV, slope_CV = _capped_(logits_CV, softcap)
    at_label_C = logits_CV.gather(1, index_C1).squeeze(1)
    p_CV, lse_C = _softmax_(logits_CV)
    loss_C = (lse_C - at_label_C) * valid_C
    if dtype is None:
        return loss_C, lse_C, None
    # d loss / d logits = softmax (1 + 2 c lse) - one-hot, and nothing where there is no label
    if z_loss:
        p_CV *= (1 + 2 * z_loss * lse_C).unsqueeze(1)
    d_CV = p_CV.scatter_add_(1, index_C1, p_CV.new_full(index_C1.shape, -1.0))
    if slope_CV is not None:
        d_CV *= slope_CV
    if d_CV.is_cuda:  # a CPU has only positions with a label
        d_CV *= valid_C.unsqueeze(1)
    return loss_C, lse_C, d_CV.to(dtype)


def _losses(
    logits_CV: Tensor, labels_C: Tensor, softcap: float | None, z_loss: float, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `_losses_in_place`, and the logits stay."""
    z_CV = logits_CV if softcap is None else softcap * (logits_CV / softcap).tanh()
    valid_C = labels_C != IGNORE
    at_label_C = z_CV.gather(1, labels_C.clamp(min=0).unsqueeze(1)).squeeze(1)
    top_C1 = z_CV.amax(1, keepdim=True)
    above_C1 = (z_CV - top_C1).exp().sum(1, keepdim=True).log()
    lse_C1 = top_C1 + above_C1
    loss_C, lse_C = (lse_C1.squeeze(1) - at_label_C) * valid_C, lse_C1.squeeze(1)
    if dtype is None:
        return loss_C, lse_C, None
    hot_CV = torch.arange(z_CV.shape[1], device=z_CV.device) == labels_C.unsqueeze(1)
    # not the exponentials of above, which a compiler would store to use them twice
    d_CV = (z_CV - top_C1 - above_C1).exp() * (1 + 2 * z_loss * lse_C1) - hot_CV.float()
    if softcap is not None:
        d_CV = d_CV * (1 - (z_CV / softcap).square())
    return loss_C, lse_C, (d_CV * valid_C.unsqueeze(1)).to(dtype)


def _tile_in_place(logits_CU: Tensor, index_C1: Tensor, softcap: float | None) -> tuple[Tensor, Tensor]:
    """(logit at the index [C], logsumexp [C]) of fp32 logits of a tile before their soft cap. The logits are no more."""
    logits_CU, _ = _capped_(logits_CU, softcap)
    return logits_CU.gather(1, index_C1).squeeze(1), _softmax_(logits_CU)[1]


def _tile(logits_CU: Tensor, index_C1: Tensor, softcap: float | None) -> tuple[Tensor, Tensor]:
    """As `_tile_in_place`, and the logits stay."""
    z_CU = logits_CU if softcap is None else softcap * (logits_CU / softcap).tanh()
    top_C1 = z_CU.amax(1, keepdim=True)
    lse_C1 = top_C1 + (z_CU - top_C1).exp().sum(1, keepdim=True).log()
    return z_CU.gather(1, index_C1).squeeze(1), lse_C1.squeeze(1)


def _tile_gradient_in_place(  # noqa: PLR0917
    logits_CU: Tensor,
    lse_C1: Tensor,
    index_C1: Tensor,
    inside_C: Tensor,
    grad_C: Tensor,
    softcap: float | None,
    dtype: torch.dtype,
) -> Tensor:
    """Gradient [C, U] of the sum of `grad_C` log p(label) with respect to fp32 logits before their soft cap; the label is at
    the index where it is inside the tile. The logits are no more."""
    logits_CU, slope_CU = _capped_(logits_CU, softcap)
    d_CU = logits_CU.sub_(lse_C1).exp_().mul_(-grad_C.unsqueeze(1))
    d_CU = d_CU.scatter_add_(1, index_C1, (grad_C * inside_C).unsqueeze(1))
    if slope_CU is not None:
        d_CU *= slope_CU
    return d_CU.to(dtype)


def _tile_gradient(  # noqa: PLR0917
    logits_CU: Tensor,
    lse_C1: Tensor,
    index_C1: Tensor,
    inside_C: Tensor,
    grad_C: Tensor,
    softcap: float | None,
    dtype: torch.dtype,
) -> Tensor:
    """As `_tile_gradient_in_place`, and the logits stay."""
    z_CU = logits_CU if softcap is None else softcap * (logits_CU / softcap).tanh()
    hot_CU = (torch.arange(z_CU.shape[1], device=z_CU.device) == index_C1) & inside_C.unsqueeze(1)
    d_CU = grad_C.unsqueeze(1) * (hot_CU.float() - (z_CU - lse_C1).exp())
    if softcap is not None:
        d_CU = d_CU * (1 - (z_CU / softcap).square())
    return d_CU.to(dtype)


@functools.cache
def _kernel(in_place: Callable, fused: Callable, device: torch.device) -> Callable:
    """`fused`, compiled, where the device is a GPU and that works there; `in_place` elsewhere."""
    if device.type == "cpu" or layers.why_not_compile(device):
        return in_place
    return torch.compile(fused, dynamic=True)  # the last chunk and the last tile are smaller


class _SumOfLosses(torch.autograd.Function):
    """`w_VD` is `weight_VD` whole and in the precision of the products."""

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx, hidden_ND, weight_VD, w_VD, labels_N, chunk, z_loss, buffer_VD, kernel, softcap
    ) -> tuple:
        grad_hidden, grad_weight = ctx.needs_input_grad[:2]
        dtype = w_VD.dtype
        ctx.weight_VD, ctx.in_buffer = weight_VD.detach(), buffer_VD is not None
        if kernel == "liger" and (grad_hidden or grad_weight) and len(labels_N):
            loss_N, of_hidden_ND, of_weight_VD = liger.losses_and_gradients(
                hidden_ND.to(dtype), w_VD, labels_N, IGNORE, chunk, softcap
            )
            if buffer_VD is not None:
                buffer_VD += of_weight_VD
            ctx.gradients = (
                of_hidden_ND.to(hidden_ND.dtype) if grad_hidden else None,
                of_weight_VD.float() if grad_weight and buffer_VD is None else None,
            )
            ctx.mark_non_differentiable(loss_N)
            return loss_N.sum(), loss_N
        loss = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        loss_N = torch.empty(len(labels_N), dtype=torch.float32, device=hidden_ND.device)
        d_hidden_ND = torch.empty_like(hidden_ND) if grad_hidden else None
        d_weight_VD = buffer_VD
        if grad_weight and buffer_VD is None:
            d_weight_VD = torch.zeros_like(w_VD, dtype=torch.float32)
        buffer = _buffer(min(chunk, len(labels_N)) * len(w_VD), dtype, w_VD.device)
        losses = _kernel(_losses_in_place, _losses, w_VD.device)
        for start in range(0, len(labels_N), chunk):
            h_CD = hidden_ND[start : start + chunk].to(dtype)
            labels_C = labels_N[start : start + chunk]
            wanted = dtype if grad_hidden or grad_weight else None
            loss_C, lse_C, d_CV = losses(_logits(h_CD, w_VD, buffer), labels_C, softcap, z_loss, wanted)
            loss_N[start : start + chunk] = loss_C
            loss += loss_C.sum()
            if z_loss:
                loss += z_loss * (lse_C.square() * (labels_C != IGNORE)).sum()
            if d_hidden_ND is not None:
                d_hidden_ND[start : start + chunk] = d_CV @ w_VD
            if grad_weight:
                _add_product(d_weight_VD, d_CV.T, h_CD)
        # what went into the buffer is not given to autograd again
        ctx.gradients = (d_hidden_ND, d_weight_VD if buffer_VD is None else None)
        ctx.mark_non_differentiable(loss_N)
        return loss, loss_N

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor) -> tuple:
        if ctx.gradients is None:
            raise RuntimeError("linear_cross_entropy can be differentiated once: its gradients are scaled in place.")
        if ctx.in_buffer:  # on a GPU the check must not wait for it
            torch._assert_async(grad == 1) if grad.is_cuda else _assert_one(grad)
        (d_hidden_ND, d_weight_VD), ctx.gradients = ctx.gradients, None
        if d_hidden_ND is not None and not ctx.in_buffer:
            d_hidden_ND *= grad
        if d_weight_VD is not None:
            d_weight_VD = scattered(d_weight_VD.mul_(grad).to(ctx.weight_VD.dtype), ctx.weight_VD)
        return d_hidden_ND, d_weight_VD, *(None,) * 7


def _assert_one(grad: Tensor) -> None:
    if grad != 1:
        raise RuntimeError(
            f"The head's gradient was added to the loop's buffer as that of a plain sum, but the loss takes {float(grad):g} "
            "times that sum; scale the loss by its count in the loop, not in the loss function."
        )


class _TokenLogprobs(torch.autograd.Function):
    """`w_VD` as above; the backward pass makes it again."""

    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, w_VD, labels_N, chunk, buffer_VD, softcap) -> Tensor:  # noqa: PLR0917
        dtype = w_VD.dtype
        logp_N = torch.empty(len(labels_N), dtype=torch.float32, device=hidden_ND.device)
        lse_N = torch.full_like(logp_N, -math.inf, dtype=torch.float64)  # rounded once, not for each tile
        tiles, buffer = _tiles(min(chunk, len(labels_N)), w_VD)
        of_tile = _kernel(_tile_in_place, _tile, w_VD.device)
        for start in range(0, len(labels_N), chunk):
            h_CD, labels_C = hidden_ND[start : start + chunk].to(dtype), labels_N[start : start + chunk]
            at_label_C, lse_C = torch.zeros_like(logp_N[start : start + chunk]), lse_N[start : start + chunk]
            for tile in tiles:
                index_C1, inside_C = _in_tile(labels_C, tile)
                at_index_C, lse_of_tile_C = of_tile(_logits(h_CD, w_VD[tile], buffer), index_C1, softcap)
                at_label_C += at_index_C * inside_C
                torch.logaddexp(lse_C, lse_of_tile_C, out=lse_C)
            logp_N[start : start + chunk] = (at_label_C - lse_C) * (labels_C != IGNORE)
        ctx.save_for_backward(hidden_ND, weight_VD, labels_N, lse_N.float())
        ctx.chunk, ctx.dtype, ctx.buffer_VD, ctx.softcap = chunk, dtype, buffer_VD, softcap
        return logp_N

    @staticmethod
    def backward(ctx, grad_N: Tensor) -> tuple:
        hidden_ND, weight_VD, labels_N, lse_N = ctx.saved_tensors
        chunk, dtype = ctx.chunk, ctx.dtype
        w_VD = gathered(weight_VD, dtype)
        d_hidden_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        d_weight_VD = ctx.buffer_VD
        if ctx.needs_input_grad[1] and d_weight_VD is None:
            d_weight_VD = torch.zeros_like(w_VD, dtype=torch.float32)
        tiles, buffer = _tiles(min(chunk, len(labels_N)), w_VD)
        gradient = _kernel(_tile_gradient_in_place, _tile_gradient, w_VD.device)
        for start in range(0, len(labels_N), chunk):
            h_CD, labels_C = hidden_ND[start : start + chunk].to(dtype), labels_N[start : start + chunk]
            lse_C1 = lse_N[start : start + chunk].unsqueeze(1)
            grad_C = grad_N[start : start + chunk] * (labels_C != IGNORE)
            d_h_CD = torch.zeros_like(h_CD, dtype=torch.float32)
            for tile in tiles:
                index_C1, inside_C = _in_tile(labels_C, tile)
                logits_CU = _logits(h_CD, w_VD[tile], buffer)
                d_CU = gradient(logits_CU, lse_C1, index_C1, inside_C, grad_C, ctx.softcap, dtype)
                if d_hidden_ND is not None:
                    _add_product(d_h_CD, d_CU, w_VD[tile])
                if d_weight_VD is not None:
                    _add_product(d_weight_VD[tile], d_CU.T, h_CD)
            if d_hidden_ND is not None:
                d_hidden_ND[start : start + chunk] = d_h_CD
        # what went into the buffer is not given to autograd again
        if d_weight_VD is not None:
            own = ctx.buffer_VD is None
            d_weight_VD = scattered(d_weight_VD.to(weight_VD.dtype), weight_VD) if own else None
        return d_hidden_ND, d_weight_VD, *(None,) * 5


def _tiles(rows: int, w_VD: Tensor) -> tuple[list[slice], Tensor]:
    """The tiles of the vocabulary for chunks of `rows` positions, and a buffer for the logits of one."""
    size = _TILE_BYTES.get(w_VD.device.type, _TILE_BYTES["cuda"]) // (4 * max(rows, 1))
    size = min(max(size, 1), len(w_VD))
    tiles = [slice(first, min(first + size, len(w_VD))) for first in range(0, len(w_VD), size)]
    return tiles, _buffer(rows * size, w_VD.dtype, w_VD.device)


def _in_tile(labels_C: Tensor, tile: slice) -> tuple[Tensor, Tensor]:
    """(columns [C, 1] of the labels in a tile, whether they are in it [C]); the column of one that is not is any."""
    column_C = labels_C - tile.start
    inside_C = (column_C >= 0) & (labels_C < tile.stop)
    return column_C.clamp(0, tile.stop - tile.start - 1).unsqueeze(1), inside_C


def _add_product(sum_VD: Tensor, a_VC: Tensor, b_CD: Tensor) -> None:
    """sum += a @ b with the sum in fp32 whatever the factors are: a bf16 sum over chunks would lose small gradients."""
    if a_VC.dtype == torch.float32:
        sum_VD.addmm_(a_VC, b_CD)
    elif a_VC.is_cuda:
        torch.addmm(sum_VD, a_VC, b_CD, out_dtype=torch.float32, out=sum_VD)  # the product is not rounded either
    else:
        sum_VD += a_VC @ b_CD
