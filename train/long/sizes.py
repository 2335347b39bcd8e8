"""How many texts the long-context tasks of one language and length have: what a plan of the cost needs, and what is made."""

from __future__ import annotations

import math
from collections.abc import Sequence

ROWS = ("qa", "summary")
"""Tasks whose texts are the user's rows."""
KEYS = {"keys": 4, "pairs": 10, "absent": 4}
"""Keys in a text, each of which is asked for; of `absent` none is."""


def texts(task: str, samples: int, depths: int, every: Sequence[str]) -> int:
    """Texts of a task among `every` task that is asked. Questions about several keys share one, and so do `keys` and
    `absent`: those of the latter count for the former."""
    cells = samples * depths
    if task in ("keys", "pairs"):
        return max(math.ceil(cells / KEYS[task]), samples if task == "keys" and "absent" in every else 0)
    if task == "absent":
        return 0 if "keys" in every else samples
    return samples if task in ("values", "variables") else cells
