"""Rows that begin with an anchor: which tokens, documents, positions and labels they have."""

import numpy as np
import pytest
import torch

from train.batches import long_rows
from train.batches.labels import IGNORE
from train.kernels import attention

PACKED = {
    "input_ids": torch.tensor([[11, 12, 13, 14, 15, 16], [21, 22, 23, 24, 25, 26]]),
    "labels": torch.tensor([[12, IGNORE, 14, 15, IGNORE, 17], [22, 23, 24, 25, 26, 27]]),
    "doc_ids": torch.tensor([[0, 0, 1, 1, 1, 2], [0] * 6]),
    "position_ids": torch.arange(6).expand(2, 6),
    "pool": torch.tensor([3, 4]),
    "count": torch.tensor(10),
}


def test_a_row_is_the_anchor_then_the_documents_from_1():
    made = long_rows.with_anchor(PACKED, 7, "anchor")
    assert made["input_ids"].tolist() == [[7, 11, 12, 13, 14, 15, 16], [7, 21, 22, 23, 24, 25, 26]]
    assert made["labels"].tolist() == [[IGNORE, 12, IGNORE, 14, 15, IGNORE, 17], [IGNORE, 22, 23, 24, 25, 26, 27]]
    assert made["doc_ids"].tolist() == [[0, 1, 1, 2, 2, 2, 3], [0, 1, 1, 1, 1, 1, 1]]
    assert made["position_ids"].tolist() == [list(range(7))] * 2
    assert made["pool"].tolist() == [3, 4]
    assert int(made["count"]) == 10 == int((made["labels"] != IGNORE).sum())
    assert PACKED["input_ids"].shape == (2, 6)


def test_the_masks_differ_in_documents_and_positions_alone():
    made = {mask: long_rows.with_anchor(PACKED, 7, mask) for mask in long_rows.MASKS}
    for mask, one in made.items():
        for key in ("input_ids", "labels", "pool", "count"):
            assert torch.equal(one[key], made["anchor"][key]), (mask, key)
    assert made["intra_document"]["doc_ids"].tolist() == made["anchor"]["doc_ids"].tolist()
    assert made["full"]["doc_ids"].tolist() == [[0, 1, 1, 1, 1, 1, 1]] * 2
    assert made["full"]["position_ids"].tolist() == [list(range(7))] * 2
    assert made["reset"]["doc_ids"].tolist() == made["anchor"]["doc_ids"].tolist()
    assert made["reset"]["position_ids"].tolist() == [[0, 0, 1, 0, 1, 2, 0], [0, 0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("mask", long_rows.MASKS)
def test_what_a_position_sees_is_as_a_naive_loop_says(mask):
    draw = np.random.default_rng(4)
    for _ in range(20):
        rows, length = draw.integers(1, 4), draw.integers(1, 12)
        docs = np.cumsum(draw.random((rows, length)) < 0.3, 1)
        docs -= docs[:, :1]
        ids = torch.from_numpy(docs)
        made = long_rows.with_anchor(
            {"input_ids": ids, "labels": ids, "doc_ids": ids, "position_ids": ids}, anchor=9, mask=mask
        )
        seen = attention.dense_mask(
            attention.MASKS[long_rows.attended(mask)](made["doc_ids"]), int(rows), int(length) + 1
        )
        for b in range(rows):
            for q in range(length + 1):
                for k in range(length + 1):
                    if k > q or (k == 0 and q and mask != "anchor"):
                        want = False
                    elif k == 0 or mask == "full":
                        want = True
                    else:
                        want = docs[b, q - 1] == docs[b, k - 1]
                    assert seen[b, 0, q, k] == want, (mask, docs[b], q, k)
