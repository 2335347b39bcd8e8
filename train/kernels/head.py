"""What stands between a decoder's last hidden state and its logits, read from the config of the model.

    logits = cap tanh(x / cap),   x = scale * (W h)

Cohere multiplies by `logit_scale`, Granite divides by `logits_scaling`, Gemma caps by `final_logit_softcapping`; the others have
neither. The losses (train/kernels/cross_entropy.py) apply W themselves, so all who read hidden states take them from here.
"""

from __future__ import annotations

from torch import Tensor

from train.batches.decoder import CausalLM
from train.kernels import cross_entropy


def scale(model: CausalLM) -> float:
    """The factor of the logits; 1 where the model has none."""
    config = model.config
    times, parts = getattr(config, "logit_scale", None), getattr(config, "logits_scaling", None)
    return float(times or 1.0) / float(parts or 1.0)


def softcap(model: CausalLM) -> float | None:
    """The bound of the logits, None where they have none."""
    cap = getattr(model.config, "final_logit_softcapping", None)
    return float(cap) if cap else None


def scaled(model: CausalLM, hidden: Tensor) -> Tensor:
    """`hidden` times the factor of the logits: its product with W is x."""
    factor = scale(model)
    return hidden if factor == 1.0 else hidden * factor


def logits(model: CausalLM, hidden: Tensor) -> Tensor:
    """The whole logits of `hidden` [..., D], fp32 [..., V]."""
    return capped((scaled(model, hidden) @ model.lm_head.weight.T).float(), softcap(model))


def token_logprobs(model: CausalLM, hidden_BTD: Tensor, labels_BT: Tensor) -> Tensor:
    """log p(label) of every position [B, T] in fp32, 0 where the label is -100. Differentiable."""
    weight_VD = model.lm_head.weight
    return cross_entropy.token_logprobs(scaled(model, hidden_BTD), weight_VD, labels_BT, softcap=softcap(model))


def capped(x: Tensor, cap: float | None) -> Tensor:
    return x if cap is None else cap * (x / cap).tanh()
