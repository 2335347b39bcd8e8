"""What is kept of each decoder layer between its forward and its backward pass, and regional compilation.

Activation checkpointing: "full" keeps a layer's input and computes the layer again in the backward pass (a third more
arithmetic); "selective" keeps the results of attention and of every second matrix product too, as torchtitan does, so that
only cheap operations and the other half of the products are done again; and flex attention, unless layers are compiled, as its
own compiled code hides what is in it. The last product, which is only added to the stream, is neither kept nor done again.
Neither changes a bit of the gradients.

A layer's `forward` is what is done again, and not its call: so it is a part of the graph of a compiled layer, which else would
hide the products, and FSDP's hooks run once. `transformers` does it so from 5.2x on; in 5.17 it is the call, so this is ours.

Regional compilation compiles one decoder layer and uses it for all: minutes become seconds, as layers are alike.
"""

from __future__ import annotations

import functools
import logging
from typing import cast

import torch
from torch import nn
from torch.nn.attention import varlen as _varlen  # noqa: F401 (defines the operation)
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

log = logging.getLogger(__name__)

CHECKPOINTING = ("none", "selective", "full")

_OWN = "class_without_checkpointing"  # attribute of a class
_BEHIND = ("post_feedforward_layernorm", "post_mlp_layernorm")
"""Norms that read a layer's last product, by the names of `transformers`."""

_aten = torch.ops.aten
_PRODUCTS = (_aten.mm.default, _aten.addmm.default)
_ATTENTION = (
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.higher_order.flex_attention,
    torch.ops.torch_attn._varlen_attn.default,
)


def checkpoint_activations(model: nn.Module, mode: str) -> None:
    """Set what the decoder layers of a model of `transformers` keep: "none" is everything, "selective" or "full" less.

    Raises ValueError for another mode, and for a model without such layers.
    """
    if mode not in CHECKPOINTING:
        raise ValueError(f"activation_checkpointing must be one of {', '.join(CHECKPOINTING)}, not {mode!r}.")
    for layer in _layers(model) if mode != "none" else ():
        linear = sum(isinstance(module, nn.Linear) for module in layer.modules())
        needed = any(hasattr(layer, norm) for norm in _BEHIND)
        own = getattr(type(layer), _OWN, type(layer))
        layer.__class__ = _checkpointed(own, mode, None if needed else linear)  # type: ignore[arg-type]  # classes have a hash


@functools.cache  # layers of one class share a compiled graph
def _checkpointed(own: type[nn.Module], mode: str, last: int | None) -> type[nn.Module]:
    """The class of a layer, with a forward pass that keeps less while it trains; `last` as in `_selective`."""
    again = functools.partial(checkpoint, use_reentrant=False)
    if mode == "selective":
        again = functools.partial(again, context_fn=functools.partial(_selective, last))

    def forward(self, *args, **kwargs):
        if self.training and torch.is_grad_enabled():
            return again(functools.partial(own.forward, self, **kwargs), *args)
        return own.forward(self, *args, **kwargs)

    return cast(type[nn.Module], type(own.__name__, (own,), {"forward": forward, _OWN: own}))


def compile_layers(model: nn.Module, device: torch.device) -> bool:
    """Compile each decoder layer, where torch.compile works on `device`; if not, say why and leave the model as it is."""
    if reason := why_not_compile(device):
        log.warning("torch.compile does not work on this machine, so training goes on without it: %s", reason)
        return False
    layers = _layers(model)
    # layers of a partial update have sizes of their own, so each is compiled, for training and for measuring, at several shapes
    # of rows; past its limit torch would leave the rest alone
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 8 * len(layers))
    for layer in layers:
        layer.compile()
    return True


def why_not_compile(device: torch.device) -> str:
    """What torch.compile fails with on `device`; empty where it works."""
    try:
        torch.compile(_probe)(torch.ones(8, device=device))
    except (
        Exception
    ) as error:  # no compiler, no triton, an unknown card: all are of the machine and none is worth a run
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return ""


def _probe(x: torch.Tensor) -> torch.Tensor:
    return (x.sin() + 1).sum()


def _layers(model: nn.Module) -> nn.ModuleList:
    layers = getattr(getattr(model, "model", None), "layers", None)
    if layers is None:
        raise ValueError("Activation checkpointing and compilation need a causal LM with decoder layers.")
    return layers


def _selective(last: int | None) -> tuple:
    """Contexts of the forward and of the repeated pass of one layer, whose product number `last` nobody needs again."""
    products = {False: 0, True: 0}

    def policy(context, operation, *args, **kwargs) -> CheckpointPolicy:
        if operation in _PRODUCTS:
            products[context.is_recompute] += 1
            kept = products[context.is_recompute] % 2 == 1 and products[context.is_recompute] != last
        else:
            kept = operation in _ATTENTION
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)
