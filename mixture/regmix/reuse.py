"""A mixture that is kept when pools are added: its ratios stay, and only the shares of the new pools are sought.

Olmix (Chen et al. 2026, arXiv 2602.12237) finds that this matches a search over all pools at a quarter of its compute. The
old pools are one, `KEPT`, to the draws, the regression and the search; so the proxies that chose the ratios are not trained
again, and few new ones are needed: a few for each new pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from cluster import storage

KEPT = "kept mixture"


class Reuse:
    """`ratios`: language -> its part of the kept mixture, summing to 1; `new`: the other languages. `names`: the columns of
    folded mixtures."""

    def __init__(self, weights: Mapping[str, float], languages: Iterable[str]) -> None:
        """`weights` of the old pools, on any scale. Raises ValueError when these are not all there, or nothing is new."""
        languages = sorted(languages)
        kept = {name.rsplit("/", maxsplit=1)[-1]: weight for name, weight in weights.items() if weight > 0}
        if gone := sorted(set(kept) - set(languages)):
            raise ValueError(f"the mixture to reuse reads {', '.join(gone)}, of which this run has no tokens")
        self.new = [lang for lang in languages if lang not in kept]
        if not kept or not self.new:
            raise ValueError("every language is in the mixture to reuse; leave `reuse` out, or give more proxies")
        total = sum(kept.values())
        self.ratios = {lang: weight / total for lang, weight in sorted(kept.items())}
        self.names = sorted([KEPT, *self.new])
        self._domains = languages

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sizes, or weights, with those of the kept pools added up."""
        kept = sum(values[lang] for lang in self.ratios)
        return {name: kept if name == KEPT else values[name] for name in self.names}

    def caps(self, bounds: Mapping[str, float]) -> dict[str, float]:
        """Upper bounds of weights; the kept mixture's is where the first of its pools meets its own."""
        kept = min(1.0, *(bounds[lang] / ratio for lang, ratio in self.ratios.items()))
        return {name: kept if name == KEPT else bounds[name] for name in self.names}

    def floors(self, bounds: Mapping[str, float]) -> dict[str, float]:
        """Lower bounds of the new pools' weights: the others keep their ratios."""
        return {name: bounds.get(name, 0.0) for name in self.new}

    def fold(self, weights_ND: np.ndarray) -> np.ndarray:
        """Mixtures of all languages, in the order of their names, as those of `names`."""
        kept_N = weights_ND[:, [self._domains.index(lang) for lang in self.ratios]].sum(axis=1)
        columns = [kept_N if name == KEPT else weights_ND[:, self._domains.index(name)] for name in self.names]
        return np.stack(columns, axis=1)

    def unfold(self, folded_ND: np.ndarray) -> np.ndarray:
        """The mixtures of all languages that these of `names` are."""
        kept_N = folded_ND[:, self.names.index(KEPT)]
        columns = [
            kept_N * self.ratios[lang] if lang in self.ratios else folded_ND[:, self.names.index(lang)]
            for lang in self._domains
        ]
        return np.stack(columns, axis=1)


def read(uri: str, languages: Iterable[str]) -> Reuse:
    """What the `weights.json` of another run's stage regmix/weights, at `uri`, keeps. Raises ValueError."""
    found = storage.read_json(uri)
    weights = found.get("weights", found) if isinstance(found, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, int | float) for value in weights.values()):
        raise ValueError(f"{uri}: weights are a JSON object of language: number, as RegMix writes it")
    return Reuse(weights, languages)
