"""Sampling with a KV cache: against the whole forward, against frequencies, and against itself."""

import numpy as np
import pytest
import torch

from train.chat.conversations import encode_prompts
from train.chat.tokens import im_end_id
from train.generation.generate import Sampling, generate, logprob_gap, uniforms
from train.generation.nucleus import draw

TEXTS = ["ikan", "apa itu perahu layar yang besar sekali?", "ข้าว", "nasi goreng"]
PROMPTS = [
    {"id": f"p{i}", "lang": "id", "task": "qa", "prompt": [{"role": "user", "content": text}]}
    for i, text in enumerate(TEXTS)
]


def greedy_without_cache(net, tokenizer, row, n, stop):
    ids = list(encode_prompts(tokenizer, [row["prompt"]])[0])
    out = []
    while len(out) < n and not (out and out[-1] in stop):
        with torch.no_grad():
            out.append(int(net(input_ids=torch.tensor([ids + out])).logits[0, -1].argmax()))
    return out


def test_greedy_equals_whole_forwards(chatml_tokenizer, tiny_model):
    net = tiny_model(seed=3)
    rows = generate(net, chatml_tokenizer, PROMPTS, Sampling(n=1, temperature=0, max_new_tokens=12))
    stop = {0, im_end_id(chatml_tokenizer)}
    assert [r["answer_ids"] for r in rows] == [
        greedy_without_cache(net, chatml_tokenizer, row, 12, stop) for row in PROMPTS
    ]


def test_rows_say_everything_in_the_order_of_the_prompts(chatml_tokenizer, tiny_model):
    rows = generate(tiny_model(), chatml_tokenizer, PROMPTS, Sampling(n=3, max_new_tokens=40, batch_size=2))
    assert [(r["id"], r["sample"]) for r in rows] == [(p["id"], k) for p in PROMPTS for k in range(3)]
    ends = {0, im_end_id(chatml_tokenizer)}
    assert {r["finished"] for r in rows} == {True, False}
    for r in rows:
        assert r["task"] == "qa"
        assert r["tokens"] == len(r["answer_ids"])
        assert r["finished"] == (r["answer_ids"][-1] in ends)
        assert not ends & set(r["answer_ids"][:-1])
        assert r["finished"] or r["tokens"] == 40
        assert "<|im" not in r["answer"]
        assert r["answer"] == chatml_tokenizer.decode(r["answer_ids"], skip_special_tokens=True).strip()


def test_samples_depend_on_seed_prompt_and_number_not_on_the_batch(chatml_tokenizer, tiny_model):
    net = tiny_model()
    sampling = Sampling(n=2, temperature=1.0, max_new_tokens=10)
    rows = {(r["id"], r["sample"]): r["answer_ids"] for r in generate(net, chatml_tokenizer, PROMPTS, sampling)}
    assert len({tuple(ids) for ids in rows.values()}) == len(rows)
    alone = generate(
        net, chatml_tokenizer, PROMPTS[2:3], Sampling(n=2, temperature=1.0, max_new_tokens=10, batch_size=1)
    )
    assert [r["answer_ids"] for r in alone] == [rows["p2", 0], rows["p2", 1]]
    reseeded = generate(net, chatml_tokenizer, PROMPTS[:1], Sampling(n=2, temperature=1.0, max_new_tokens=10, seed=1))
    assert [r["answer_ids"] for r in reseeded] != [rows["p0", 0], rows["p0", 1]]


def test_uniforms_are_uniform_and_distinct():
    u = np.concatenate([uniforms(0, f"prompt {i}", k, 50) for i in range(50) for k in range(4)])
    assert len(np.unique(u)) == len(u) == 10_000
    assert np.histogram(u, 10, (0, 1))[0].min() > 900


def test_draw_has_the_frequencies_of_the_nucleus():
    logits = torch.tensor([2.0, -1.0, 1.0, 0.0, -3.0])
    p = torch.softmax(logits.double() / 0.7, -1)
    nucleus = [0, 2]  # 0.79 + 0.19 is the first sum of at least 0.9
    assert p[0] < 0.9 <= p[nucleus].sum()
    u = torch.arange(20_000).double() / 20_000
    tokens = draw(logits.expand(len(u), -1), u, temperature=0.7, top_p=0.9)
    counts = torch.bincount(tokens, minlength=5).double() / len(u)
    expected = torch.zeros(5, dtype=torch.float64)
    expected[nucleus] = p[nucleus] / p[nucleus].sum()
    assert torch.allclose(counts, expected, atol=1e-4)
    everything = torch.bincount(draw(logits.expand(len(u), -1), u, 1.0, 1.0), minlength=5).double() / len(u)
    assert torch.allclose(everything, torch.softmax(logits.double(), -1), atol=1e-4)


def test_draw_in_a_large_vocabulary_equals_the_sorted_definition():
    torch.manual_seed(0)
    logits = torch.cat([torch.randn(20, 3000) * 4, torch.randn(20, 3000) * 0.1])  # nuclei of few and of most tokens
    u = torch.rand(40, dtype=torch.float64)
    found = draw(logits, u, temperature=0.8, top_p=0.9)
    for row, u_row, token in zip(logits, u.tolist(), found.tolist(), strict=True):
        p = torch.softmax(row / 0.8, -1).double()
        order = p.argsort(descending=True)
        size = int((p[order].cumsum(-1) < 0.9).sum()) + 1
        nucleus = p[order[:size]] / p[order[:size]].sum()
        assert token == int(order[int((nucleus.cumsum(-1) <= u_row).sum())])


def test_draw_at_the_ends():
    logits = torch.tensor([[0.0, 5.0, 1.0]]).expand(3, -1)
    u = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert draw(logits, u, 0, 1.0).tolist() == [1, 1, 1]
    assert draw(logits, u, 1.0, 1e-9).tolist() == [1, 1, 1]
    assert draw(logits, u, 1.0, 1.0).tolist() == [1, 1, 0]


def test_the_probe_sees_other_weights(chatml_tokenizer, tiny_model):
    net = tiny_model()
    samples = generate(net, chatml_tokenizer, PROMPTS, Sampling(n=2, max_new_tokens=10))
    assert logprob_gap(net, samples) < 1e-4
    with torch.no_grad():
        net.lm_head.weight.mul_(1.05)
    assert logprob_gap(net, samples) > 1e-2


@pytest.mark.parametrize(
    "wrong", [{"n": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"temperature": -1.0}, {"max_new_tokens": 0}, {"batch_size": 0}]
)
def test_impossible_settings_are_errors(wrong):
    with pytest.raises(ValueError, match=r"[Ss]ampling"):
        Sampling(**wrong)


def test_no_prompts_give_no_samples(chatml_tokenizer, tiny_model):
    assert generate(tiny_model(), chatml_tokenizer, [], Sampling()) == []
