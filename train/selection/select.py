"""Choosing examples for SFT stage 2: good answers that the base model finds surprising, and not twice the same.

Within each cell (language, category), Sailor2 §5.1:

    r, p = percentiles in the cell of the reward and of the answer's perplexity under the base model
    s    = r p / (r + p),  0 when both are 0          (half their harmonic mean)

Candidates are taken by descending s; one whose embedding has a cosine above `max_cosine` with any already taken is
skipped (`train/selection/diverse.py`); a cell ends at its quota.

Axes: N candidates, E embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from train.selection.diverse import greedy


@dataclass(frozen=True)
class Decision:
    """What became of one candidate. `rule`: "taken", "too_similar" or "quota".

    `rank` counts from 1 in the cell. `cosine` is the largest with those taken before it in the cell, `nearest` the id
    of that one; both None for the first, and for those after the quota was reached, which were not compared.
    """

    id: str
    lang: str
    category: str
    rule: str
    rank: int
    score: float
    reward: float
    perplexity: float
    reward_percentile: float
    perplexity_percentile: float
    cosine: float | None
    nearest: str | None


def percentiles(values_N: np.ndarray) -> np.ndarray:
    """Rank of each value scaled to 0 (smallest) .. 1 (largest); equal values share their mean rank; one alone has 1."""
    if len(values_N) == 1:
        return np.ones(1)
    _, inverse_N, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts + 1) / 2  # of each distinct value, from 0
    return mean_rank[inverse_N] / (len(values_N) - 1)


def scores(reward_percentile_N: np.ndarray, perplexity_percentile_N: np.ndarray) -> np.ndarray:
    """s = r p / (r + p), 0 when both are 0."""
    total_N = reward_percentile_N + perplexity_percentile_N
    return np.divide(
        reward_percentile_N * perplexity_percentile_N, total_N, out=np.zeros_like(total_N), where=total_N > 0
    )


def select(  # noqa: PLR0917
    ids: list[str],
    langs: list[str],
    categories: list[str],
    rewards_N: np.ndarray,
    perplexities_N: np.ndarray,
    embeddings_NE: np.ndarray,
    quotas: Mapping[tuple[str, str], int],
    max_cosine: float = 0.6,
) -> Iterator[list[Decision]]:
    """The decisions on every candidate, cell by cell in sorted order, each by rank.

    `embeddings_NE` may be memory-mapped: of a cell only the rows up to its quota are read, a block at a time. Equal
    scores are ordered by id, so the result does not depend on the order of the rows. A cell without a quota gives 0.
    """
    if len(set(ids)) != len(ids):
        raise ValueError("Two candidates for selection have the same id.")
    values = np.stack([np.asarray(rewards_N, np.float64), np.asarray(perplexities_N, np.float64)])
    if not np.isfinite(values).all():
        raise ValueError("A reward or a perplexity of a candidate is not a finite number.")
    cells: dict[tuple[str, str], list[int]] = {}
    for i, cell in enumerate(zip(langs, categories, strict=True)):
        cells.setdefault(cell, []).append(i)
    return (
        _decide(cell, ids, members, values, embeddings_NE, quotas.get(cell, 0), max_cosine)
        for cell, members in sorted(cells.items())
    )


def _decide(  # noqa: PLR0917
    cell: tuple[str, str],
    ids: list[str],
    members: list[int],
    values: np.ndarray,
    embeddings_NE: np.ndarray,
    quota: int,
    max_cosine: float,
) -> list[Decision]:
    ranked = np.array(sorted(members, key=ids.__getitem__))
    r_N, p_N = percentiles(values[0, ranked]), percentiles(values[1, ranked])
    s_N = scores(r_N, p_N)
    order = np.argsort(-s_N, kind="stable")
    ranked, r_N, p_N, s_N = ranked[order], r_N[order], p_N[order], s_N[order]
    found = greedy(lambda numbers: embeddings_NE[ranked[numbers]], len(ranked), quota, max_cosine)
    decisions = []
    for k, i in enumerate(ranked):
        nearest = int(found.nearest_N[k])
        decisions.append(
            Decision(
                id=ids[i],
                lang=cell[0],
                category=cell[1],
                rule="taken" if found.taken_N[k] else "too_similar" if k < found.seen else "quota",
                rank=k + 1,
                score=float(s_N[k]),
                reward=float(values[0, i]),
                perplexity=float(values[1, i]),
                reward_percentile=float(r_N[k]),
                perplexity_percentile=float(p_N[k]),
                cosine=float(found.cosine_N[k]) if nearest >= 0 else None,
                nearest=ids[ranked[nearest]] if nearest >= 0 else None,
            )
        )
    return decisions


def cell_quotas(
    cells: list[tuple[str, str]], per_lang: dict[str, int], shares: dict[str, float]
) -> dict[tuple[str, str], int]:
    """Quotas of the cells that occur: a language's number, split over its categories by `shares` (made to sum to 1).

    Rounded by largest remainder, so a language's quotas sum to its number. A category outside `shares` gets nothing.
    """
    quotas: dict[tuple[str, str], int] = {}
    for lang in sorted({lang for lang, _ in cells}):
        present = sorted(
            {category for cell_lang, category in cells if cell_lang == lang and shares.get(category, 0) > 0}
        )
        total, number = sum(shares[c] for c in present), per_lang.get(lang, 0)
        exact = {c: number * shares[c] / total for c in present}
        quotas |= {(lang, c): int(exact[c]) for c in present}
        left = number - sum(int(exact[c]) for c in present) if present else 0
        for c in sorted(present, key=lambda c: (int(exact[c]) - exact[c], c))[:left]:
            quotas[lang, c] += 1
    return quotas
