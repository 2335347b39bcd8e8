"""Gradients of the two vocabulary matrices go straight into the loop's buffer.

Autograd gives the gradient of the embedding and that of the head a tensor each, as large as the matrix, and adds them to
`.grad` afterwards: with 152k tokens that is most of a small model's memory, and a third of a short step's time. Where a
parameter's `.grad` is a lasting buffer (`mark`, called by train/distributed/data_parallel.py), the head's loss
(train/kernels/cross_entropy.py) and the embedding add to it themselves. Both then need the gradient of a plain sum, so the
loop divides by the count at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from train.batches.decoder import CausalLM

_MARK = "gradient_buffer"  # attribute of a parameter


def mark(parameter: nn.Parameter) -> None:
    """`parameter.grad` is a buffer that lives as long as the training: backward passes may add to it by themselves."""
    setattr(parameter, _MARK, True)


def gradient_buffer(weight_VD: Tensor) -> Tensor | None:
    """The buffer to add a gradient of `weight_VD` to, or None where autograd must be given it."""
    wanted = getattr(weight_VD, _MARK, False) and weight_VD.requires_grad and torch.is_grad_enabled()
    return weight_VD.grad if wanted else None


def attach(model: CausalLM) -> None:
    """Let the embedding of a causal LM of `transformers` add to the buffer; without one it works as before.

    A class of its own, as Gemma has it to scale what it looks up, keeps its forward pass and looks up by ours."""
    own = type(model.model.embed_tokens)
    made = Embedding if own is nn.Embedding else type(own.__name__, (own, Embedding), {})
    model.model.embed_tokens.__class__ = made


class Embedding(nn.Embedding):
    """`nn.Embedding` whose backward pass touches only the rows that were looked up."""

    def forward(self, ids: Tensor) -> Tensor:
        if gradient_buffer(self.weight) is None or self.padding_idx is not None:
            return super().forward(ids)
        return _Lookup.apply(ids, self.weight)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx, ids: Tensor, weight_VD: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.buffer_VD = weight_VD.grad
        return embedding(ids, weight_VD)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        (ids,) = ctx.saved_tensors
        ids_N, grad_ND = ids.flatten(), grad.flatten(0, -2).to(ctx.buffer_VD.dtype)
        if ids.is_cuda:  # sorts, so that repeated tokens are added in one order; index_add_ does not
            ctx.buffer_VD.index_put_((ids_N,), grad_ND, accumulate=True)
        else:
            ctx.buffer_VD.index_add_(0, ids_N, grad_ND)
        return None, None
