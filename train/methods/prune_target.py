"""The shape that a model is pruned to, and whether it can be; without PyTorch, as a run asks before its first stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """The shape to prune to. Everything else stays as it is in the source model."""

    hidden_size: int
    num_attention_heads: int
    intermediate_size: int

    def check(self, config) -> None:
        """Raises ValueError when a model of `config` cannot be pruned to this shape."""
        for name in ("hidden_size", "num_attention_heads", "intermediate_size"):
            if not 0 < getattr(self, name) <= getattr(config, name):
                raise ValueError(f"Pruning target {name} must be from 1 to the model's {getattr(config, name)}.")
        if self.num_attention_heads % config.num_key_value_heads:
            raise ValueError(
                f"Pruning target num_attention_heads {self.num_attention_heads} must be a multiple of the model's "
                f"{config.num_key_value_heads} KV heads, which all stay."
            )
        head_dim = head_width(config)
        if getattr(config, "head_dim", None) is None and self.hidden_size != self.num_attention_heads * head_dim:
            raise ValueError(
                f"Pruning target hidden_size {self.hidden_size} must be num_attention_heads x head width, "
                f"{self.num_attention_heads} x {head_dim} = {self.num_attention_heads * head_dim}."
            )


def head_width(config) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
