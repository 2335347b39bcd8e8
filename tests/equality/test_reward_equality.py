"""Reward models against TRL's RewardTrainer, a loop over single pairs, and Hugging Face's forward of one conversation."""

import copy
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from train import model as models
from train.methods import reward
from train.scores import reward_scores

WORDS = ["ikan", "perahu", "ข้าว", "ເຮືອ", "nasi goreng", "ya", "tidak", "漢字", "ရန်ကုန်"]
ATOL = 1e-6


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)

    def text(most):
        return " ".join(rng.choice(WORDS, rng.integers(1, most)))

    return [
        {
            "id": str(i),
            "lang": "id",
            "prompt": [{"role": "user", "content": text(5)}],
            "chosen": text(9),
            "rejected": text(9),
        }
        for i in range(4)
    ]


@pytest.fixture
def pairs(rows, chat_tokenizer):
    return [reward.encode(chat_tokenizer, rows, [row[side] for row in rows]) for side in ("chosen", "rejected")]


def talks(rows):
    return [
        [*row["prompt"], {"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected") for row in rows
    ]


def ours(net, pairs, packed=False):
    """(mean loss, gradients by name) of all pairs."""
    net.zero_grad()
    numbers = list(range(len(pairs[0])))
    parts = reward.loss(net, reward.batch_fn(*pairs, seed=0, packed=packed)(numbers))
    loss = parts.loss_sum / parts.count
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in net.named_parameters()}


def alone(model, tokenizer, conversations):
    """Rewards by Hugging Face's own forward, one conversation at a time."""
    with torch.no_grad():
        return np.array(
            [
                model(**tokenizer.apply_chat_template(talk, return_dict=True, return_tensors="pt")).logits.item()
                for talk in conversations
            ],
            np.float32,
        )


def same(gradients, expected):
    scale = max(g.abs().max().item() for g in expected.values())
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(gradients[name], gradient, rtol=1e-4, atol=1e-5 * scale), name


def test_what_is_trained_on_is_what_the_template_renders(rows, pairs, chat_tokenizer):
    expected = [chat_tokenizer.apply_chat_template(talk, return_dict=False) for talk in talks(rows)]
    assert [example.ids.tolist() for side in pairs for example in side] == expected


def test_loss_and_gradients_equal_trl(rows, pairs, tiny_model, chat_tokenizer, tmp_path):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    net = reward.build(tiny_model(), pad_token_id=0, seed=1)
    models.save(net, chat_tokenizer, str(tmp_path / "rm"), 512)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm", dtype=torch.float32)
    args = trl.RewardConfig(
        output_dir=str(tmp_path / "out"), use_cpu=True, bf16=False, report_to=[], gradient_checkpointing=False,
        disable_dropout=True,
    )  # fmt: skip
    pair = [
        {
            role: [{"role": "user", "content": "a"}, {"role": "assistant", "content": role}]
            for role in ("chosen", "rejected")
        }
    ]
    trainer = trl.RewardTrainer(
        theirs, args=args, train_dataset=Dataset.from_list(pair), processing_class=chat_tokenizer
    )
    features = [
        {"chosen_ids": chosen.ids.tolist(), "rejected_ids": rejected.ids.tolist()}
        for chosen, rejected in zip(*pairs, strict=True)
    ]
    theirs.train()
    expected = trainer.compute_loss(trainer.model, trainer.data_collator(features))
    expected.backward()
    loss, gradients = ours(net, pairs)
    assert loss == pytest.approx(expected.item(), abs=ATOL)
    assert abs(loss - math.log(2)) > 1e-3
    same(gradients, {name: p.grad for name, p in theirs.named_parameters()})


def test_loss_and_gradients_equal_single_pairs_by_hand(pairs, tiny_model):
    net = reward.build(tiny_model(), pad_token_id=0, seed=1)
    loss, gradients = ours(net, pairs)
    net.zero_grad()
    total = 0.0
    for chosen, rejected in zip(*pairs, strict=True):
        ends = [net.model(input_ids=torch.tensor(e.ids)[None]).last_hidden_state[0, -1] for e in (chosen, rejected)]
        margin = (ends[0] - ends[1]) @ net.score.weight[0]
        one = torch.log1p(torch.exp(-margin)) / len(pairs[0])
        one.backward()
        total += one.item()
    assert loss == pytest.approx(total, abs=ATOL)
    same(gradients, {name: p.grad for name, p in net.named_parameters()})


def test_packed_equals_padded(pairs, tiny_model):
    net = reward.build(tiny_model(), pad_token_id=0, seed=1)
    padded, gradients = ours(net, pairs)
    packed, packed_gradients = ours(net, pairs, packed=True)
    assert packed == pytest.approx(padded, abs=ATOL)
    same(packed_gradients, gradients)


def test_scores_equal_one_conversation_at_a_time(rows, pairs, tiny_model, chat_tokenizer, tmp_path):
    """Our own model, saved, through Hugging Face's forward and through ours, padded and packed."""
    net = reward.build(tiny_model(), pad_token_id=0, seed=1)
    models.save(net, chat_tokenizer, str(tmp_path / "rm"), 512)
    loaded, tokenizer = reward_scores.load(str(tmp_path / "rm"))
    expected = alone(loaded, tokenizer, talks(rows))
    assert np.std(expected) > 0.01
    for budget in (1, 100, 8192):  # batches of one, of some, of all
        assert np.allclose(reward_scores.score(loaded, tokenizer, talks(rows), budget), expected, atol=1e-5)
    for packed in (False, True):
        batch = reward.whole([*pairs[0], *pairs[1]], packed)
        assert np.allclose(reward.rewards(net, batch).detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("padding", [None, 0, 2])  # 2 is <|im_end|>, which the model then never reads as an end
def test_another_architecture_with_its_own_template(rows, chat_tokenizer, tmp_path, padding):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=300, num_labels=1, pad_token_id=padding, **sizes)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer = copy.deepcopy(chat_tokenizer)
    tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}<|im_end|>{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    model, tokenizer = reward_scores.load(str(tmp_path))
    expected = alone(model, tokenizer, talks(rows))
    assert np.std(expected) > 1e-4
    assert np.allclose(reward_scores.score(model, tokenizer, talks(rows), 200), expected, atol=1e-6)
    assert model.config.pad_token_id == padding


def test_of_a_long_conversation_the_end_is_read(tiny_model, chat_tokenizer):
    net = reward.build(tiny_model(), pad_token_id=0)
    net.config.max_position_embeddings = 20
    end = [
        {"role": "assistant", "content": "ya"},
        {"role": "user", "content": "apa?"},
        {"role": "assistant", "content": "ikan"},
    ]
    one, other = ([{"role": "user", "content": f"{word} " * 50}, *end] for word in ("ikan", "beras"))
    cut = reward_scores.score(net, chat_tokenizer, [one, other])
    net.config.max_position_embeddings = 512
    whole = reward_scores.score(net, chat_tokenizer, [one, other])
    assert cut[0] == pytest.approx(cut[1], abs=1e-5)
    assert abs(whole[0] - whole[1]) > 1e-3


def test_what_is_no_reward_model_is_a_clear_error(chatml_tokenizer, chat_tokenizer, tiny_model, tmp_path):
    models.save(tiny_model(), chat_tokenizer, str(tmp_path / "lm"), 512)
    with pytest.raises(ValueError, match="is not a reward model"):
        reward_scores.load(str(tmp_path / "lm"))
    models.save(reward.build(tiny_model(), pad_token_id=0), chatml_tokenizer, str(tmp_path / "rm"), 512)
    with pytest.raises(ValueError, match="has no chat template"):
        reward_scores.load(str(tmp_path / "rm"))
    with pytest.raises(ValueError, match="no reward model in this folder"):
        reward_scores.load(str(tmp_path / "nothing"))
