"""Floating-point operations of training a Qwen2-shaped model, and the share of a device's peak that they are (MFU).

Per token, forward and backward: 6 N + 6 L (H d) 2 T, with N the parameters in matrix products (the output matrix counts,
the embedding look-up does not), L layers, H heads of size d, context T. Attention is counted as if it were not causal, as
torchtitan does, so numbers compare; a document mask does less work than this says.
"""

from __future__ import annotations

from collections.abc import Mapping

PEAK = {"B200": 2250e12, "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10G": 70e12}
"""Dense bf16 operations per second by a part of the device's name (vendors' data sheets)."""


def matmul_parameters(shape: Mapping, vocab_size: int) -> int:
    """Parameters that every token is multiplied with."""
    hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
    kv = hidden // heads * shape["num_key_value_heads"]
    layer = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * shape["intermediate_size"]
    return shape["num_hidden_layers"] * layer + hidden * vocab_size


def parameters(shape: Mapping, vocab_size: int) -> int:
    """All parameters: matrices, biases of q, k and v, norms, embeddings (twice when the head has its own)."""
    hidden, heads, layers = shape["hidden_size"], shape["num_attention_heads"], shape["num_hidden_layers"]
    kv = hidden // heads * shape["num_key_value_heads"]
    small = layers * (hidden + 2 * kv + 2 * hidden) + hidden
    embedding = 0 if shape["tie_word_embeddings"] else hidden * vocab_size
    return matmul_parameters(shape, vocab_size) + embedding + small


def per_token(shape: Mapping, vocab_size: int, context: int) -> float:
    """Operations of one token in training.

    >>> shape = dict(hidden_size=896, num_hidden_layers=48, num_attention_heads=14, num_key_value_heads=2,
    ...              intermediate_size=4864, tie_word_embeddings=False)
    >>> round(per_token(shape, 151_936, 4096) / 1e9, 2)
    7.22
    """
    attention = 12 * shape["num_hidden_layers"] * shape["hidden_size"] * context
    return 6.0 * matmul_parameters(shape, vocab_size) + attention


def peak(device_name: str) -> float | None:
    """Peak of a device by its name, None for one that is not in the table (a CPU)."""
    return next((flops for name, flops in PEAK.items() if name in device_name), None)
