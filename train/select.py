"""Choosing examples for SFT stage 2: good answers that the base model finds surprising, and not twice the same.

Within each cell (language, category), Sailor2 §5.1 (recipe §6.2):

    r, p = percentiles in the cell of the reward and of the answer's perplexity under the base model
    s    = r p / (r + p),  0 when both are 0          (half their harmonic mean)

Candidates are taken by descending s; one whose embedding has a cosine above `max_cosine` with any already taken is
skipped; a cell ends at its quota. Embeddings by default: the base model's mean-pooled last hidden states, centred per
language, because raw hidden states of a language model all point the same way (Ethayarajh 2019).

Cost: every candidate meets the taken ones of its cell once, a block at a time in one matrix product; inside a block the
greedy order is kept exactly. The result is that of the loop over single candidates
(`tests/equality/test_select_equality.py`).

Axes: N candidates of a cell in their order, E embedding width, B block, C taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from train.examples import Example, collate, token_batches
from train.logprobs import hidden_states


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


def greedy(
    unit_NE: np.ndarray, quota: int, max_cosine: float, block: int = 1024
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Take rows in order unless their cosine with one taken before exceeds `max_cosine`, until `quota` are taken.

    `unit_NE`: float32 rows of length 1. Returns (taken: bool [N]; cosine [N]: the largest with those taken before, -inf
    for the first; nearest [N]: the row of that one or -1; how many rows were looked at).
    """
    n = len(unit_NE)
    taken_N, cosine_N, nearest_N = np.zeros(n, bool), np.full(n, -np.inf), np.full(n, -1)
    taken: list[int] = []
    for start in range(0, n, block):
        if len(taken) >= quota:
            return taken_N, cosine_N, nearest_N, start
        block_BE = unit_NE[start : start + block]
        best_B, nearest_B = np.full(len(block_BE), -np.inf), np.full(len(block_BE), -1)
        if taken:
            cosine_BC = block_BE @ unit_NE[taken].T
            column_B = cosine_BC.argmax(1)
            best_B = cosine_BC[np.arange(len(block_BE)), column_B].astype(np.float64)
            nearest_B = np.asarray(taken)[column_B]
        # Only rows that differ enough from all earlier blocks can be taken, so only they can change the others.
        open_B = np.flatnonzero(best_B <= max_cosine)
        cosine_OB = block_BE[open_B] @ block_BE.T
        for o, b in enumerate(open_B):
            if best_B[b] > max_cosine:
                continue
            taken_N[start + b] = True
            taken.append(start + int(b))
            later = cosine_OB[o, b + 1 :] > best_B[b + 1 :]
            best_B[b + 1 :][later] = cosine_OB[o, b + 1 :][later]
            nearest_B[b + 1 :][later] = start + b
            if len(taken) >= quota:
                end = int(b) + 1
                cosine_N[start : start + end], nearest_N[start : start + end] = best_B[:end], nearest_B[:end]
                return taken_N, cosine_N, nearest_N, start + end
        cosine_N[start : start + block], nearest_N[start : start + block] = best_B, nearest_B
    return taken_N, cosine_N, nearest_N, n


def select(  # noqa: PLR0917
    ids: list[str],
    langs: list[str],
    categories: list[str],
    rewards_N: np.ndarray,
    perplexities_N: np.ndarray,
    embeddings_NE: np.ndarray,
    quotas: dict[tuple[str, str], int],
    max_cosine: float = 0.6,
) -> list[Decision]:
    """The decision on every candidate, in the order given. All arguments run over candidates; `quotas` over cells.

    Equal scores are ordered by id, so the result does not depend on the order of the rows. A cell without a quota gives
    0.
    """
    if len(set(ids)) != len(ids):
        raise ValueError("Two candidates for selection have the same id.")
    values = np.stack([np.asarray(rewards_N, np.float64), np.asarray(perplexities_N, np.float64)])
    if not np.isfinite(values).all():
        raise ValueError("A reward or a perplexity of a candidate is not a finite number.")
    norms_N1 = np.linalg.norm(embeddings_NE, axis=1, keepdims=True)
    unit_NE = np.divide(embeddings_NE, norms_N1, out=np.zeros_like(embeddings_NE, np.float32), where=norms_N1 > 0)

    cells: dict[tuple[str, str], list[int]] = {}
    for i, cell in enumerate(zip(langs, categories, strict=True)):
        cells.setdefault(cell, []).append(i)
    decisions: list[Decision | None] = [None] * len(ids)
    for (lang, category), members in cells.items():
        # By id before anything is computed, so that no sum runs in another order when the rows do.
        members = np.array(sorted(members, key=lambda i: ids[i]))
        r_N, p_N = percentiles(values[0, members]), percentiles(values[1, members])
        s_N = scores(r_N, p_N)
        order = np.argsort(-s_N, kind="stable")
        members, r_N, p_N, s_N = members[order], r_N[order], p_N[order], s_N[order]
        taken_N, cosine_N, nearest_N, seen = greedy(unit_NE[members], quotas.get((lang, category), 0), max_cosine)
        for k, i in enumerate(members):
            rule = "taken" if taken_N[k] else "too_similar" if k < seen else "quota"
            compared = nearest_N[k] >= 0
            decisions[i] = Decision(
                id=ids[i],
                lang=lang,
                category=category,
                rule=rule,
                rank=k + 1,
                score=float(s_N[k]),
                reward=float(values[0, i]),
                perplexity=float(values[1, i]),
                reward_percentile=float(r_N[k]),
                perplexity_percentile=float(p_N[k]),
                cosine=float(cosine_N[k]) if compared else None,
                nearest=ids[members[nearest_N[k]]] if compared else None,
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


@torch.no_grad()
def embed(model: nn.Module, examples: list[Example], tokens_per_batch: int = 8192) -> np.ndarray:
    """Mean of the last hidden states over each example, minus the mean of its language, float32 [N, E]."""
    model.eval()
    device = next(model.parameters()).device
    pooled_NE = np.zeros((len(examples), model.config.hidden_size), np.float32)
    for indices in token_batches(examples, tokens_per_batch):
        batch = {k: v.to(device) for k, v in collate([[examples[i]] for i in indices]).items()}
        hidden_BTE = hidden_states(model, batch).float()
        inside_BT1 = (batch["doc_ids"] < len(indices)).unsqueeze(-1)
        mean_BE = (hidden_BTE * inside_BT1).sum(1) / inside_BT1.sum(1)
        pooled_NE[indices] = mean_BE.cpu().numpy()
    langs = np.array([example.lang for example in examples])
    for lang in np.unique(langs):
        pooled_NE[langs == lang] -= pooled_NE[langs == lang].mean(0)
    return pooled_NE
