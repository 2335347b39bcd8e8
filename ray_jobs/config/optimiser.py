"""The section of an optimiser, which every stage that trains has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cluster.strict_yaml import Positive, Rate, Section


class Optimiser(Section):
    """One training run of the loop. `rows` are packed sequences (or preference pairs) per optimiser step."""

    rows_per_step: Positive
    micro_rows: Positive = 8
    lr: Rate
    min_lr: Annotated[float, Field(ge=0.0)] = 0.0
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: Rate = 1e-8
    clip: Rate = 1.0
    checkpoint_every: Annotated[int, Field(ge=0)] = 50  # steps; 0 = only at the end
