"""Block expansion: a deeper model that computes exactly what the base computes (LLaMA-Pro, arXiv 2401.02415; Sailor2 §4.1).

With E new layers over L, after each group of L / E layers a clone of the group's last layer is inserted whose two output
projections are zero. A layer is x + attention(x), then x + mlp(x); the clone's branches give exact zeros, so logits are
equal bit for bit in any precision. At the first update only the zero matrices have a gradient, from the second on all do.
Where a norm follows the projections (Gemma 2, OLMo 2), its gain is made zero and they stay: the gradient through the norm of
a zero would be 1 / sqrt(eps) times too large.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from train.batches.decoder import CausalLM, Layer, layers_of

TRAINABLE = ("all", "new_blocks")
BRANCHES, OUTPUTS = ("self_attn", "mlp"), ("o_proj", "down_proj")
AFTER = (
    ("post_attention_layernorm", "post_feedforward_layernorm"),  # Gemma 2 and 3, OLMo 2 and 3
    ("post_self_attn_layernorm", "post_mlp_layernorm"),  # GLM-4
)
"""Norms of what attention and feed-forward give out, before it is added; where a layer has both."""
PER_LAYER = {"layer_types", "no_rope_layers"}
"""Fields of a config with one value a layer."""


def expand(
    model: CausalLM, new_layers: int, trainable: str = "all", *, untie: bool = False, vocab_size: int | None = None
) -> CausalLM:
    """Insert `new_layers` zero-output clones into a causal LM, in place, and return it.

    `untie` gives the head its own copy of the embedding matrix. `vocab_size` cuts padding rows off embedding and head.
    `trainable`: "all" as Sailor2, or "new_blocks" as LLaMA-Pro, which freezes the rest.
    Raises ValueError when the layers cannot be grouped evenly, or a vocabulary would grow.
    """
    if new_layers:
        _insert(model, new_layers)
    if untie and model.config.tie_word_embeddings:
        model.lm_head.weight = nn.Parameter(model.model.embed_tokens.weight.detach().clone())
        model.config.tie_word_embeddings = False
        model.all_tied_weights_keys = {}
    if vocab_size is not None:
        _cut_vocabulary(model, vocab_size)
    set_trainable(model, new_layers, trainable)
    return model


def inserted(layers: int, new_layers: int) -> list[int]:
    """Indices, in the model of `layers` layers in all, of those that `expand(…, new_layers)` inserted."""
    if not new_layers:
        return []
    group = layers // new_layers
    return list(range(group - 1, layers, group))


def set_trainable(model: CausalLM, new_layers: int, trainable: str) -> None:
    """Choose the parameters that get gradients in an expanded model, also one that was saved and loaded again."""
    if trainable not in TRAINABLE:
        raise ValueError(f"trainable must be one of {', '.join(TRAINABLE)}, not {trainable!r}.")
    if trainable == "new_blocks" and not new_layers:
        raise ValueError("trainable='new_blocks' needs new layers, but none were added.")
    model.requires_grad_(trainable == "all")
    if trainable == "new_blocks":
        for index in inserted(len(model.model.layers), new_layers):
            model.model.layers[index].requires_grad_(True)


def _insert(model: CausalLM, new_layers: int) -> None:
    config, old = model.config, layers_of(model)
    if new_layers < 0 or new_layers > len(old) or len(old) % new_layers:
        raise ValueError(
            f"{new_layers} new layers cannot be spread evenly over {len(old)} layers; the number must divide {len(old)}."
        )
    group = len(old) // new_layers
    layers: list[Layer] = []
    sources: list[int] = []  # of each layer the old one that it is or follows
    for index, layer in enumerate(old):
        layers.append(layer)
        sources.append(index)
        if (index + 1) % group == 0:
            clone = copy.deepcopy(layer, {id(config): config})  # the clone shares the one config
            _silence(clone)
            layers.append(clone)
            sources.append(index)
    for index, layer in enumerate(layers):
        for module in (layer, layer.self_attn):
            if hasattr(module, "layer_idx"):
                module.layer_idx = index  # its slot in the KV cache
    model.model.layers = nn.ModuleList(layers)
    each = {name: value for name, value in vars(config).items() if isinstance(value, list) and len(value) == len(old)}
    config.num_hidden_layers = len(layers)
    if getattr(config, "max_window_layers", None) is not None:
        config.max_window_layers += min(config.max_window_layers, len(old)) // group
    for name in each.keys() & PER_LAYER:
        setattr(config, name, [each[name][index] for index in sources])


@torch.no_grad()
def _silence(layer: nn.Module) -> None:
    """Make the outputs of both branches of a layer exact zeros. Raises ValueError for a layer of another build."""
    after = next((names for names in AFTER if all(hasattr(layer, name) for name in names)), None)
    for branch, last, norm in zip(BRANCHES, OUTPUTS, after or (None, None), strict=True):
        projection = getattr(getattr(layer, branch, None), last, None)
        if not isinstance(projection, nn.Linear):
            raise ValueError(
                f"expand: {type(layer).__name__} has no {branch}.{last}, so no silent copy of it can be made."
            )
        if norm is not None:
            gain = getattr(layer, norm).weight
            gain.zero_()
            if not gain.is_meta and getattr(layer, norm)(torch.ones_like(gain)).any():  # Gemma's gain is 1 + w
                gain.fill_(-1.0)
            continue
        for parameter in projection.parameters():
            parameter.zero_()


def _cut_vocabulary(model: CausalLM, vocab_size: int) -> None:
    embedding = model.model.embed_tokens
    if vocab_size > embedding.num_embeddings:
        raise ValueError(
            f"The vocabulary can be cut, not grown: it has {embedding.num_embeddings} rows, not {vocab_size}."
        )
    weight = nn.Parameter(embedding.weight.detach()[:vocab_size].clone())
    head = model.lm_head.weight
    model.lm_head.weight = weight if head is embedding.weight else nn.Parameter(head.detach()[:vocab_size].clone())
    embedding.weight = weight
    embedding.num_embeddings = model.lm_head.out_features = vocab_size
    model.config.vocab_size = model.vocab_size = model.model.vocab_size = vocab_size
