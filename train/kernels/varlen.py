"""Attention over documents of different lengths by FlashAttention's kernel for them (torch.nn.attention.varlen), on a GPU.

The rows of a batch become one sequence of B T positions, and `boundaries` say where each document begins in it: each attends
causally to itself. Nothing is computed of pairs in different documents, and no mask is built. The kernel takes 16-bit numbers
and knows no mask but this one, so what else attention can do (train/kernels/attention.py) is left to flex_attention or refused.
Where documents begin is found on the host, from the batch before it was moved.

Axes: B batch, T position, H query heads, K key/value heads, N head width, S = B T.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from train.batches.parts import on_host, sent


def names_groups(kernel) -> bool:
    """Whether `varlen_attn` must be told that key/value heads are fewer: torch 2.11 sees it, from 2.12 on it wants the flag."""
    return "enable_gqa" in inspect.signature(kernel).parameters


NAMES_GROUPS = names_groups(varlen_attn)


class Documents(NamedTuple):
    """Documents one after another: `boundaries` [n + 1] int32, from 0 to the number of positions; the most positions of one."""

    boundaries: Tensor
    longest: int


def documents(doc_ids_BT: Tensor) -> Documents:
    """The documents of packed rows: neighbours in a row with equal ids; none goes on in the next row.

    Waits for the device of `doc_ids_BT` where `on_device` did not move it. Raises ValueError where an id stands in two places
    of a row, which the kernel cannot follow.
    """
    here = on_host(doc_ids_BT)
    ids_BT = (doc_ids_BT.cpu() if here is None else here).numpy()
    begins_BT = np.ones(ids_BT.shape, bool)
    np.not_equal(ids_BT[:, 1:], ids_BT[:, :-1], out=begins_BT[:, 1:])
    starts_n = np.flatnonzero(begins_BT)
    runs = np.stack([starts_n // ids_BT.shape[1], ids_BT.flat[starts_n]])
    if np.unique(runs, axis=1).shape[1] < len(starts_n):
        raise ValueError(
            "attention: varlen needs documents in one piece, but a row of doc_ids has one id in two places."
        )
    host = torch.from_numpy(np.append(starts_n, ids_BT.size).astype(np.int32))
    return Documents(sent(host, doc_ids_BT.device), int(host.diff().max()))


def attention(  # noqa: PLR0917
    query_BHTN: Tensor,
    key_BKTN: Tensor,
    value_BKTN: Tensor,
    found: Documents,
    scaling: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Causal attention within the documents `found`, to the last `window` positions. Returns [B, T, H, N]; raises ValueError
    for 32-bit numbers."""
    B, H, T, N = query_BHTN.shape
    dtype = value_BKTN.dtype  # under autocast queries and keys leave rotation in fp32, values are in its dtype
    if dtype not in (torch.bfloat16, torch.float16):
        raise ValueError("attention: varlen needs 16-bit numbers (train.precision bf16); use flex or sdpa for fp32.")
    query, key, value = (x.to(dtype).transpose(1, 2).flatten(0, 1) for x in (query_BHTN, key_BKTN, value_BKTN))
    grouped: dict[str, Any] = {"enable_gqa": key_BKTN.shape[1] != H} if NAMES_GROUPS else {}
    out_SHN = varlen_attn(
        query,
        key,
        value,
        found.boundaries,
        found.boundaries,
        found.longest,
        found.longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),  # so many before a position, and none after it
        **grouped,
    )
    assert isinstance(out_SHN, Tensor)  # two only where they are asked for
    return out_SHN.view(B, T, H, N)
