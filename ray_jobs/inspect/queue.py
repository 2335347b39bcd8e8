"""What an annotator judges next.

Every text of the sample is in the queue once, whatever layers it stands for, in an order that depends on nothing that the text
is: so it does not tell whether a text was kept, and whatever part is judged is a random one. A fifth of the texts is for all
annotators, in one order for all, so agreement is measured from the first day; each other one is for whoever comes to it first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import xxhash

OVERLAP = 0.2


def shared(key: str) -> bool:
    """Whether the text is for all annotators."""
    return _rank("shared", key) < OVERLAP * (1 << 64)


def order(keys: Iterable[str], name: str) -> list[str]:
    """The texts in the order of this annotator: those for all spread evenly among the others."""
    places: list[tuple[float, str]] = []
    every = set(keys)
    together = {key for key in every if shared(key)}
    for group, seed in ((together, "order"), (every - together, f"order of {name}")):
        ranked = sorted(group, key=lambda key: (_rank(seed, key), key))
        places += [((number + 0.5) / len(ranked), key) for number, key in enumerate(ranked)]
    return [key for _, key in sorted(places)]


def waiting(ordered: Iterable[str], mine: Mapping[str, object], others: Collection[str]) -> list[str]:
    """What is left for an annotator: not judged by `mine`, nor, unless it is for all, by anybody else."""
    return [key for key in ordered if key not in mine and (key not in others or shared(key))]


def _rank(seed: str, key: str) -> int:
    return xxhash.xxh3_64_intdigest(f"{seed}\0{key}".encode())
