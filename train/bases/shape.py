"""Which causal LMs of `transformers` have the parts that our training reaches into: an embedding, layers that attend, a norm, a
head without a bias. What is not, is refused with the kind of the model and a reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from train.batches.decoder import CausalLM

PARTS = {"embed_tokens": nn.Embedding, "layers": nn.ModuleList, "norm": nn.Module}


def check(net: CausalLM) -> None:
    """Raises ValueError for a model that lacks a part, and for a mixture of experts."""
    for reason in _reasons(net):
        raise refused(net.config, reason)


def refused(config, reason: str) -> ValueError:
    return ValueError(f"model kind {config.model_type}: {reason}; docs/training.md lists the kinds that can be trained")


def weights_fault(missing: Iterable[str], unexpected: Iterable[str], kind: str) -> str:
    """The sentence for weights that lack tensors of the model, or have tensors in its layers that it has no place for (another
    `model_type`, fewer layers); empty where all are well."""
    if lacking := sorted(missing):
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        return f"the weights lack {lacking[0]}{more}; fetch the model again"
    if left := sorted(name for name in unexpected if ".layers." in name and "rotary_emb" not in name):
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        return f"the weights have {left[0]}{more}, for which kind {kind} of this config.json has no place; correct it"
    return ""


def on_meta(config) -> CausalLM:
    """The model of `config` without memory; whether it has the parts of its type is for `check` to say.

    Raises ValueError for a kind that `transformers` has no causal LM of."""
    with torch.device("meta"):
        try:
            net = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
        except Exception as error:  # whatever a config breaks in the code of its model
            raise refused(config, f"transformers makes no causal LM of its config ({first_line(error)})") from error
    return cast(CausalLM, net)


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _reasons(net: CausalLM) -> Iterator[str]:
    config = net.config
    if any("expert" in name for name, _ in net.named_modules()):
        yield "a mixture of experts is not supported, as nothing here balances the load of its experts"
    if getattr(config, "vision_config", None) or getattr(config, "audio_config", None):
        yield "a model of more than text is not supported; take the folder of its text model alone"
    for name, kind in PARTS.items():
        if not isinstance(getattr(getattr(net, "model", None), name, None), kind):
            yield f"it has no model.{name}, which a decoder of Llama's build has"
    if not isinstance(getattr(net, "lm_head", None), nn.Linear):
        yield "it has no lm_head"
    if net.lm_head.bias is not None:
        yield "its lm_head has a bias, which the chunked loss does not add"
    if more := [name for name, _ in net.named_children() if name not in ("model", "lm_head")]:
        yield f"it has {more[0]} beside its decoder and its head"
    if other := [layer for layer in net.model.layers if not hasattr(layer, "self_attn")]:
        yield f"layers such as {type(other[0]).__name__} have no attention and would carry one document of a row into the next"
