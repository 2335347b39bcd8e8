"""Liger's fused linear cross-entropy (arXiv 2410.10989) in the place of our chunked one: `pip install 'pinisi[gpu]'`, GPU only.

Its Triton kernel turns a chunk of logits into losses and their gradient in one pass; the products before and after it are as in
train/kernels/cross_entropy.py. The gradient of the head is summed in fp32 and then, unlike ours, rounded to the precision of
the products.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor


def installed() -> bool:
    return importlib.util.find_spec("liger_kernel") is not None


def works(device: torch.device) -> bool:
    return device.type == "cuda" and installed()


def require(device: torch.device) -> None:
    """Raises ValueError where Liger cannot run on `device`."""
    if not installed():
        raise ValueError(
            "cross_entropy: liger needs the package liger-kernel (pip install 'pinisi[gpu]'); it is not installed."
        )
    if device.type != "cuda":
        raise ValueError("cross_entropy: liger runs on a GPU only; on a CPU leave it at chunked.")


def losses_and_gradients(  # noqa: PLR0917
    hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, ignore: int, chunk: int, softcap: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each position the loss, fp32 [N], and the gradients of their sum: [N, D], and [V, D], in the precision of the two.

    `chunk` is about how many positions have logits at a time; Liger takes a power of 2."""
    from liger_kernel.ops.fused_linear_cross_entropy import fused_linear_cross_entropy_forward

    budget = chunk * weight_VD.shape[0] / hidden_ND.numel()  # Liger's unit: as many logits as `hidden` has numbers
    loss_N, *_, d_hidden_ND, d_weight_VD, _ = fused_linear_cross_entropy_forward(
        hidden_ND,
        weight_VD,
        labels_N,
        ignore_index=ignore,
        reduction="none",  # of each position, with the gradient of the plain sum
        accum_dtype=torch.float32,
        compute_gradients=True,
        weight_requires_grad=True,
        softcap=softcap,
        chunk_mem_const=max(1, round(budget)),
    )
    return loss_N, d_hidden_ND, d_weight_VD
