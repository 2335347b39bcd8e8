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


def rounds(config, target: Target, count: int) -> list[Target]:
    """The shapes on the way from `config` to `target` in so many rounds of pruning and healing, in equal parts as far as shapes
    allow: whole heads of each KV group, FFN width and a free hidden width in eights. The last is `target`.

    Raises ValueError where a round would remove nothing."""
    groups, tied = config.num_key_value_heads, getattr(config, "head_dim", None) is None

    def between(before: int, after: int, number: int, unit: int) -> int:
        return before - (before - after) * number // count // unit * unit

    found = []
    for number in range(1, count):
        heads = between(config.num_attention_heads, target.num_attention_heads, number, groups)
        hidden = between(config.hidden_size, target.hidden_size, number, 8)
        ffn = between(config.intermediate_size, target.intermediate_size, number, 8)
        found.append(Target(heads * head_width(config) if tied else hidden, heads, ffn))
    return checked(config, [*found, target])


def checked(config, targets: list[Target]) -> list[Target]:
    """`targets`, of rounds that follow one another. Raises ValueError where a model of `config` cannot be pruned to them, or a
    round would remove nothing or give back what one before has removed."""
    before = Target(config.hidden_size, config.num_attention_heads, config.intermediate_size)
    for number, one in enumerate(targets, 1):
        one.check(config)
        if len(targets) > 1 and one == before:
            raise ValueError(
                f"Pruning in {len(targets)} steps would remove nothing in step {number}; take fewer steps."
            )
        if more := next((name for name, size in vars(one).items() if size > vars(before)[name]), None):
            raise ValueError(
                f"Pruning step {number} has a larger {more} than the step before; it can only become smaller."
            )
        before = one
    return targets


def head_width(config) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
