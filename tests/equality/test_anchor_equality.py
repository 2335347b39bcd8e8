"""The anchor mask is each document alone behind the anchor, at its places in the row; and varlen's copies of keys are the mask.

In fp64, beside plain transformers by its sdpa, as its eager softmax is fp32. Read without an `attention_mask`, transformers 5.23
takes positions with a jump for packed sequences and hides the anchor, so it is given one of ones.
"""

import copy
import itertools

import numpy as np
import pytest
import torch
from shapes import TINY
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2ForCausalLM

from train import model
from train.batches import long_rows
from train.kernels import attention, varlen

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

ANCHOR = 5
SHAPE = TINY | {"num_hidden_layers": 3, "initializer_range": 0.2, "max_position_embeddings": 4096}


def nets(kind):
    """(ours, one of plain transformers) with the same weights, in fp64."""
    if kind == "qwen2":
        ours = model.build(SHAPE, seed=3)
        plain = Qwen2ForCausalLM._from_config(copy.deepcopy(ours.config), attn_implementation="sdpa")
    else:
        config = LlamaConfig(**SHAPE)
        torch.manual_seed(3)
        ours = LlamaForCausalLM._from_config(config, attn_implementation=attention.NAME)
        attention.attach(ours)
        plain = LlamaForCausalLM._from_config(copy.deepcopy(config), attn_implementation="sdpa")
    plain.load_state_dict(ours.state_dict())
    return ours.double().eval(), plain.double().eval()


def rows(seed, mask="anchor", length=40):
    draw = np.random.default_rng(seed)
    docs = np.cumsum(draw.random((2, length)) < 0.12, 1)
    batch = {
        "input_ids": torch.from_numpy(draw.integers(0, 61, (2, length))),
        "labels": torch.from_numpy(draw.integers(0, 61, (2, length))),
        "doc_ids": torch.from_numpy(docs - docs[:, :1]),
        "position_ids": torch.arange(length).expand(2, length),
    }
    return long_rows.with_anchor(batch, ANCHOR, mask)


@torch.no_grad()
def logits(net, batch, name="anchor"):
    return net(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        doc_ids=batch["doc_ids"],
        mask=name,
        use_cache=False,
    ).logits


def documents(batch, b):
    """(first, end) of each document of row `b`, without the anchor."""
    ids = batch["doc_ids"][b].tolist()
    edges = [t for t in range(1, len(ids)) if ids[t] != ids[t - 1]] + [len(ids)]
    return list(itertools.pairwise(edges))


@torch.no_grad()
def apart(plain, batch, b, first, end, *, anchored=True):
    """The logits of one document, read by plain transformers behind the anchor."""
    places = [*([0] if anchored else []), *range(first, end)]
    ids, positions = batch["input_ids"][b, places][None], batch["position_ids"][b, places][None]
    out = plain(input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids), use_cache=False)
    return out.logits[0, int(anchored) :]


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_packed_rows_are_their_documents_apart_behind_the_anchor(kind):
    ours, plain = nets(kind)
    for seed in (1, 2):
        batch = rows(seed)
        packed = logits(ours, batch)
        for b in (0, 1):
            assert len(documents(batch, b)) > 2
            for first, end in documents(batch, b):
                alone = apart(plain, batch, b, first, end)
                torch.testing.assert_close(packed[b, first:end], alone, rtol=0, atol=1e-12)
                # the anchor matters, and so does that the first document is not the anchor
                assert (packed[b, first:end] - apart(plain, batch, b, first, end, anchored=False)).abs().max() > 1e-3
        from_0 = batch | {"doc_ids": (batch["doc_ids"] - 1).clamp(min=0)}
        (_, first), *_ = documents(batch, 0)
        assert (logits(ours, from_0)[0, first:] - packed[0, first:]).abs().max() > 1e-3


def test_reset_rows_are_their_documents_apart_from_position_0():
    ours, plain = nets("qwen2")
    batch = rows(3, "reset")
    packed = logits(ours, batch, long_rows.attended("reset"))
    for first, end in documents(batch, 0):
        assert batch["position_ids"][0, first] == 0
        alone = apart(plain, batch, 0, first, end, anchored=False)
        torch.testing.assert_close(packed[0, first:end], alone, rtol=0, atol=1e-12)
    running = logits(ours, rows(3, "intra_document"), "intra_document")  # positions do not matter without an anchor
    torch.testing.assert_close(packed[0, 1:], running[0, 1:], rtol=0, atol=1e-5)  # cosines are fp32


def test_a_full_row_is_one_text_without_the_anchor():
    ours, plain = nets("qwen2")
    batch = rows(4, "full")
    packed = logits(ours, batch, long_rows.attended("full"))
    alone = apart(plain, batch, 1, 1, batch["input_ids"].shape[1], anchored=False)
    torch.testing.assert_close(packed[1, 1:], alone, rtol=0, atol=1e-12)


def test_nothing_leaks_between_documents_and_the_anchor_reaches_all():
    ours, _ = nets("qwen2")
    for seed in (5, 6):
        batch = rows(seed)
        before = logits(ours, batch)
        for first, end in documents(batch, 0):
            ids = batch["input_ids"].clone()
            ids[0, first:end] = (ids[0, first:end] + 7) % 61
            moved = (logits(ours, batch | {"input_ids": ids}) - before).abs().amax(-1)
            inside = torch.zeros(moved.shape[1], dtype=torch.bool)
            inside[first:end] = True
            assert (moved[0, inside] > 0).all()
            assert not moved[0, ~inside].any() and not moved[1].any()
        ids = batch["input_ids"].clone()
        ids[0, 0] = (ids[0, 0] + 7) % 61
        moved = (logits(ours, batch | {"input_ids": ids}) - before).abs().amax(-1)
        assert (moved[0] > 0).all() and not moved[1].any()


def bottom_right(q_SHN, k_MKN, v_MKN, begins, begins_k, most, most_k, *, scale, window_size, **flags):  # noqa: PLR0917
    """What `varlen_attn` is documented to do: document by document, the last query aligned with the last key."""
    assert window_size == (-1, 0) and begins.dtype == begins_k.dtype == torch.int32
    assert (most, most_k) == (int(begins.diff().max()), int(begins_k.diff().max()))
    out = []
    for (a, b), (c, d) in zip(itertools.pairwise(begins.tolist()), itertools.pairwise(begins_k.tolist()), strict=True):
        q, k, v = q_SHN[a:b].transpose(0, 1), k_MKN[c:d].transpose(0, 1), v_MKN[c:d].transpose(0, 1)
        seen = torch.ones(b - a, d - c, dtype=torch.bool).tril(d - c - (b - a))
        out.append(
            scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=len(q) != len(k)).transpose(
                0, 1
            )
        )
    return torch.cat(out)


def random_ids(draw):
    """Rows of documents; some rows have an anchor, of one token or more."""
    rows, length = draw.integers(1, 5), draw.integers(1, 30)
    ids = np.cumsum(draw.random((rows, length)) < draw.choice([0.05, 0.3, 0.8]), 1)
    ids -= ids[:, :1]
    return torch.from_numpy(ids + draw.integers(0, 2, (rows, 1)))


def test_keys_of_documents_behind_an_anchor_are_those_of_a_naive_twin():
    draw = np.random.default_rng(7)
    for _ in range(200):
        ids = random_ids(draw)
        T, found = ids.shape[1], varlen.documents(ids, anchor=True)
        places, edges = [], [0]
        for b, row in enumerate(ids.tolist()):
            anchor = [b * T + t for t in range(T) if row[t] == 0]
            for document in dict.fromkeys(row):
                own = [b * T + t for t in range(T) if row[t] == document]
                places += own if document == 0 else anchor + own
                edges.append(len(places))
        assert found.keys.places_M.tolist() == places and found.keys.boundaries.tolist() == edges
        assert found.keys.longest == max(b - a for a, b in itertools.pairwise(edges))
        assert varlen.documents(ids).keys is None


def test_varlen_is_the_dense_mask_with_its_gradients(monkeypatch):
    monkeypatch.setattr(varlen, "varlen_attn", bottom_right)
    draw = np.random.default_rng(8)
    for trial in range(20):
        ids = random_ids(draw)
        B, T = ids.shape
        g = torch.Generator().manual_seed(trial)
        tensors = [torch.randn(B, n, T, 16, generator=g).half() for n in (4, 2, 2)]
        found = {}
        for backend in ("varlen", "sdpa"):
            inputs = [x.clone().requires_grad_() for x in tensors]
            if backend == "varlen":
                out, _ = attention.attention(None, *inputs, None, documents=varlen.documents(ids, anchor=True))
            else:
                out, _ = attention.attention(None, *inputs, attention.dense_mask(attention.anchor(ids), B, T))
            out.float().square().sum().backward()
            found[backend] = [out.detach().float(), *(x.grad.float() for x in inputs)]
        for got, want in zip(found["varlen"], found["sdpa"], strict=True):
            assert (got - want).norm() <= 0.01 * want.norm() + 1e-4, trial


def test_varlen_is_the_dense_mask_in_a_model(monkeypatch):
    monkeypatch.setattr(varlen, "varlen_attn", bottom_right)
    net = model.build(SHAPE, seed=1).eval()
    batch, hidden = rows(9), {}
    inputs = {key: batch[key] for key in ("input_ids", "position_ids", "doc_ids")}
    for backend, name in (("sdpa", "anchor"), ("varlen", "anchor"), ("varlen", "intra_document")):
        net.model.attention_backend = backend
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            hidden[backend, name] = net.model(**inputs, mask=name, use_cache=False).last_hidden_state.float()
    torch.testing.assert_close(hidden["varlen", "anchor"], hidden["sdpa", "anchor"], rtol=0, atol=0.06)
    assert (hidden["varlen", "intra_document"] - hidden["sdpa", "anchor"]).abs().max() > 0.3


def test_what_varlen_cannot_do_with_an_anchor_is_refused():
    with pytest.raises(ValueError, match="needs an anchor \\(document 0\\) to begin its row"):
        varlen.documents(torch.tensor([[0, 1, 1], [3, 0, 2]]), anchor=True)
    q = torch.zeros(1, 2, 3, 16, dtype=torch.bfloat16)
    found = varlen.documents(torch.tensor([[0, 1, 1]]), anchor=True)
    with pytest.raises(ValueError, match="needs full attention"):
        attention.attention(None, q, q, q, None, sliding_window=2, documents=found)
