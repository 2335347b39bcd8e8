"""Rows of long contexts: one anchor token, then T - 1 tokens of documents.

    doc_ids         0 of the anchor, documents from 1      labels   none of the anchor
    position_ids    0 .. T - 1, running through the row

A mask says what position q of document d sees of the positions before it (AnchorAttention, arXiv 2411.13476):

    anchor            document d, and the anchor: the one token that all documents share, always at position 0
    intra_document    document d
    full              all but the anchor: the row is read as one document
    reset             document d, whose positions begin with 0 again

All four have the same tokens at the same places, and the same labels, so a comparison is one of masks.

Axes: B row, T position, S = T - 1 token of documents.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch

from train.batches.labels import IGNORE
from train.batches.parts import Batch, BatchFn

Mask = Literal["anchor", "intra_document", "full", "reset"]
MASKS: tuple[str, ...] = get_args(Mask)


def attended(mask: str) -> str:
    """The mask of `train.kernels.attention.MASKS` that rows of `mask` are read under."""
    return "anchor" if mask == "anchor" else "intra_document"


def batch_fn(packed: BatchFn, anchor: int, mask: str) -> BatchFn:
    """The rows of `packed`, each behind the token `anchor`."""
    assert mask in MASKS
    return lambda numbers: with_anchor(packed(numbers), anchor, mask)


def with_anchor(batch: Batch, anchor: int, mask: str) -> Batch:
    """Packed rows [B, S] as rows [B, T] for `mask`; what else the batch has stays as it is.

    The rows count their documents from 0, so these are counted on by one: the first of them is not the anchor. By numpy, as
    torch would start threads of its own in each thread of the loader."""
    doc_ids_BS = batch["doc_ids"].numpy()
    doc_ids_BT = _before(0, np.minimum(doc_ids_BS, 0) + 1 if mask == "full" else doc_ids_BS + 1)
    positions_BT = np.broadcast_to(np.arange(doc_ids_BT.shape[1]), doc_ids_BT.shape)
    made = {
        "input_ids": _before(anchor, batch["input_ids"].numpy()),
        "labels": _before(IGNORE, batch["labels"].numpy()),
        "doc_ids": doc_ids_BT,
        "position_ids": positions_BT - (_begins(doc_ids_BT) if mask == "reset" else 0),
    }
    return batch | {name: torch.from_numpy(value) for name, value in made.items()}


def _before(value: int, x_BS: np.ndarray) -> np.ndarray:
    return np.pad(x_BS, ((0, 0), (1, 0)), constant_values=value)


def _begins(doc_ids_BT: np.ndarray) -> np.ndarray:
    """Where the document of each position begins in its row."""
    begins_BT = np.zeros_like(doc_ids_BT)
    new_BT = doc_ids_BT[:, 1:] != doc_ids_BT[:, :-1]
    begins_BT[:, 1:] = np.where(new_BT, np.arange(1, doc_ids_BT.shape[1]), 0)
    return np.maximum.accumulate(begins_BT, axis=1)
