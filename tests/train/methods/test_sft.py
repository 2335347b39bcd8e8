"""Packing, batches and the loss of supervised fine-tuning."""

import random

import numpy as np
import pytest
import torch

from train.batches.examples import collate
from train.chat.conversations import encode
from train.loop import LoopConfig, fit
from train.methods import sft


def naive_best_fit(lengths, room):
    """The definition: from the longest, into the fullest row with room, of equally full ones the last opened or filled."""
    rows = []  # [free space, when it was last touched, indices]
    for time, i in enumerate(sorted(range(len(lengths)), key=lambda i: -lengths[i])):
        fitting = [row for row in rows if row[0] >= lengths[i]]
        if fitting:
            row = min(fitting, key=lambda row: (row[0], -row[1]))
        else:
            rows.append(row := [room, 0, []])
        row[0] -= lengths[i]
        row[1] = time
        row[2].append(i)
    return [row[2] for row in rows]


def test_pack_by_hand():
    assert sft.pack([3, 7, 2, 5, 3], 10) == [[1, 0], [3, 4, 2]]
    assert sft.pack([], 10) == []
    assert sft.pack([10, 10], 10) == [[0], [1]]


def test_pack_equals_the_naive_best_fit():
    rng = random.Random(1)
    for _ in range(50):
        room = rng.randint(1, 60)
        lengths = [rng.randint(1, room) for _ in range(rng.randint(0, 80))]
        rows = sft.pack(lengths, room)
        assert rows == naive_best_fit(lengths, room)
        assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
        assert all(sum(lengths[i] for i in row) <= room for row in rows)


def test_pack_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="11 positions does not fit in rows of 10"):
        sft.pack([3, 11], 10)


def talks(n):
    words = ["ikan", "ข้าว", "boat", "ເຮືອ", "nasi goreng"]
    rng = random.Random(n)
    return [
        {
            "id": f"talk-{i}",
            "lang": "id",
            "messages": [
                {"role": "user", "content": " ".join(rng.choices(words, k=rng.randint(1, 4)))},
                {"role": "assistant", "content": " ".join(rng.choices(words, k=rng.randint(1, 6)))},
            ],
        }
        for i in range(n)
    ]


def test_an_epoch_trains_every_assistant_token_once(chatml_tokenizer):
    examples = encode(chatml_tokenizer, talks(12))
    rows = sft.pack([e.positions for e in examples], 160)
    assert 1 < len(rows) < 12
    batch_fn = sft.batch_fn(examples, rows, 160, seed=0)
    batches = [batch_fn([i]) for i in range(len(rows))]
    trained = np.sort(torch.cat([b["labels"][b["labels"] >= 0] for b in batches]).numpy())
    assert np.array_equal(trained, np.sort(np.concatenate([e.ids[e.scored] for e in examples])))
    assert sum(int(b["count"]) for b in batches) == len(trained)
    again = batch_fn([1, 0])
    assert torch.equal(again["input_ids"][0], batches[1]["input_ids"][0])


def test_packed_loss_and_gradients_are_those_of_the_conversations_apart(chatml_tokenizer, tiny_model):
    examples = encode(chatml_tokenizer, talks(6))
    net = tiny_model()
    rows = sft.pack([e.positions for e in examples], 200)
    packed = collate([[examples[i] for i in row] for row in rows], 200)

    def run(batches):
        net.zero_grad()
        parts = [sft.loss(net, batch) for batch in batches]
        loss_sum = sum(p.loss_sum for p in parts)
        loss_sum.backward()
        return loss_sum.item(), sum(int(p.count) for p in parts), [p.grad.clone() for p in net.parameters()]

    loss, count, gradients = run([packed])
    loss_apart, count_apart, gradients_apart = run([collate([[e]]) for e in examples])
    assert count == count_apart == sum(int(e.scored.sum()) for e in examples)
    assert loss == pytest.approx(loss_apart, rel=1e-6)
    for a, b in zip(gradients, gradients_apart, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_few_conversations_are_learned_through_the_loop(chatml_tokenizer, tiny_model, tmp_path):
    examples = encode(chatml_tokenizer, talks(8))
    rows = sft.pack([e.positions for e in examples], 256)
    config = LoopConfig(steps=15, rows_per_step=2, micro_rows=1, lr=3e-3, log_every=3)
    records = []
    net = tiny_model()
    fit(net, sft.batch_fn(examples, rows, 256, seed=0), sft.loss, config, str(tmp_path), on_log=records.append)
    assert records[-1]["loss"] < 0.5 * records[0]["loss"]


def test_nothing_to_train_on_is_a_clear_error():
    with pytest.raises(ValueError, match="no example to train on"):
        sft.batch_fn([], [], 10, seed=0)
