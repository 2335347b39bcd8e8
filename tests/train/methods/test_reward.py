"""The Bradley-Terry reward model: loss by hand, learning."""

import math

import numpy as np
import pytest
import torch

from train.loop import LoopConfig, fit
from train.methods import reward
from train.scores import reward_quality, reward_scores

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
    return [reward.encode(tokenizer, rows, [row[side].strip() for row in rows]) for side in ("chosen", "rejected")]


def conversation(row, side):
    return [*row["prompt"], {"role": "assistant", "content": row[side].strip()}]


def scores(net, tokenizer, rows, side):
    return reward_scores.score(net, tokenizer, [conversation(row, side) for row in rows])


def test_loss_and_metrics_by_hand(chat_tokenizer, tiny_model):
    net = reward.build(tiny_model(), pad_token_id=0)
    rows = pair_rows(3)
    chosen, rejected = encoded(chat_tokenizer, rows)
    batch = reward.batch_fn(chosen, rejected, seed=0)([0, 1, 2])
    parts = reward.loss(net, batch)
    r = {side: scores(net, chat_tokenizer, rows, side) for side in ("chosen", "rejected")}
    margins = r["chosen"].astype(np.float64) - r["rejected"]
    assert parts.count == int(batch["count"]) == 3
    assert parts.loss_sum.item() == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins), abs=1e-4)
    assert parts.metrics["margin"].item() == pytest.approx(margins.sum(), abs=1e-4)
    assert int(parts.metrics["accuracy"]) == (margins > 0).sum()


def test_it_learns_what_the_pairs_prefer(chat_tokenizer, tiny_model, tmp_path):
    net = reward.build(tiny_model(), pad_token_id=0)
    rows = pair_rows(20)
    chosen, rejected = encoded(chat_tokenizer, rows[:15])
    records = []
    config = LoopConfig(steps=10, rows_per_step=5, micro_rows=5, lr=1e-3, log_every=1)
    fit(net, reward.batch_fn(chosen, rejected, seed=0), reward.loss, config, str(tmp_path), on_log=records.append)
    assert records[-1]["loss"] < 0.3 < records[0]["loss"]
    assert records[-1]["accuracy"] == 1.0
    chosen, rejected = (scores(net, chat_tokenizer, rows[15:], side) for side in ("chosen", "rejected"))
    assert reward_quality.accuracy(chosen - rejected) == 1.0


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
