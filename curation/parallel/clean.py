"""Which pairs are translations of each other, as far as each pair says so by itself.

Length. The sizes of the sides are compared in words of any script (`curation.parallel.lengths`).

Language. The identifier must give the language that a side declares some probability, where the side has letters enough to
tell; its script must fit always.

Copy. The Jaccard similarity of the units of both sides: what was left untranslated is a copy, also with a word changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.shards import Kernel, ledger_rows
from curation.dedup.minhash import shingle_sets
from curation.lid import script
from curation.lid.identify import MIN_SCRIPT_SHARE, ModelName, load
from curation.lid.model import PREFIX_CHARS
from curation.lid.telltales import tell_apart
from curation.parallel.lengths import length_ratio
from curation.parallel.schema import STAGE, named

CLOSE = (("id", "ms", "jv", "su", "min"), ("tl", "ceb", "war", "ilo", "pam", "bcl"))
"""Languages that lid.176 takes for each other in a sentence: of 155 good Sundanese ones it gave 99 no chance to be so."""


@dataclass(frozen=True)
class Bounds:
    """What a pair may be. `min_score` is by language, `default` for the rest."""

    max_length_ratio: float = 2.5
    max_similarity: float = 0.8
    min_score: Mapping[str, float] = field(default_factory=lambda: {"default": 0.1})
    min_letters: int = 20


def similarity(a: pa.Array, b: pa.Array) -> np.ndarray:
    """The Jaccard similarity of the units of both sides, float64 [N]; 1 where neither has any."""
    found = np.ones(len(a))
    for i, (left, right) in enumerate(zip(shingle_sets(a, 1), shingle_sets(b, 1), strict=True)):
        if len(left) or len(right):
            both = len(np.intersect1d(left, right))
            found[i] = both / (len(left) + len(right) - both)
    return found


def scores(model: str | ModelName, texts: pa.Array, langs: list[str]) -> np.ndarray:
    """The probability that the identifier gives to the language that each text declares, float64 [N]; lid.176 to that and the
    languages `CLOSE` to it together."""
    loaded = load(model)
    best, probabilities, _ = loaded.predict(texts)
    close: dict[str, tuple[str, ...]] = {}
    if model == "lid.176":
        tell_apart(texts, loaded.labels, best, probabilities)
        close = {lang: group for group in CLOSE for lang in group}
    numbers = {label: number for number, label in enumerate(loaded.labels)}
    columns = {lang: [numbers[one] for one in close.get(lang, (lang,)) if one in numbers] for lang in set(langs)}
    return np.array([probabilities[i, columns[lang]].sum() for i, lang in enumerate(langs)], np.float64)


def cleaner(model: str | ModelName, bounds: Bounds) -> Kernel:
    """A kernel PAIR batch -> (pairs that stay, ledger): one row a pair, with the first rule that it breaks and the names of the
    others. Rules: `copy`, `language` and `script_mismatch`, whose detail names the side, `length_ratio`."""

    def kernel(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        if not batch.num_rows:
            return batch, ledger_rows(STAGE, [])
        broken: list[tuple[str, np.ndarray, np.ndarray, np.ndarray, list[str]]] = []
        n = batch.num_rows

        def bound(rule: str, wrong: np.ndarray, values: np.ndarray, limit: np.ndarray | float, side: list[str]) -> None:
            broken.append((rule, wrong, values, np.broadcast_to(np.asarray(limit, np.float64), n), side))

        a, b = batch["text_a"], batch["text_b"]
        ratio, alike = length_ratio(a, b), similarity(a, b)
        bound("copy", alike > bounds.max_similarity, alike, bounds.max_similarity, [""] * n)
        for texts, langs in ((a, batch["lang_a"].to_pylist()), (b, batch["lang_b"].to_pylist())):
            found = scores(model, texts, langs)
            least = np.array([bounds.min_score.get(lang, bounds.min_score["default"]) for lang in langs])
            told = pc.count_substring_regex(texts, r"\p{L}").to_numpy(zero_copy_only=False) >= bounds.min_letters
            bound("language", told & (found < least), found, least, langs)
            share = script.share(texts, langs, PREFIX_CHARS)
            wanted = np.array([MIN_SCRIPT_SHARE.get(lang, MIN_SCRIPT_SHARE["default"]) for lang in langs])
            bound("script_mismatch", share < wanted, share, wanted, langs)
        bound("length_ratio", ratio > bounds.max_length_ratio, ratio, bounds.max_length_ratio, [""] * n)
        gone = np.any([wrong for _, wrong, *_ in broken], axis=0)
        rows = []
        for i in np.flatnonzero(gone).tolist():
            (rule, _, values, limit, side), *others = [one for one in broken if one[1][i]]
            also = ", ".join(dict.fromkeys(one[0] for one in others if one[0] != rule))
            said = "; ".join(filter(None, (side[i], also and f"also {also}")))
            cells = {"rule": rule, "value": float(values[i]), "threshold": float(limit[i])}
            rows.append({**named(batch, i), **cells, "detail": said or None})
        return batch.filter(pa.array(~gone)), ledger_rows(STAGE, rows)

    return kernel
