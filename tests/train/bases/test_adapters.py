"""Each difference between families alone: windows, soft caps, factors, scaled embeddings, rotation, new tokens."""

import pytest
import torch
from shapes import TINY
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForCausalLM

from train import model
from train.bases import rope
from train.batches.labels import IGNORE
from train.distributed import vocabulary
from train.distributed.data_parallel import Gradients
from train.kernels import attention, head, varlen
from train.kernels.cross_entropy import linear_cross_entropy, token_logprobs
from train.methods.add_tokens import add_rows

torch.set_num_threads(1)  # tiny tensors: a second thread only waits
DOC_IDS = torch.tensor([[0] * 50 + [1] * 78, [0] * 3 + [1] * 60 + [2] * 65])


def heads(seed=3):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(2, 4, 128, 16, generator=g), *torch.randn(2, 2, 2, 128, 16, generator=g)


def test_a_window_is_so_many_positions_of_a_document_as_a_naive_loop_says():
    doc_ids = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 2]])
    mask = attention.dense_mask(attention.windowed(attention.intra_document(doc_ids), 2), 1, 8)
    for q in range(8):
        for k in range(8):
            assert mask[0, 0, q, k] == (q - 2 < k <= q and doc_ids[0, q] == doc_ids[0, k])


def test_the_window_of_a_second_answer_is_counted_from_its_own_text():
    doc_ids = torch.tensor([[0, 0, 1, 1, 1, 2, 2]])  # a prompt and two answers
    positions = torch.tensor([[0, 1, 2, 3, 4, 2, 3]])
    mask = attention.dense_mask(attention.windowed(attention.shared_prompt(doc_ids), 3, positions), 1, 7)[0, 0]
    assert mask[5].tolist() == [True, True, False, False, False, True, False]  # two of the prompt and itself
    assert mask[6].tolist() == [False, True, False, False, False, True, True]


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("window", [None, 7])
def test_flex_and_sdpa_are_one_function_with_windows_and_caps(monkeypatch, softcap, window):
    monkeypatch.setattr(attention, "_flex", lambda: flex_attention)  # uncompiled: the same function, on CPU
    mask = attention.intra_document(DOC_IDS)
    mask = mask if window is None else attention.windowed(mask, window)
    masks = {
        "flex": create_block_mask(mask, 2, None, 128, 128, device="cpu"),
        "sdpa": attention.dense_mask(mask, 2, 128),
    }
    out = {}
    for name, built in masks.items():
        more = {"document_masks": {window: built}, "sliding_window": window, "softcap": softcap}
        out[name], _ = attention.attention(None, *heads(), None, scaling=0.5, **more)
    torch.testing.assert_close(out["flex"], out["sdpa"], rtol=0, atol=2e-6)
    q, k, v = heads()
    scores = q @ k.repeat_interleave(2, 1).transpose(2, 3) * 0.5
    scores = scores if softcap is None else softcap * (scores / softcap).tanh()
    want = scores.masked_fill(~masks["sdpa"], -torch.inf).softmax(-1) @ v.repeat_interleave(2, 1)
    torch.testing.assert_close(out["sdpa"], want.transpose(1, 2), rtol=0, atol=2e-6)
    with pytest.raises(ValueError, match="attends within 5 positions, which its config does not say"):
        attention.attention(None, q, k, v, None, document_masks={window: masks["sdpa"]}, sliding_window=5)


def test_varlen_takes_windows_and_refuses_caps(monkeypatch):
    def twin(q_SHN, k_SKN, v_SKN, begins, *_, scale, window_size, enable_gqa):
        left, right = window_size
        assert right == 0
        out = []
        for a, b in begins.unfold(0, 2, 1).tolist():
            near = torch.ones(b - a, b - a, dtype=torch.bool).tril().triu(-left)  # itself and `left` before it
            parts = (x[a:b].transpose(0, 1) for x in (q_SHN, k_SKN, v_SKN))
            out.append(scaled_dot_product_attention(*parts, near, scale=scale, enable_gqa=enable_gqa).transpose(0, 1))
        return torch.cat(out)

    monkeypatch.setattr(varlen, "varlen_attn", twin)
    q, k, v = (x.bfloat16() for x in heads())
    found = varlen.documents(DOC_IDS)
    got, _ = attention.attention(None, q, k, v, None, documents=found, sliding_window=7)
    mask = attention.dense_mask(attention.windowed(attention.intra_document(DOC_IDS), 7), 2, 128)
    want, _ = attention.attention(None, q, k, v, mask)
    torch.testing.assert_close(got.float(), want.float(), rtol=0, atol=2e-2)
    with pytest.raises(ValueError, match="varlen has no soft cap"):
        attention.attention(None, q, k, v, None, documents=found, softcap=30.0)
    net = torch.nn.Module()
    net.config, net.model = AutoConfig.for_model("gemma2"), torch.nn.Module()
    with pytest.raises(ValueError, match="varlen has no soft cap"):
        attention.choose(net, "varlen", torch.device("cuda"), "bf16")


def test_a_row_shorter_than_the_window_builds_one_mask():
    net = model.build(TINY | {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1})
    for length, masks in ((9, 1), (10, 2)):
        ids = torch.zeros(1, length, dtype=torch.long)
        _, kwargs = attention._mask_from_doc_ids(net.model, (), {"input_ids": ids, "doc_ids": ids})
        assert len({id(mask) for mask in kwargs["document_masks"].values()}) == masks
        assert kwargs["document_masks"].keys() == {None, 9}


@pytest.mark.parametrize("chunk", [3, 64])
def test_capped_losses_and_log_probabilities_are_those_of_whole_logits(chunk):
    g = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.randn(2, 9, 12, generator=g).requires_grad_(),
        torch.randn(31, 12, generator=g).requires_grad_(),
    )
    labels = torch.randint(0, 31, (2, 9), generator=g)
    labels[:, ::4] = IGNORE
    logits = 2.0 * (hidden @ weight.T / 2.0).tanh()
    want = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    gradients = torch.autograd.grad(want, (hidden, weight), retain_graph=True)
    found = {
        "loss": linear_cross_entropy(hidden, weight, labels, chunk, softcap=2.0)[0],
        "log-probabilities": -token_logprobs(hidden, weight, labels, chunk, softcap=2.0).sum(),
    }
    for name, got in found.items():
        torch.testing.assert_close(got, want, rtol=1e-6, atol=0)
        for a, b in zip(torch.autograd.grad(got, (hidden, weight)), gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)
    with_z, _ = linear_cross_entropy(hidden, weight, labels, chunk, z_loss=0.1, softcap=2.0)
    z_squared = (logits.logsumexp(-1).square() * (labels != IGNORE)).sum()
    wanted = torch.autograd.grad(want + 0.1 * z_squared, hidden)[0]
    torch.testing.assert_close(torch.autograd.grad(with_z, hidden)[0], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padding", [None, 0])
def test_a_scaled_embedding_stays_scaled_and_learns_in_the_buffer(padding):
    shape = {**TINY, "head_dim": 8, "tie_word_embeddings": False, "pad_token_id": padding}
    net = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma3_text", **shape), attn_implementation="eager")
    ids = torch.arange(1, 20)[None]
    before = net(ids).logits
    before.square().mean().backward()
    wanted = net.model.embed_tokens.weight.grad.clone()
    vocabulary.attach(net)
    buffers = Gradients(net.parameters())
    after = net(ids).logits
    assert torch.equal(after, before)
    after.square().mean().backward()
    torch.testing.assert_close(net.model.embed_tokens.weight.grad, wanted, rtol=1e-5, atol=1e-8)
    assert buffers.norm() > 0


def test_generation_reads_the_logits_that_the_model_gives(tmp_path):
    for kind, more in (
        ("granite", {"logits_scaling": 5.0}),
        ("cohere", {"logit_scale": 0.2}),
        ("gemma2", {"head_dim": 8}),
    ):
        config = AutoConfig.for_model(kind, **TINY, **more, pad_token_id=0)
        net = AutoModelForCausalLM.from_config(config, attn_implementation="pinisi").eval()
        ids = torch.arange(1, 12)[None]
        with torch.no_grad():
            hidden = net.model(input_ids=ids, use_cache=False).last_hidden_state
            torch.testing.assert_close(head.logits(net, hidden), net(ids).logits, rtol=1e-6, atol=1e-6)


def test_the_context_is_written_where_it_changes_nothing():
    def config(rope_type, **more):
        parameters = {"rope_type": rope_type, "rope_theta": 1e4, **more}
        if rope_type == "longrope":
            bound = {"original_max_position_embeddings": 32, "pad_token_id": 0}
            return AutoConfig.for_model("phi3", **TINY, rope_parameters=parameters, **bound)
        return AutoConfig.for_model("llama", **TINY, rope_parameters=parameters)

    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 32}
    assert rope.by_distance_alone(config("default")) and rope.longest_row(config("default")) is None
    assert not rope.by_distance_alone(config("longrope", **factors))
    assert rope.longest_row(config("longrope", **factors)) == 32
    assert not rope.by_distance_alone(config("yarn", factor=2.0, original_max_position_embeddings=32))
    assert rope.longest_row(config("yarn", factor=2.0, original_max_position_embeddings=32)) is None
    assert rope.by_distance_alone(AutoConfig.for_model("gemma3_text"))  # one rotation for each kind of layer


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("tokens", [[58, 59], [61, 62], [60, 61]])
def test_new_tokens_begin_as_the_mean_and_move_no_other_logit(tied, tokens):
    net = model.build(TINY | {"tie_word_embeddings": tied}, seed=2).eval()
    ids = torch.arange(30)[None]
    with torch.no_grad():
        before = net(ids).logits
        mean = net.lm_head.weight[: tokens[0]].mean(0)
        add_rows(net, tokens)
        after = net(ids).logits
    assert after.shape[-1] == net.config.vocab_size == max(61, tokens[-1] + 1)
    assert torch.equal(after[..., : tokens[0]], before[..., : tokens[0]])
    assert torch.equal(net.lm_head.weight[tokens[1]], mean)
    assert (net.lm_head.weight is net.model.embed_tokens.weight) == tied
