"""Embeddings and perplexities against one conversation at a time."""

import json

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from train.chat.conversations import encode
from train.scores import embed
from train.scores.logprobs import perplexity


def rows(texts):
    return [
        {
            "id": str(i),
            "lang": lang,
            "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}],
        }
        for i, (lang, text) in enumerate(texts)
    ]


TEXTS = [("id", "ikan"), ("id", "perahu layar itu"), ("th", "ข้าว"), ("th", "ปลา"), ("id", "nasi"), ("lo", "ເຮືອ")]


def test_one_pass_gives_perplexity_and_the_mean_of_hidden_states(chatml_tokenizer, tiny_model):
    examples = encode(chatml_tokenizer, rows(TEXTS), score="content")
    net = tiny_model()
    found, embeddings = embed.surprise(net, examples, tokens_per_batch=150)
    with torch.no_grad():
        raw = np.stack(
            [net.model(input_ids=torch.tensor(e.ids[:-1])[None]).last_hidden_state.mean(1)[0].numpy() for e in examples]
        )
    assert np.allclose(embeddings, raw, atol=1e-5)
    assert np.allclose(found, perplexity(net, examples), rtol=1e-5)


def test_the_mean_of_each_language_is_taken_off(tmp_path):
    rng = np.random.default_rng(0)
    langs = rng.choice(["th", "lo"], 50).tolist()
    raw = rng.normal(3.0, size=(50, 4)).astype(np.float32)
    mapped = np.memmap(tmp_path / "embeddings", np.float32, "w+", shape=raw.shape)
    mapped[:] = raw
    embed.centre(mapped, langs)
    for lang in ("th", "lo"):
        inside = np.array(langs) == lang
        assert np.allclose(mapped[inside], raw[inside] - raw[inside].mean(0), atol=1e-6)


def test_perplexity_is_of_the_answers_content_alone(chatml_tokenizer, tiny_model):
    texts = [("id", "ikan besar"), ("th", "ข้าวและปลา"), ("id", "a")]
    examples = encode(chatml_tokenizer, rows(texts), score="content")
    net = tiny_model()
    found = perplexity(net, examples, tokens_per_batch=64)
    for e, (_, text), value in zip(examples, texts, found, strict=True):
        assert chatml_tokenizer.decode(e.ids[e.scored]) == text
        with torch.no_grad():
            logp = net(input_ids=torch.tensor(e.ids)[None]).logits[0].double().log_softmax(-1)
        positions = np.flatnonzero(e.scored)
        mean = np.mean([float(logp[t - 1, e.ids[t]]) for t in positions])
        assert value == pytest.approx(np.exp(-mean), rel=1e-4)


@pytest.fixture
def sentence_model(chatml_tokenizer, tmp_path):
    """`sentence_model(**pooling)`: the folder of a random BERT of 2 layers that pools so."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    BertModel(BertConfig(vocab_size=300, max_position_embeddings=64, **sizes)).save_pretrained(tmp_path)
    chatml_tokenizer.save_pretrained(tmp_path)

    def build(**pooling):
        if pooling:
            (tmp_path / "1_Pooling").mkdir(exist_ok=True)
            (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        return str(tmp_path)

    return build


@pytest.mark.parametrize(
    ("pooling", "of"),
    [
        ({}, lambda hidden: hidden.mean(0)),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda hidden: hidden[0]),
        ({"pooling_mode_lasttoken": True}, lambda hidden: hidden[-1]),
    ],
)
def test_a_sentence_model_pools_as_its_folder_says(sentence_model, chatml_tokenizer, pooling, of):
    folder = sentence_model(**pooling)
    net = embed.SentenceModel(folder)
    talks = [row["messages"] for row in rows([*TEXTS, ("id", "perahu " * 60)])]
    found = net.embed(talks, tokens_per_batch=100)
    own = BertModel.from_pretrained(folder).eval()
    for turns, vector in zip(talks, found, strict=True):
        ids = chatml_tokenizer("\n".join(turn["content"] for turn in turns))["input_ids"][:64]
        with torch.no_grad():
            hidden = own(input_ids=torch.tensor([ids])).last_hidden_state[0]
        assert np.allclose(vector, of(hidden).numpy(), atol=1e-5)
    assert found.std() > 0.01


def test_an_unknown_pooling_is_a_clear_error(sentence_model):
    with pytest.raises(ValueError, match="pools by pooling_mode_max_tokens"):
        embed.SentenceModel(sentence_model(pooling_mode_max_tokens=True))
