"""Continuations are what is drawn, by seed and name, without the halves of characters at their end."""

import torch

from train.generation.continuations import BROKEN, continuations
from train.generation.generate import Sampling, uniforms
from train.generation.nucleus import draw

PROMPTS = {"id": "ikan itu", "th": "ข้าว", "empty": ""}


def without_cache(net, tokenizer, name, text, sampling):
    ids = tokenizer.encode(text) or [tokenizer.eos_token_id]
    out = []
    for u in uniforms(sampling.seed, name, 0, sampling.max_new_tokens):
        with torch.no_grad():
            logits = net(input_ids=torch.tensor([ids + out])).logits[:, -1].float()
        token = int(draw(logits, torch.tensor([u]), sampling.temperature, sampling.top_p))
        if token == tokenizer.eos_token_id:
            break
        out.append(token)
    return tokenizer.decode(out, skip_special_tokens=True).rstrip(BROKEN)


def test_equal_to_one_whole_forward_a_token(chatml_tokenizer, tiny_model):
    net = tiny_model(seed=3)
    sampling = Sampling(n=1, temperature=0.7, top_p=0.9, max_new_tokens=9, seed=5, batch_size=2)
    found = continuations(net, chatml_tokenizer, PROMPTS, sampling)
    assert found == {name: without_cache(net, chatml_tokenizer, name, text, sampling) for name, text in PROMPTS.items()}
    assert len(set(found.values())) == 3 and not any(text.endswith(BROKEN) for text in found.values())
    assert continuations(net, chatml_tokenizer, {"th": PROMPTS["th"]}, sampling)["th"] == found["th"]
