"""The Bradley-Terry reward model: numbers against Hugging Face's own forward, learning, saving."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from train import model as models
from train import reward
from train.chat import encode_answers, render
from train.loop import LoopConfig, fit

PROMPTS = ["Apa itu perahu?", "ข้าวคืออะไร", "what is fish", "ເຮືອ", "nasi goreng itu apa?"]


def pair_rows(n=20):
    """Chosen answers are polite and rejected ones rude, whatever the prompt."""
    return [
        {
            "id": str(i),
            "lang": "id",
            "prompt": [{"role": "user", "content": f"{PROMPTS[i % 5]} {i}"}],
            "chosen": "terima kasih " * (1 + i % 3),
            "rejected": "pergi sana " * (1 + (i + 1) % 3),
        }
        for i in range(n)
    ]


def encoded(tokenizer, rows):
    return [encode_answers(tokenizer, rows, [row[side].strip() for row in rows]) for side in ("chosen", "rejected")]


def conversation(row, side):
    return [*row["prompt"], {"role": "assistant", "content": row[side].strip()}]


def test_scores_equal_the_forward_of_hugging_face(chatml_tokenizer, tiny_model, tmp_path):
    net = reward.build(tiny_model(), pad_token_id=0, seed=1)
    models.save(net, chatml_tokenizer, str(tmp_path / "rm"), 512)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    talks = [conversation(row, side) for row in pair_rows(7) for side in ("chosen", "rejected")]
    texts = [render(messages)[0].removesuffix("\n") for messages in talks]
    with torch.no_grad():
        batch = chatml_tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
        expected = theirs(**batch).logits.squeeze(-1).numpy()
    for budget in (1, 300, 8192):  # batches of one, of some, of all
        scores = reward.score(net, chatml_tokenizer, talks, tokens_per_batch=budget)
        assert np.allclose(scores, expected, atol=1e-5)
    assert np.std(expected) > 0.01
    assert np.allclose(reward.score(reward.load(str(tmp_path / "rm")), chatml_tokenizer, talks), expected, atol=1e-5)
    assert (tmp_path / "rm" / "model.safetensors").exists()


def test_a_causal_lm_is_no_reward_model(chatml_tokenizer, tiny_model, tmp_path):
    models.save(tiny_model(), chatml_tokenizer, str(tmp_path / "lm"), 512)
    with pytest.raises(ValueError, match="is not a reward model"):
        reward.load(str(tmp_path / "lm"))


def test_loss_and_metrics_by_hand(chatml_tokenizer, tiny_model):
    net = reward.build(tiny_model(), pad_token_id=0)
    rows = pair_rows(3)
    chosen, rejected = encoded(chatml_tokenizer, rows)
    batch = reward.batch_fn(chosen, rejected, seed=0)([0, 1, 2])
    parts = reward.loss(net, batch)
    r = {
        side: reward.score(net, chatml_tokenizer, [conversation(row, side) for row in rows])
        for side in ("chosen", "rejected")
    }
    margins = r["chosen"].astype(np.float64) - r["rejected"]
    assert parts.count == int(batch["count"]) == 3
    assert parts.loss_sum.item() == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins), abs=1e-4)
    assert parts.metrics["margin"].item() == pytest.approx(margins.sum(), abs=1e-4)
    assert int(parts.metrics["accuracy"]) == (margins > 0).sum()


def test_it_learns_what_the_pairs_prefer(chatml_tokenizer, tiny_model, tmp_path):
    net = reward.build(tiny_model(), pad_token_id=0)
    rows = pair_rows(20)
    chosen, rejected = encoded(chatml_tokenizer, rows[:15])
    records = []
    config = LoopConfig(steps=10, rows_per_step=5, micro_rows=5, lr=1e-3, log_every=1)
    fit(net, reward.batch_fn(chosen, rejected, seed=0), reward.loss, config, str(tmp_path), on_log=records.append)
    assert records[-1]["loss"] < 0.3 < records[0]["loss"]
    assert records[-1]["accuracy"] == 1.0
    unseen = [
        reward.score(net, chatml_tokenizer, [conversation(row, side) for row in rows[15:]])
        for side in ("chosen", "rejected")
    ]
    assert reward.accuracy(*unseen) == 1.0


def test_the_end_of_a_long_conversation_is_read(chatml_tokenizer, tiny_model):
    net = reward.build(tiny_model(), pad_token_id=0)
    row = pair_rows(1)[0]
    long = [
        {"role": "user", "content": "ikan " * 50},
        {"role": "assistant", "content": "ya"},
        *conversation(row, "chosen"),
    ]
    other = [
        {"role": "user", "content": "beras " * 50},
        {"role": "assistant", "content": "ya"},
        *conversation(row, "chosen"),
    ]
    cut = reward.score(net, chatml_tokenizer, [long, other], max_tokens=20)
    whole = reward.score(net, chatml_tokenizer, [long, other])
    assert cut[0] == cut[1]
    assert whole[0] != whole[1]


def test_accuracy_counts_ties_as_half():
    assert reward.accuracy(np.array([1.0, 0.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0, 1.0])) == 0.625


def test_building_does_not_depend_on_the_global_generator(tiny_model):
    base = tiny_model()
    torch.manual_seed(1)
    one = reward.build(base, pad_token_id=0, seed=5).score.weight
    torch.manual_seed(2)
    assert torch.equal(one, reward.build(base, pad_token_id=0, seed=5).score.weight)
    assert not torch.equal(one, reward.build(base, pad_token_id=0, seed=6).score.weight)


def test_no_pairs_is_a_clear_error():
    with pytest.raises(ValueError, match="no preference pair"):
        reward.batch_fn([], [], seed=0)
