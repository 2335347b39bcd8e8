"""What the rotation of positions depends on beside their distance.

The angle between a query and a key depends on their distance alone, so a document may stand anywhere in a row. Two things break
that. `longrope` and `dynamic` change all angles once a row is longer than a bound, so that a short document in a long row would
be read as a part of a long text; Ministral 3 scales queries by their place in the row (`llama_4_scaling_beta`). And `longrope`,
`dynamic` and `yarn` compute their factors from `max_position_embeddings`.
"""

from __future__ import annotations

FIXED = ("default", "linear", "llama3", "proportional")  # read neither the row's length nor max_position_embeddings
OF_THE_ROW = ("longrope", "dynamic")


def types(config) -> set[str]:
    """The kinds of rotation that layers of a model have."""
    found = getattr(config, "rope_parameters", None) or {}
    each = [found, *found.values()] if isinstance(found, dict) else []
    names = (one.get("rope_type") or one.get("type") for one in each if isinstance(one, dict))
    return {name for name in names if name}


def by_distance_alone(config) -> bool:
    """Whether `max_position_embeddings` may be changed without changing what the model computes."""
    return types(config) <= set(FIXED)


def longest_row(config) -> int | None:
    """The longest row in which a short document is still read as one; None where there is no bound."""
    found = getattr(config, "rope_parameters", None) or {}
    if not types(config) & set(OF_THE_ROW) and not found.get("llama_4_scaling_beta"):
        return None
    own = found.get("original_max_position_embeddings") if "dynamic" not in types(config) else None
    return own or getattr(config, "original_max_position_embeddings", None) or config.max_position_embeddings
