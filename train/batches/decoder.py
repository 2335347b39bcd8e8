"""The parts of a decoder of `transformers` that this package reaches into, with their types.

Qwen2, Qwen3 and Llama have them all, but to a type checker a part of a module is `Tensor | Module`. These classes are never
made: `train.model` gives out models of `transformers` under their names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, Qwen2Config


class Attention(nn.Module):
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    o_proj: nn.Linear
    head_dim: int
    layer_idx: int


class FeedForward(nn.Module):
    gate_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear


class Norm(nn.Module):
    weight: Tensor
    variance_epsilon: float


class Layer(nn.Module):
    input_layernorm: Norm
    self_attn: Attention
    post_attention_layernorm: Norm
    mlp: FeedForward


class Body(nn.Module):
    embed_tokens: nn.Embedding
    layers: nn.ModuleList
    norm: Norm
    vocab_size: int


class Decoder(nn.Module):
    """A body; its head is a subclass's."""

    model: Body
    config: Qwen2Config
    dtype: torch.dtype
    all_tied_weights_keys: dict[str, str]
    generation_config: GenerationConfig
    can_generate: Callable[[], bool]
    save_pretrained: Callable[..., None]


class CausalLM(Decoder):
    lm_head: nn.Linear
    vocab_size: int
    generate: Callable[..., Tensor]
    tie_weights: Callable[[], None]


class RewardModel(Decoder):
    score: nn.Linear
    num_labels: int


def kv_heads(config: Qwen2Config) -> int:
    """Heads of keys and values; only a config that is not made yet may leave them out."""
    assert config.num_key_value_heads is not None
    return config.num_key_value_heads


def layers_of(model: Decoder) -> list[Layer]:
    """The layers from the input's side on; the list is a copy."""
    return [cast(Layer, layer) for layer in model.model.layers]
