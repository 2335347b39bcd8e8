"""Attention over documents of different lengths by FlashAttention's kernel for them (torch.nn.attention.varlen), on a GPU.

The rows of a batch become one sequence of B T positions, and `boundaries` say where each document begins in it: each attends
causally to itself. Nothing is computed of pairs in different documents, and no mask is built. The kernel takes 16-bit numbers
and knows no mask but this one and, by copies of keys, the anchor's; what else attention can do (train/kernels/attention.py) is
left to flex_attention or refused. Where documents begin is found on the host, from the batch before it was moved.

With an anchor (document 0, which begins a row and which all documents of the row see) a document of n queries has n + 1 keys,
the anchor's first. A causal kernel that aligns the last query with the last key lets query i see keys 0 .. i + 1: the anchor and
the document up to i. So one gather of keys and values a layer does it, and no token is twice in the residual stream.

Axes: B batch, T position, H query heads, K key/value heads, N head width, S = B T, M = S and the copies of anchors.
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


class Keys(NamedTuple):
    """What documents that see an anchor attend to: `boundaries` and `longest` as of `Documents`, and `places_M`, which of the S
    positions each key is of."""

    boundaries: Tensor
    longest: int
    places_M: Tensor


class Documents(NamedTuple):
    """Documents one after another: `boundaries` [n + 1] int32, from 0 to the number of positions; the most positions of one.
    Without `keys` they attend to themselves alone."""

    boundaries: Tensor
    longest: int
    keys: Keys | None = None


def documents(doc_ids_BT: Tensor, anchor: bool = False) -> Documents:
    """The documents of packed rows: neighbours in a row with equal ids; none goes on in the next row. With `anchor` they also
    see document 0 of their row, where it has one.

    Waits for the device of `doc_ids_BT` where `on_device` did not move it. Raises ValueError where an id stands in two places
    of a row, which the kernel cannot follow, and where an anchor does not begin its row.
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
    edges_n = np.append(starts_n, ids_BT.size)
    boundaries, longest = _on(edges_n.astype(np.int32), doc_ids_BT.device), int(np.diff(edges_n).max())
    return Documents(boundaries, longest, _with_anchors(ids_BT, edges_n, doc_ids_BT.device) if anchor else None)


def _with_anchors(ids_BT: np.ndarray, edges_n: np.ndarray, device: torch.device) -> Keys:
    T, starts_n, lengths_n = ids_BT.shape[1], edges_n[:-1], np.diff(edges_n)
    is_anchor_n = ids_BT.flat[starts_n] == 0
    if np.any(starts_n[is_anchor_n] % T):
        raise ValueError("attention: varlen needs an anchor (document 0) to begin its row, but one lies within a row.")
    length_B = np.zeros(len(ids_BT), np.int64)  # of each row's anchor
    length_B[starts_n[is_anchor_n] // T] = lengths_n[is_anchor_n]
    copied_n = np.where(is_anchor_n, 0, length_B[starts_n // T])
    edges_k = np.append(0, np.cumsum(lengths_n + copied_n))
    # key j of a document with c copies is place j of its row while j < c, and place j - c of the document from there on
    within_M = np.arange(edges_k[-1]) - np.repeat(edges_k[:-1], np.diff(edges_k))
    copied_M = np.repeat(copied_n, np.diff(edges_k))
    first_M = np.where(within_M < copied_M, np.repeat(starts_n // T * T, np.diff(edges_k)), 0)
    document_M = np.where(within_M < copied_M, 0, np.repeat(starts_n, np.diff(edges_k)) - copied_M)
    places_M = first_M + document_M + within_M
    return Keys(_on(edges_k.astype(np.int32), device), int(np.diff(edges_k).max()), _on(places_M, device))


def _on(values: np.ndarray, device: torch.device) -> Tensor:
    return sent(torch.from_numpy(values), device)


def attention(  # noqa: PLR0917
    query_BHTN: Tensor,
    key_BKTN: Tensor,
    value_BKTN: Tensor,
    found: Documents,
    scaling: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Causal attention within the documents `found` and to their anchors, or to the last `window` positions. Returns
    [B, T, H, N]; raises ValueError for 32-bit numbers, and for a window beside anchors."""
    B, H, T, N = query_BHTN.shape
    dtype = value_BKTN.dtype  # under autocast queries and keys leave rotation in fp32, values are in its dtype
    if dtype not in (torch.bfloat16, torch.float16):
        raise ValueError("attention: varlen needs 16-bit numbers (train.precision bf16); use flex or sdpa for fp32.")
    query, key, value = (x.to(dtype).transpose(1, 2).flatten(0, 1) for x in (query_BHTN, key_BKTN, value_BKTN))
    keys = found.keys
    if keys is not None:
        if window is not None:
            raise ValueError("The mask 'anchor' needs full attention, but this layer has a sliding window.")
        key, value = key.index_select(0, keys.places_M), value.index_select(0, keys.places_M)
    grouped: dict[str, Any] = {"enable_gqa": key_BKTN.shape[1] != H} if NAMES_GROUPS else {}
    out_SHN = varlen_attn(
        query,
        key,
        value,
        found.boundaries,
        found.boundaries if keys is None else keys.boundaries,
        found.longest,
        found.longest if keys is None else keys.longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),  # so many before a position, and none after it
        **grouped,
    )
    assert isinstance(out_SHN, Tensor)  # two only where they are asked for
    return out_SHN.view(B, T, H, N)
