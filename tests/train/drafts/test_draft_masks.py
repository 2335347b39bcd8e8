"""Which keys of the target a draft sees while it is trained: those that it sees when it drafts."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from train.drafts import masks

GAMMAS = range(1, 9)


@pytest.mark.parametrize("j", GAMMAS)
def test_a_shift_hides_the_last_keys(j):
    seen = masks.shift(12, j)
    assert [[k for k in range(12) if seen[t, k]] for t in range(12)] == [
        list(range(max(0, t - j + 1))) for t in range(12)
    ]


@pytest.mark.parametrize("j", GAMMAS)
def test_a_shift_is_causal_attention_of_slices(j):
    torch.manual_seed(j)
    q, k, v = (torch.randn(2, 3, 20, 8, dtype=torch.float64) for _ in range(3))
    by_mask = scaled_dot_product_attention(q, k, v, attn_mask=masks.shift(20, j) | (torch.arange(20) < j)[:, None])
    by_slices = scaled_dot_product_attention(q[:, :, j:], k[:, :, :-j], v[:, :, :-j], is_causal=True)
    torch.testing.assert_close(by_mask[:, :, j:], by_slices, rtol=0, atol=1e-14)


def naive(doc_ids, position_ids, offset, gamma):
    """The rows of a draft that starts a block at each position whose number plus `offset` is a multiple of gamma."""
    rows = torch.zeros(len(doc_ids), len(doc_ids), dtype=torch.bool)
    begin = None
    for t in range(len(doc_ids)):
        if t == 0 or doc_ids[t] != doc_ids[t - 1]:
            first, begin = t, None
        if (position_ids[t] + offset) % gamma == 0:
            begin = t
        for k in range(first, begin if begin is not None else first):
            rows[t, k] = True
    return rows


@pytest.mark.parametrize("gamma", GAMMAS)
def test_blocks_of_packed_rows(gamma):
    doc_ids = torch.tensor([[0] * 7 + [1] * 1 + [2] * 12, [3] * 20])
    position_ids = torch.tensor([[*range(7), 0, *range(12)], [*range(20)]])
    for offset in range(gamma):
        found = masks.blocks(doc_ids, position_ids, torch.tensor([offset, (offset + 1) % gamma]), gamma)
        for b, own in enumerate((offset, (offset + 1) % gamma)):
            assert torch.equal(found[b, 0], naive(doc_ids[b].tolist(), position_ids[b].tolist(), own, gamma))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_blocks_show_each_shift_from_1_to_gamma_equally_often(gamma):
    length, found = 24, torch.zeros(gamma + 1, dtype=torch.int64)
    doc_ids, position_ids = torch.zeros(1, length, dtype=torch.int64), torch.arange(length)[None]
    for offset in range(gamma):
        seen = masks.blocks(doc_ids, position_ids, torch.tensor([offset]), gamma)[0, 0]
        for t in range(gamma, length):
            shift = t - int(seen[t].nonzero().max())
            assert torch.equal(seen[t], masks.shift(length, shift)[t])
            found[shift] += 1
    assert found.tolist() == [0] + [length - gamma] * gamma
