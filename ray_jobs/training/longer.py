"""The rotation of positions that `train.long_context` gives a model."""

from __future__ import annotations

from ray_jobs.config.given import given
from ray_jobs.config.training import Train
from train.bases import rotation as rotations
from train.bases.rotation import Rotation


def rotation(train: Train, config) -> tuple[Rotation | None, str]:
    """What a model of `config` gets, None where it keeps its own, and a warning or nothing. YaRN stretches `train.context`
    positions where the recipe says no others.

    Raises ValueError for one that cannot have another (said before the run by ray_jobs/run/bases.py)."""
    own, found = given(train.long_context), None
    if rope := own.rope:
        theta = None if rope.theta == "auto" else rope.theta
        original = rope.original_max_position_embeddings or train.context
        found = rotations.settled(config, own.context, theta, rope.factor, original)
    said = rotations.warning(config, own.context, found)
    mend = (
        "set rope.factor and rope.original_max_position_embeddings"
        if found and found.factor
        else "rope.theta: auto takes enough"
    )
    return found, f"long_context: {said}; {mend}" if said else ""
