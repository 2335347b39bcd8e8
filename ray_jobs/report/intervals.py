"""How much two models differ in bits per byte on the same held-out documents, and how sure that is.

Documents are resampled with replacement, both models' bits of a document together (a paired bootstrap, Efron and Tibshirani
1993, chapter 16), those of each language by themselves. Percentiles of so few documents are too narrow. So the interval is
the difference ± Student's t times the bootstrap's standard error, this times sqrt(n / (n - 1)), which the resampling of n
documents lacks (Hesterberg 2015, section 4.1); degrees of freedom of several languages by Welch and Satterthwaite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from cluster import storage
from ray_jobs.run import adopted
from ray_jobs.run.graph import EVALUATE

RESAMPLES = 2000
SEED = 0
LEVEL = 0.95
NOISE = 0.01  # bits per byte; documents are resampled but not seeds, so a change smaller than this is called none


class Change(NamedTuple):
    """`value`: bits per byte of one model less those of another, the mean over languages; None as bounds: nobody knows."""

    value: float
    low: float | None
    high: float | None
    documents: int

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out 0, and the change is more than noise."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high and not self.small

    @property
    def small(self) -> bool:
        return abs(self.value) < NOISE

    def __str__(self) -> str:
        """
        >>> print(Change(-0.5134, -0.61, -0.4, 12))
        -0.513 (95 % interval -0.610 to -0.400)
        """
        if self.low is None:
            return f"{self.value:+.3f} (too few documents for an interval)"
        return f"{self.value:+.3f} (95 % interval {self.low:+.3f} to {self.high:+.3f})"


class Documents:
    """Bits of each held-out document under each model: rows of evaluate/documents.parquet."""

    def __init__(self, rows: Sequence[dict]):
        self._found: dict[tuple[str, str], dict[str, tuple[float, int]]] = {}
        for row in rows:
            self._found.setdefault((row["model"], row["lang"]), {})[row["doc_id"]] = (row["bits"], row["bytes"])

    def of(self, model: str, lang: str) -> np.ndarray:
        """float64 [D, 2]: bits and bytes of each document, in the order of their ids."""
        return np.array([pair for _, pair in sorted(self._found.get((model, lang), {}).items())], np.float64)


def read(uri: str) -> Documents:
    """Those of the run at `uri`; none where evaluate has not written them."""
    path = adopted.path(uri, EVALUATE, "documents.parquet")
    return Documents(storage.read_table(path).to_pylist() if storage.exists(path) else [])


def change(evaluation: dict, documents: Documents, before: str, after: str, langs: Sequence[str]) -> Change:
    """Bits per byte of the model `after` less those of `before`, the mean over `langs`. `evaluation`: evaluate/metrics.json."""
    bpb, sizes = evaluation["bits_per_byte"], evaluation.get("heldout", {})
    value = float(np.mean([bpb[after][lang] - bpb[before][lang] for lang in langs]))
    n = sum(sizes.get(lang, {}).get("documents", 0) for lang in langs)
    errors, freedoms = [], []
    for lang in langs:
        old, new = documents.of(before, lang), documents.of(after, lang)
        if len(old) < 2 or len(old) != len(new):
            return Change(value, None, None, n)
        errors.append(_error(new[:, 0] - old[:, 0], old[:, 1]))
        freedoms.append(len(old) - 1)
    variances = np.square(errors)
    total = variances.sum()
    if not total:
        return Change(value, value, value, n)
    freedom = total**2 / (variances**2 / freedoms).sum()
    reach = float(stdtrit(freedom, (1 + LEVEL) / 2) * np.sqrt(total) / len(langs))
    return Change(value, value - reach, value + reach, n)


def _error(bits_D: np.ndarray, bytes_D: np.ndarray) -> float:
    """Standard error of sum(bits) / sum(bytes) over documents."""
    n = len(bits_D)
    drawn_RD = np.random.default_rng(SEED).integers(n, size=(RESAMPLES, n))
    ratio_R = bits_D[drawn_RD].sum(1) / bytes_D[drawn_RD].sum(1)
    return float(ratio_R.std() * np.sqrt(n / (n - 1)))
