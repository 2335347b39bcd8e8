"""What pruning does to each language: bits per byte of held-out text before, after the masks, and after healing.

    damage(language) = bits per byte healed - bits per byte before

A mean hides it: pruning takes first what few tokens of the healing need, so a language with little text may lose several times
as much as another.
"""

from __future__ import annotations

from typing import TypedDict


class Damage(TypedDict):
    """Bits per byte of one language."""

    before: float
    masks: float
    healed: float


def by_language(before: dict[str, float], masks: dict[str, float], healed: dict[str, float]) -> dict[str, Damage]:
    """The worst damage first; languages that are measured in all three."""
    both = before.keys() & masks.keys() & healed.keys()
    found: dict[str, Damage] = {
        lang: {"before": before[lang], "masks": masks[lang], "healed": healed[lang]} for lang in both
    }
    return dict(sorted(found.items(), key=lambda item: (item[1]["before"] - item[1]["healed"], item[0])))


def since(before: dict[str, float], found: dict[str, Damage]) -> dict[str, Damage]:
    """The same beside a model of earlier rounds."""
    return by_language(
        before,
        {lang: one["masks"] for lang, one in found.items()},
        {lang: one["healed"] for lang, one in found.items()},
    )


def warnings(found: dict[str, Damage], alarm: float) -> list[str]:
    """One sentence on the languages that are left with more than `alarm` bits per byte more than before, or none."""
    lost = {lang: one["healed"] - one["before"] for lang, one in found.items() if one["healed"] - one["before"] > alarm}
    if not lost:
        return []
    said = ", ".join(f"{lang} {value:.3f}" for lang, value in lost.items())
    return [
        f"pruning has cost these languages more than {alarm:g} bits per byte, healed: {said}; more heal_tokens, a larger share "
        "of them in the mixture, or a larger target helps."
    ]
