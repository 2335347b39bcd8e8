"""Our sampling beside `transformers`: greedy token for token, and the frequencies of samples against its exact softmax."""

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from train import model
from train.chat.conversations import encode_prompts
from train.generation.generate import Sampling, generate, stop_ids

TEXTS = ["ikan", "apa itu perahu layar yang besar sekali dan cepat?", "ข้าว", "nasi goreng", "a"]
PROMPTS = [{"id": f"p{i}", "lang": "id", "prompt": [{"role": "user", "content": text}]} for i, text in enumerate(TEXTS)]


@pytest.fixture
def both(tiny_model, chatml_tokenizer, tmp_path):
    """One model as ours, and as `transformers` loads it by itself."""
    net = tiny_model(seed=3)
    model.save(net, chatml_tokenizer, str(tmp_path), 512)
    return net, AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_greedy_is_that_of_transformers_with_padding_on_the_left_and_ends(both, chatml_tokenizer, batch_size):
    net, theirs = both
    stop = stop_ids(chatml_tokenizer)
    with torch.no_grad():  # ends come within the answers of some prompts and not of others
        net.lm_head.weight[stop] *= -3
        theirs.lm_head.weight[stop] *= -3
    prompts = encode_prompts(chatml_tokenizer, [p["prompt"] for p in PROMPTS])
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    seen = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    found = theirs.generate(
        ids, attention_mask=seen, do_sample=False, max_new_tokens=40, eos_token_id=stop, pad_token_id=0
    )
    expected = []
    for row in found[:, longest:].tolist():
        end = next((i for i, token in enumerate(row) if token in stop), len(row) - 1)
        expected.append(row[: end + 1])
    rows = generate(
        net, chatml_tokenizer, PROMPTS, Sampling(n=1, temperature=0, max_new_tokens=40, batch_size=batch_size)
    )
    assert [row["answer_ids"] for row in rows] == expected
    assert len({row["tokens"] for row in rows}) > 1
    assert {row["finished"] for row in rows} == {True, False}


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (1.5, 0.8)])
def test_frequencies_of_samples_are_the_exact_softmax(both, chatml_tokenizer, temperature, top_p):
    """Chi-square of the first token, and of the second after the most frequent first: 1,500 samples to each of two prompts."""
    net, theirs = both
    with torch.no_grad():  # not so flat that every token is rare
        net.lm_head.weight *= 6
        theirs.lm_head.weight *= 6
    n = 1500
    rows = generate(
        net,
        chatml_tokenizer,
        PROMPTS[:2],
        Sampling(n=n, temperature=temperature, top_p=top_p, max_new_tokens=2, seed=5, batch_size=1),
    )
    warp = LogitsProcessorList([TemperatureLogitsWarper(temperature), TopPLogitsWarper(top_p)])
    for prompt in PROMPTS[:2]:
        samples = [row["answer_ids"] for row in rows if row["id"] == prompt["id"]]
        first = max(samples, key=lambda ids: sum(other[0] == ids[0] for other in samples))[0]
        begin = encode_prompts(chatml_tokenizer, [prompt["prompt"]])[0]
        for given, drawn in (
            ([], [ids[0] for ids in samples]),
            ([first], [ids[1] for ids in samples if ids[0] == first and len(ids) > 1]),
        ):
            with torch.no_grad():
                logits = theirs(torch.tensor([begin + given])).logits[:, -1]
            p = torch.softmax(warp(None, logits), -1)[0].double().numpy()
            counts = np.bincount(drawn, minlength=len(p))
            assert not counts[p == 0].any()
            often = p * len(drawn) >= 5
            observed = [*counts[often], counts[~often].sum()]
            expected = [*p[often] * len(drawn), p[~often].sum() * len(drawn)]
            if expected[-1] < 1e-6:
                observed, expected = observed[:-1], expected[:-1]
            assert len(drawn) > 100
            if len(expected) > 1:
                assert stats.chisquare(observed, np.array(expected) / np.sum(expected) * np.sum(observed)).pvalue > 1e-3
