"""What a layer keeps until its backward pass, by hand: tests hold what is measured against it."""


def per_token(config, mode: str, number: int) -> float:
    """Bytes that a Qwen2-shaped layer keeps of a token until its backward pass, with products of `number` bytes (uncompiled).

    With width D, queries Q, keys (or values) K, feed-forward F: "none" keeps both norms' input in fp32 (8 D), their outputs
    before and after the gain (4 D), queries, attention's output and its copy in rows (3 Q), keys and values (2 K), gate, its
    SiLU, up and their product (4 F); "selective" the layer's input, attention's output, q, v and gate; "full" the input.
    """
    D, F = config.hidden_size, config.intermediate_size
    width = getattr(config, "head_dim", None) or D // config.num_attention_heads
    Q, K = config.num_attention_heads * width, config.num_key_value_heads * width
    if mode == "none":
        return 8 * D + number * (4 * D + 3 * Q + 2 * K + 4 * F)
    return number * (D + 2 * Q + K + F if mode == "selective" else D)
