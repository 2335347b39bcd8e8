"""Distillation in chunks: a student learns a teacher's distribution of the next token, and neither's logits are ever all held.

    loss = sum over positions of  w T^2 KL(softmax(t / T) || softmax(z / T)) + (1 - w) (logsumexp(z) - z[label])
    z = student head @ student hidden,   t = teacher head @ teacher hidden                (Hinton et al., arXiv 1503.02531)

T^2 keeps the gradient's size at any temperature: with respect to z it is  w T (softmax(z / T) - softmax(t / T)) +
(1 - w) (softmax(z) - one-hot). As in train/kernels/cross_entropy.py positions are taken a chunk at a time, here with both heads'
logits of it, and the gradient is made in the forward pass.

Axes: N positions, C a chunk of them, V vocabulary, D the student's width, E the teacher's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from train.batches.labels import IGNORE
from train.distributed.data_parallel import gathered, scattered
from train.distributed.vocabulary import gradient_buffer
from train.kernels import cross_entropy as ce


class Aim(NamedTuple):
    """`weight` w of the teacher, the rest is of the text; `temperature` T; bounds of the logits of student and teacher."""

    weight: float = 1.0
    temperature: float = 1.0
    softcap: float | None = None
    softcap_of_teacher: float | None = None


class Distilled(NamedTuple):
    """The sum of losses, how many positions count, and the sums of the parts of each row, without a gradient: cross-entropy with
    the labels, KL divergence (times T^2)."""

    loss: Tensor
    count: Tensor  # type: ignore[assignment]  # nobody calls tuple.count
    cross_entropy_B: Tensor
    divergence_B: Tensor


def distil(  # noqa: PLR0917
    hidden_BTD: Tensor,
    weight_VD: Tensor,
    teacher_BTE: Tensor,
    teacher_VE: Tensor,
    labels_BT: Tensor,
    aim: Aim,
    chunk: int | None = None,
) -> Distilled:
    """The loss above over the positions whose label is not -100. `chunk` is the number of positions whose logits exist at a time;
    left out, it is chosen for the vocabulary and the device. The teacher gets no gradient."""
    hidden_ND, labels_N, positions = ce._flatten(hidden_BTD, labels_BT)
    teacher_NE = teacher_BTE.detach().flatten(0, -2)
    if positions is not None:
        teacher_NE = teacher_NE[positions]
    count = (labels_BT != IGNORE).sum() if positions is None else torch.tensor(len(positions))
    dtype = ce._matmul_dtype(hidden_BTD)
    w_VD, teacher_w_VE = gathered(weight_VD, dtype), gathered(teacher_VE, dtype)
    buffer_VD = gradient_buffer(weight_VD)
    chunk = chunk or ce.default_chunk(weight_VD)
    if not torch.is_grad_enabled():
        weight_VD = weight_VD.detach()
    loss, entropy_N, divergence_N = _Distil.apply(
        hidden_ND, weight_VD, w_VD, teacher_NE, teacher_w_VE, labels_N, aim, chunk, buffer_VD
    )
    rows = []
    for of_N in (entropy_N, divergence_N):
        whole = of_N if positions is None else of_N.new_zeros(labels_BT.numel()).index_copy(0, positions, of_N)
        rows.append(whole.view(labels_BT.shape).sum(-1))
    return Distilled(loss, count, *rows)


def _losses(z_CV: Tensor, t_CV: Tensor, labels_C: Tensor, aim: Aim, dtype: torch.dtype | None) -> tuple:
    """Of fp32 logits before their soft caps: (cross-entropy [C], T^2 KL [C], gradient of the loss [C, V] in `dtype`, None
    without one)."""
    w, temperature, cap, cap_of_teacher = aim
    z_CV, slope_CV = ce._capped_(z_CV, cap)
    t_CV, _ = ce._capped_(t_CV, cap_of_teacher)
    valid_C, index_C1 = labels_C != IGNORE, labels_C.clamp(min=0).unsqueeze(1)
    entropy_C = (z_CV.logsumexp(1) - z_CV.gather(1, index_C1).squeeze(1)) * valid_C
    log_p_CV, log_q_CV = (x if temperature == 1 else x / temperature for x in (z_CV, t_CV))
    log_p_CV, log_q_CV = log_p_CV.log_softmax(1), log_q_CV.log_softmax(1)
    terms_CV = log_q_CV - log_p_CV
    p_CV, q_CV = log_p_CV.exp_(), log_q_CV.exp_()  # in place, as what follows: five numbers a logit live, not ten
    terms_CV.mul_(q_CV)
    d_CV = p_CV.sub_(q_CV)
    # sum of p - q is 0 but for rounding of the two log-sum-exps, whose error it takes away to first order: near its
    # teacher a student's divergence is smaller than that
    divergence_C = temperature**2 * terms_CV.add_(d_CV).sum(1) * valid_C
    if dtype is None:
        return entropy_C, divergence_C, None
    d_CV = d_CV.mul_(w * temperature)
    if w < 1:
        del terms_CV, log_p_CV, log_q_CV, q_CV
        d_CV = d_CV.add_(z_CV.softmax(1), alpha=1 - w)
        d_CV = d_CV.scatter_add_(1, index_C1, d_CV.new_full(index_C1.shape, w - 1.0))
    if slope_CV is not None:
        d_CV = d_CV.mul_(slope_CV)
    return entropy_C, divergence_C, d_CV.mul_(valid_C.unsqueeze(1)).to(dtype)


class _Distil(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917
        ctx, hidden_ND, weight_VD, w_VD, teacher_NE, teacher_VE, labels_N, aim, chunk, buffer_VD
    ) -> tuple:
        grad_hidden, grad_weight = ctx.needs_input_grad[:2]
        dtype = w_VD.dtype
        ctx.weight_VD, ctx.in_buffer = weight_VD.detach(), buffer_VD is not None
        entropy_N = torch.empty(len(labels_N), dtype=torch.float32, device=hidden_ND.device)
        divergence_N = torch.empty_like(entropy_N)
        d_hidden_ND = torch.empty_like(hidden_ND) if grad_hidden else None
        d_weight_VD = buffer_VD
        if grad_weight and buffer_VD is None:
            d_weight_VD = torch.zeros_like(w_VD, dtype=torch.float32)
        size = min(chunk, len(labels_N)) * len(w_VD)
        buffers = [ce._buffer(size, dtype, w_VD.device) for _ in range(2)]
        losses, wanted = ce._kernel(_losses, _losses, w_VD.device), dtype if grad_hidden or grad_weight else None
        for start in range(0, len(labels_N), chunk):
            part = slice(start, start + chunk)
            h_CD, t_CE = hidden_ND[part].to(dtype), teacher_NE[part].to(dtype)
            logits_CV = ce._logits(h_CD, w_VD, buffers[0])
            entropy_N[part], divergence_N[part], d_CV = losses(
                logits_CV, ce._logits(t_CE, teacher_VE, buffers[1]), labels_N[part], aim, wanted
            )
            if d_hidden_ND is not None:
                d_hidden_ND[part] = d_CV @ w_VD
            if grad_weight:
                ce._add_product(d_weight_VD, d_CV.T, h_CD)
        # what went into the buffer is not given to autograd again
        ctx.gradients = (d_hidden_ND, d_weight_VD if buffer_VD is None and grad_weight else None)
        ctx.mark_non_differentiable(entropy_N, divergence_N)
        return aim.weight * divergence_N.sum() + (1 - aim.weight) * entropy_N.sum(), entropy_N, divergence_N

    @staticmethod
    def backward(ctx, grad: Tensor, *_: Tensor) -> tuple:
        if ctx.in_buffer:  # on a GPU the check must not wait for it
            torch._assert_async(grad == 1) if grad.is_cuda else ce._assert_one(grad)
        (d_hidden_ND, d_weight_VD), ctx.gradients = ctx.gradients, None
        if d_hidden_ND is not None and not ctx.in_buffer:
            d_hidden_ND *= grad
        if d_weight_VD is not None:
            d_weight_VD = scattered(d_weight_VD.mul_(grad).to(ctx.weight_VD.dtype), ctx.weight_VD)
        return d_hidden_ND, d_weight_VD, *(None,) * 7
