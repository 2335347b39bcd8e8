"""Floating-point operations of training a decoder, and the share of a device's peak that they are (MFU).

Per token, forward and backward, with N the parameters in matrix products (the output matrix counts, the embedding look-up
does not), L layers, H heads of size d, context T, three counts, as they are all in use:

    mfu_6n    6 N                                   Kaplan et al. 2020; attention is left out
    mfu       6 N + 6 L (H d) 2 T                   PaLM (arXiv 2204.02311, appendix B) and torchtitan: as if not causal
    mfu_doc   what has to be computed: 2 per weight forward, 2 for its input's and 2 for its own gradient where there is
              one (frozen layers have none), and 12 H d for each pair of positions that the mask lets see each other

Recomputed activations count nowhere. The first two flatter long rows of short documents, the last does not.

Axes: B row, T position.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from train.batches.decoder import Decoder, layers_of

PEAK = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "H100 PCIe": 756e12,
    "H20": 148e12,
    "A100": 312e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "MI300X": 1307e12,
}
"""Dense bf16 operations per second by a part of the device's name (vendors' data sheets); the longest match counts."""


def matmul_parameters(shape: Mapping, vocab_size: int) -> int:
    """Parameters that every token is multiplied with. `shape` are the fields of a config; of a model that is not built like Qwen2
    it also has `layer_matrices`, the parameters in matrices of one layer (`shape_of`)."""
    hidden = shape["hidden_size"]
    queries, kv = attention_widths(shape)
    layer = shape.get("layer_matrices")
    if layer is None:
        layer = 2 * hidden * queries + 2 * hidden * kv + 3 * hidden * shape["intermediate_size"]
    return shape["num_hidden_layers"] * layer + hidden * vocab_size


def parameters(shape: Mapping, vocab_size: int) -> int:
    """All parameters: matrices, biases of q, k and v, norms, embeddings (twice when the head has its own)."""
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    queries, kv = attention_widths(shape)
    vectors = shape.get("layer_vectors")
    small = layers * (queries + 2 * kv + 2 * hidden if vectors is None else vectors) + hidden
    embedding = 0 if shape["tie_word_embeddings"] else hidden * vocab_size
    return matmul_parameters(shape, vocab_size) + embedding + small


def attention_widths(shape: Mapping) -> tuple[int, int]:
    """(width of all queries, of all keys or values)."""
    heads = shape["num_attention_heads"]
    width = shape.get("head_dim") or shape["hidden_size"] // heads
    return heads * width, (shape.get("num_key_value_heads") or heads) * width


def shape_of(net: Decoder) -> dict:
    """The `shape` of a model, also one on the meta device: its config, and the parameters of a layer."""
    matrices = [p.numel() for p in layers_of(net)[0].parameters() if p.ndim > 1]
    vectors = [p.numel() for p in layers_of(net)[0].parameters() if p.ndim < 2]
    return net.config.to_dict() | {"layer_matrices": sum(matrices), "layer_vectors": sum(vectors)}


def per_token(shape: Mapping, vocab_size: int, context: int) -> float:
    """Operations of one token in training.

    >>> shape = dict(hidden_size=896, num_hidden_layers=48, num_attention_heads=14, num_key_value_heads=2,
    ...              intermediate_size=4864, tie_word_embeddings=False)
    >>> round(per_token(shape, 151_936, 4096) / 1e9, 2)
    7.22
    """
    return in_documents(shape, vocab_size, context)


def in_documents(shape: Mapping, vocab_size: int, attended: float) -> float:
    """The same where a token attends to so many positions on average: half of its document's length, under a causal mask."""
    attention = 12 * shape["num_hidden_layers"] * attention_widths(shape)[0] * attended
    return 6.0 * matmul_parameters(shape, vocab_size) + attention


def peak(device_name: str) -> float | None:
    """Peak of a device by its name, None for one that is not in the table (a CPU)."""
    found = [name for name in PEAK if name in device_name]
    return PEAK[max(found, key=len)] if found else None


def attention_pairs(doc_ids_BT: Tensor) -> int:
    """Pairs of positions of which the later one attends to the other (or to itself): causal, within documents."""
    here_T = torch.arange(doc_ids_BT.shape[1])
    first_BT = torch.zeros_like(doc_ids_BT)
    first_BT[:, 1:] = torch.where(doc_ids_BT[:, 1:] != doc_ids_BT[:, :-1], here_T[1:], 0)
    return int((here_T - first_BT.cummax(1).values + 1).sum())


def attended(batch: dict[str, Tensor]) -> int:
    """Pairs of positions of a micro-batch of which one attends to the other, as its mask says: documents, or answers that also
    attend to the prompt that they share (train/methods/shared_prompts.py)."""
    if "doc_ids" not in batch:
        return 0
    pairs, docs_N = attention_pairs(batch["doc_ids"]), batch["doc_ids"].flatten()
    if "example_ids" in batch:
        answers_N = docs_N[docs_N % 3 > 0]
        pairs += int(torch.bincount(docs_N)[answers_N - answers_N % 3].sum())
    return pairs


def of_step(model: Decoder) -> tuple[float, float]:
    """(operations per token, operations per attended pair) of one forward and backward pass of a decoder, with a
    language head or a reward head.

    A gradient is counted where autograd computes it: of a weight that is trained, of an input that one comes before.
    """

    def trained(*modules: nn.Module) -> bool:
        return any(p.requires_grad for module in modules for p in module.parameters())

    def product(module: nn.Linear) -> float:
        found = 2.0 * module.weight.numel() * (1 + module.weight.requires_grad + flows)
        more = getattr(module, "more_operations", None)  # of a layer of which a part learns
        return found + more(flows) if more else found

    body, config = model.model, model.config
    layers = layers_of(model)
    width = config.num_attention_heads * layers[0].self_attn.head_dim
    flows = trained(body.embed_tokens)
    per_token = per_pair = 0.0
    for layer in layers:
        # a model without one of the norms, or with more, counts the same: a norm is no product
        for norm, branch, last in (
            ("input_layernorm", layer.self_attn, "o_proj"),
            ("post_attention_layernorm", layer.mlp, "down_proj"),
        ):
            linear = {name: module for name, module in branch.named_children() if isinstance(module, nn.Linear)}
            out = linear.pop(last)
            flows = flows or (hasattr(layer, norm) and trained(getattr(layer, norm)))
            per_token += sum(product(module) for module in linear.values())
            flows = flows or trained(*linear.values())
            if branch is layer.self_attn:
                per_pair += 4.0 * width * (1 + 2 * flows)
            per_token += product(out)
            flows = flows or trained(out)
    flows = flows or trained(body.norm)
    if isinstance(
        head := getattr(model, "lm_head", None), nn.Linear
    ):  # a reward model's head is multiplied with the last position alone
        per_token += product(head)
    return per_token, per_pair
