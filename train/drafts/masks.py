"""Which keys of the target a query of the draft may see (GliDe, arXiv 2402.02082).

While it drafts, the draft sees the keys of what the target has read: its j-th token of a call sees them up to j positions back.
So training must show it shifts 1 to gamma, gamma too (`shift`: the same for a row). `blocks` shows all of them in one row, as
inference does: blocks of gamma positions, each of which sees the keys before its block.

Axes: B row, T position, of queries or (second) of keys.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shift(length: int, j: int, device: torch.device | str = "cpu") -> Tensor:
    """[T, T]: the query at t sees keys k <= t - j. Queries 0 .. j - 1 see none."""
    at_T = torch.arange(length, device=device)
    return at_T[None] <= at_T[:, None] - j


def blocks(doc_ids_BT: Tensor, position_ids_BT: Tensor, offset_B: Tensor, gamma: int) -> Tensor:
    """[B, 1, T, T]: a query sees the keys of its document before its block. A document's positions count from 0; where they
    plus `offset_B` (0 .. gamma - 1) are a multiple of gamma, a block begins. Queries of the first block see none."""
    begin_BT = position_ids_BT - (position_ids_BT + offset_B[:, None]) % gamma
    same_BTT = doc_ids_BT[:, :, None] == doc_ids_BT[:, None]
    return (same_BTT & (position_ids_BT[:, None] < begin_BT[:, :, None]))[:, None]
