"""Rows of preference pairs in which a prompt is computed once for both of its answers.

A pair is a tree: what both sides have in common up to the first answer's token, then the two branches. It lies in a row as

    doc_ids      3 i ... 3 i   3 i + 1 ...   3 i + 2 ...        the shared tokens, chosen, rejected of pair i
    position_ids 0 ... s - 1   s ...         s ...

and the mask `shared_prompt` (train/kernels/attention.py) lets a branch see itself and the shared tokens before it, so every
hidden state is that of a row of its own. A branch begins with the prompt's last token, which predicts another first token in
each.

Axes: B row, T position.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from train.batches.decoder import CausalLM
from train.batches.examples import Example
from train.batches.labels import IGNORE
from train.methods.sft import pack
from train.scores.logprobs import example_logprobs


def n_shared(chosen: Example, rejected: Example) -> int:
    """Positions that both sides have in common: equal tokens before the first position that predicts a scored one."""
    n = min(chosen.positions, rejected.positions)
    same = (chosen.ids[:n] == rejected.ids[:n]) & ~chosen.scored[1 : n + 1] & ~rejected.scored[1 : n + 1]
    return n if same.all() else int(same.argmin())


def collate_pairs(chosen: list[Example], rejected: list[Example]) -> dict[str, Tensor]:
    """Pairs as tensors [B, T]: input_ids, labels (-100 where not scored), doc_ids, position_ids, and example_ids: whose token a
    position is, 0 … P - 1 the chosen sides, P … 2 P - 1 the rejected ones, 2 P shared tokens and padding.

    T is the longest pair; the others are packed into as few rows as best-fit finds.
    """
    shared, lengths = _shape(chosen, rejected)
    rows, n = pack(lengths, max(lengths)), len(chosen)
    fill = {"input_ids": 0, "labels": IGNORE, "doc_ids": 3 * n, "position_ids": 0, "example_ids": 2 * n}
    out = {name: np.full((len(rows), max(lengths)), value, np.int64) for name, value in fill.items()}
    for b, row in enumerate(rows):
        start = 0
        for i in row:
            parts = (
                (chosen[i], 0, shared[i], 3 * i, 2 * n),
                (chosen[i], shared[i], chosen[i].positions, 3 * i + 1, i),
                (rejected[i], shared[i], rejected[i].positions, 3 * i + 2, n + i),
            )
            for example, first, end, doc, owner in parts:
                at = slice(start, start + end - first)
                out["input_ids"][b, at] = example.ids[first:end]
                out["labels"][b, at] = np.where(
                    example.scored[first + 1 : end + 1], example.ids[first + 1 : end + 1], IGNORE
                )
                out["doc_ids"][b, at] = doc
                out["position_ids"][b, at] = np.arange(first, end)
                out["example_ids"][b, at] = owner
                start = at.stop
    return {name: torch.from_numpy(values) for name, values in out.items()}


@torch.no_grad()
def pair_logprobs(
    model: CausalLM, chosen: list[Example], rejected: list[Example], tokens_per_batch: int = 8192
) -> np.ndarray:
    """log p of the scored tokens of both sides, float32 [2 (chosen, rejected), pairs]; leaves the model in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    out = np.zeros((2, len(chosen)), np.float32)
    _, lengths = _shape(chosen, rejected)
    for indices in _batches(lengths, tokens_per_batch):
        batch = collate_pairs([chosen[i] for i in indices], [rejected[i] for i in indices])
        batch = {name: value.to(device) for name, value in batch.items()}
        logp_S = example_logprobs(model, batch, 2 * len(indices)).float().cpu()
        out[:, indices] = logp_S.view(2, -1).numpy()
    return out


def _shape(chosen: list[Example], rejected: list[Example]) -> tuple[list[int], list[int]]:
    """Of each pair: (shared positions, positions in all)."""
    shared = [n_shared(*pair) for pair in zip(chosen, rejected, strict=True)]
    return shared, [c.positions + r.positions - s for c, r, s in zip(chosen, rejected, shared, strict=True)]


def _batches(lengths: list[int], tokens: int) -> list[list[int]]:
    """Indices of `lengths`, longest first, in batches of at most `tokens` (or one pair)."""
    batches: list[list[int]] = []
    left = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or lengths[i] > left:
            batches.append([])
            left = tokens
        batches[-1].append(i)
        left -= lengths[i]
    return batches
