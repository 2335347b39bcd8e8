"""Which numbers are rounded where in bf16: one policy for whole models, replicated ones and ones that FSDP2 shards.

    weights, moments, sums of gradients     fp32
    inputs of matrix products               bf16, sums inside in fp32
    residual stream                         bf16 between layers; a norm computes in fp32 and its result is rounded once
    rotation of queries and keys            fp32, with cosines and sines in fp32
    gains of norms, biases                  fp32, also under FSDP2 (train/distributed/data_parallel.py keeps vectors whole)
    softmax of attention, loss              fp32

Autocast alone would round products only: a residual stream in fp32, whose copy in bf16 every product makes for itself. FSDP2
alone would round all, cosines and gains of 1 + 0.001 too. Hooks do the difference and work wherever autocast is on, so
training, reference passes and validation compute the same; without autocast they do nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.batches.decoder import Decoder


def attach(model: Decoder) -> None:
    """Let a decoder of `transformers` compute by this policy under autocast."""
    body = model.model
    for module in (body.embed_tokens, *(part for part in body.modules() if "Norm" in type(part).__name__)):
        module.register_forward_hook(_rounded)
    for module in body.modules():
        if "RotaryEmbedding" in type(module).__name__:
            module.register_forward_pre_hook(_exact)


def _rounded(module: nn.Module, args: tuple, out: Tensor) -> Tensor:
    return out.to(torch.get_autocast_dtype(out.device.type)) if _on(out) else out


def _exact(module: nn.Module, args: tuple) -> tuple:
    """The rotation looks at its first argument only for a device and a dtype."""
    like, *rest = args
    return (like.new_empty(0, dtype=torch.float32), *rest) if _on(like) else args


def _on(x: Tensor) -> bool:
    """Whether autocast is on for `x`; it knows no tensors without values."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
