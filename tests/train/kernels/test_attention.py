import functools

import pytest
import torch
from shapes import TINY
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import AutoModelForCausalLM

from train import model
from train.kernels import attention

torch.set_num_threads(1)  # tiny tensors: a second thread only waits


@pytest.fixture(scope="module")
def net():
    return model.build(TINY, seed=1).eval()


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def hidden(net, ids, doc_ids=None):
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    more = {} if doc_ids is None else {"doc_ids": doc_ids}
    return net.model(input_ids=ids, position_ids=positions, use_cache=False, **more).last_hidden_state


def test_mask_is_causal_within_documents_as_a_naive_loop_says():
    doc_ids = torch.tensor([[0, 0, 1, 1, 1, 2], [5, 5, 5, 5, -1, -1]])
    mask = attention.dense_mask(attention.intra_document(doc_ids), 2, 6)
    assert mask.shape == (2, 1, 6, 6) and mask.dtype == torch.bool
    for b in range(2):
        for q in range(6):
            for k in range(6):
                assert mask[b, 0, q, k] == (k <= q and doc_ids[b, q] == doc_ids[b, k])


def test_the_anchor_mask_adds_document_0_as_a_naive_loop_says():
    doc_ids = torch.tensor([[0, 1, 1, 2, 2, 3], [0, 1, 1, 1, 1, 1]])
    mask = attention.dense_mask(attention.anchor(doc_ids), 2, 6)
    for b in range(2):
        for q in range(6):
            for k in range(6):
                assert mask[b, 0, q, k] == (k <= q and (doc_ids[b, q] == doc_ids[b, k] or doc_ids[b, k] == 0))
    assert mask.any(-1).all()  # no query sees nothing
    assert torch.equal(mask[1, 0], torch.ones(6, 6).tril().bool())  # one document: plain causal with the anchor
    without = attention.dense_mask(attention.anchor(doc_ids + 1), 2, 6)
    assert torch.equal(without, attention.dense_mask(attention.intra_document(doc_ids), 2, 6))


def test_the_anchor_is_seen_by_every_document_and_no_other_is(net):
    ids, doc_ids = tokens(1, 24), torch.tensor([[0] + [1] * 10 + [2] * 13])
    run = functools.partial(net.model, doc_ids=doc_ids, mask="anchor", use_cache=False)
    first, anchored = ids.clone(), ids.clone()
    first[0, 1:11] = (first[0, 1:11] + 7) % 61
    anchored[0, 0] = (anchored[0, 0] + 7) % 61
    with torch.no_grad():
        before, other, moved = (run(x).last_hidden_state for x in (ids, first, anchored))
    assert torch.equal(before[0, 11:], other[0, 11:])
    assert ((before - moved).abs().amax(-1) > 0).all()


def test_a_document_does_not_see_its_neighbours(net):
    ids, doc_ids = tokens(2, 24), torch.tensor([[0] * 10 + [1] * 14, [0] * 3 + [1] * 21])
    other = ids.clone()
    other[0, :10] = (other[0, :10] + 7) % 61
    before, after = hidden(net, ids, doc_ids), hidden(net, other, doc_ids)
    assert torch.equal(before[0, 10:], after[0, 10:]) and torch.equal(before[1], after[1])
    assert not torch.equal(before[0, :10], after[0, :10])
    # without document ids the same change reaches the second document
    assert not torch.equal(hidden(net, ids)[0, 10:], hidden(net, other)[0, 10:])


def test_the_future_is_not_seen(net):
    ids, doc_ids = tokens(1, 20), torch.zeros(1, 20, dtype=torch.long)
    other = ids.clone()
    other[0, 12:] = (other[0, 12:] + 1) % 61
    assert torch.equal(hidden(net, ids, doc_ids)[0, :12], hidden(net, other, doc_ids)[0, :12])
    assert torch.equal(hidden(net, ids)[0, :12], hidden(net, other)[0, :12])


def test_one_document_is_plain_causal_attention(net):
    ids = tokens(2, 33)
    packed = hidden(net, ids, torch.zeros_like(ids))
    torch.testing.assert_close(packed, hidden(net, ids), rtol=0, atol=1e-6)


@pytest.mark.parametrize("theirs", ["eager", "sdpa"])
def test_without_documents_equal_to_transformers(net, theirs):
    reference = AutoModelForCausalLM.from_config(net.config, attn_implementation=theirs).eval()
    reference.load_state_dict(net.state_dict())
    ids = tokens(2, 29)
    with torch.no_grad():
        torch.testing.assert_close(net(ids).logits, reference(ids).logits, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", attention.MASKS)
def test_flex_attention_equals_sdpa(net, monkeypatch, name):
    monkeypatch.setattr(attention, "_flex", lambda: flex_attention)  # uncompiled: the same function, on CPU
    generator = torch.Generator().manual_seed(3)
    q = torch.randn(2, 4, 128, 16, generator=generator)
    k, v = torch.randn(2, 2, 2, 128, 16, generator=generator)
    doc_ids = torch.randint(0, 4, (2, 128), generator=generator).sort(-1).values
    mask = attention.MASKS[name](doc_ids)
    block_mask = create_block_mask(mask, 2, None, 128, 128, device="cpu")
    dense = attention.dense_mask(mask, 2, 128)
    flex, _ = attention.attention(net, q, k, v, block_mask, scaling=0.25)
    sdpa, _ = attention.attention(net, q, k, v, dense, scaling=0.25)
    torch.testing.assert_close(flex, sdpa, rtol=0, atol=1e-6)
    # under autocast queries and keys come in fp32, values in bf16
    mixed, _ = attention.attention(net, q, k, v.bfloat16(), block_mask, scaling=0.25)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), sdpa, rtol=0, atol=0.05)
    with pytest.raises(ValueError, match="no dropout"):
        attention.attention(net, q, k, v, block_mask, dropout=0.1)


def test_generation_with_a_cache_equals_greedy_search_without(net):
    prompt = tokens(1, 7, seed=5)
    ids = prompt
    for _ in range(8):
        with torch.no_grad():
            ids = torch.cat([ids, net(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    generated = net.generate(prompt, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert torch.equal(generated, ids)


def test_left_padding_does_not_change_a_generation(net):
    short = tokens(1, 5, seed=6)
    alone = net.generate(short, max_new_tokens=6, do_sample=False, pad_token_id=0)
    batch = torch.cat([torch.cat([torch.zeros(1, 4, dtype=torch.long), short], 1), tokens(1, 9, seed=7)])
    mask = torch.ones_like(batch)
    mask[0, :4] = 0
    both = net.generate(batch, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert torch.equal(both[0, 4:], alone[0])


def test_doc_ids_are_refused_where_they_would_be_ignored(net):
    ids = tokens(1, 8)
    with pytest.raises(ValueError, match="attention_mask"):
        net.model(input_ids=ids, doc_ids=torch.zeros_like(ids), attention_mask=torch.ones_like(ids))
    with pytest.raises(ValueError, match=r"shape \(1, 7\), but the tokens \(1, 8\)"):
        net.model(ids, doc_ids=torch.zeros(1, 7, dtype=torch.long))
    with pytest.raises(ValueError, match="one of intra_document, anchor, shared_prompt, tree, not 'block'"):
        net.model(ids, doc_ids=torch.zeros_like(ids), mask="block")
    with pytest.raises(ValueError, match="'anchor' needs doc_ids"):
        net.model(ids, mask="anchor")
    sliding = model.build(TINY | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1})
    with pytest.raises(ValueError, match="'anchor' needs full attention"):
        sliding.model(input_ids=ids, doc_ids=torch.zeros_like(ids), mask="anchor")
