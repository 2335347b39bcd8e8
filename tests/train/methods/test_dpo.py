"""Preference losses, their batches, the reference cache, and a small run through the loop."""

import math

import numpy as np
import pytest
import torch

from cluster import storage
from train.chat import conversations as chat
from train.loop import LoopConfig, fit
from train.methods import dpo
from train.methods.dpo import Objective
from train.preference_losses.answers import Answers
from train.preference_losses.table import LOSSES
from train.scores.logprobs import logprobs

WORDS = ["ikan", "perahu", "ข้าว", "ເຮືອ", "nasi goreng", "ya", "tidak"]


def pair_rows(n=6):
    return [
        {
            "id": f"pair{i}",
            "lang": "id",
            "prompt": [{"role": "user", "content": " ".join(WORDS[j % 7] for j in range(i, i + 1 + i % 3))}],
            "chosen": " ".join(WORDS[(i + j) % 7] for j in range(1 + i % 4)),
            "rejected": " ".join(WORDS[(3 * i + j) % 7] for j in range(2 + (2 * i) % 3)) + "!",
        }
        for i in range(n)
    ]


@pytest.fixture
def pairs(chatml_tokenizer):
    found, rejects = dpo.encode_pairs(chatml_tokenizer, pair_rows(), 256)
    assert len(found.chosen) == 6
    assert rejects == []
    return found


def answers(logp, reference, length):
    return Answers(*(torch.tensor([float(x)]) for x in (logp, reference, length)))


W, L = answers(-10, -12, 4), answers(-20, -19, 7)  # log-ratios 2 and -1


@pytest.mark.parametrize(
    ("objective", "logit"),
    [
        (Objective("dpo", beta=0.1), 0.1 * 3),
        (Objective("lr_dpo", beta=0.1, alpha=0.02), 0.1 * 3 + 0.02 * (4 - 7)),
        (Objective("ln_dpo", beta=2.0), 2 * (2 / 4 + 1 / 7)),
        (Objective("simpo", beta=2.0, gamma=0.3), 2 * (-10 / 4 + 20 / 7) - 0.3),
    ],
)
def test_losses_by_hand(objective, logit):
    assert objective(W, L).item() == pytest.approx(math.log1p(math.exp(-logit)), rel=1e-6)


def test_a_longer_winner_teaches_less():
    def gradient(chosen_length):
        chosen = answers(-10, -12, chosen_length)
        chosen.logp_P.requires_grad_()
        Objective("lr_dpo", beta=0.1, alpha=0.05)(chosen, L).backward()
        return -chosen.logp_P.grad.item()

    assert gradient(20) < gradient(7) < gradient(2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"loss": "ppo"}, "must be one of lr_dpo, dpo, ln_dpo, simpo"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"loss": "dpo", "alpha": 0.1}, "alpha has no effect on the loss dpo"),
        ({"gamma": 0.1}, "gamma has no effect on the loss lr_dpo"),
    ],
)
def test_objectives_that_make_no_sense_are_errors(wrong, message):
    with pytest.raises(ValueError, match=message):
        Objective(**wrong)


def test_pairs_that_do_not_fit_are_dropped_whole(chatml_tokenizer):
    rows = pair_rows(3)
    rows[1]["rejected"] = "ikan " * 60
    found, rejects = dpo.encode_pairs(chatml_tokenizer, rows, 90)
    assert [e.id for e in found.chosen] == [e.id for e in found.rejected] == ["pair0", "pair2"]
    assert [(r["doc_id"], r["rule"]) for r in rejects] == [("pair1", "too_long")]


def test_batch_and_metrics(pairs, tiny_model):
    net = tiny_model()
    reference = np.arange(12, dtype=np.float32).reshape(2, 6) - 60
    batch = dpo.batch_fn(pairs, reference, seed=0, packed=False)([0, 1, 2, 3, 4, 5])
    order = [next(i for i, e in enumerate(pairs.chosen) if np.array_equal(e.ids[:-1], row[: len(e.ids) - 1])) for row in
             batch["input_ids"][:6].numpy()]  # fmt: skip
    assert sorted(order) == list(range(6))
    assert batch["reference"].tolist() == [*reference[0, order], *reference[1, order]]
    assert batch["length"].tolist() == [e.n_scored for side in pairs for e in (side[i] for i in order)]

    parts = dpo.loss_fn(Objective("dpo", beta=0.1))(net, batch)
    logp = logprobs(net, pairs.examples).reshape(2, 6)
    margins = (logp[0] - reference[0]) - (logp[1] - reference[1])
    assert parts.count == int(batch["count"]) == 6
    assert parts.loss_sum.item() == pytest.approx(np.log1p(np.exp(-0.1 * margins)).sum(), rel=1e-4)
    expected = {
        "reward_margin": 0.1 * margins.sum(),
        "accuracy": (margins > 0).sum(),
        "chosen_logp": logp[0].sum(),
        "rejected_logp": logp[1].sum(),
        "chosen_length": sum(e.n_scored for e in pairs.chosen),
        "rejected_length": sum(e.n_scored for e in pairs.rejected),
    }
    assert {k: v.item() for k, v in parts.metrics.items()} == pytest.approx(expected, rel=1e-4)


def test_reference_is_read_from_the_cache(pairs, tiny_model, monkeypatch):
    net = tiny_model()
    folder = "memory://dpo-cache"
    storage.remove(folder)
    fresh = dpo.reference_logprobs(net, pairs, folder)
    files = storage.glob(f"{folder}/*/*")
    assert len(files) == 1
    monkeypatch.setattr(dpo, "pair_logprobs", lambda *_: pytest.fail("computed again"))
    assert np.array_equal(dpo.reference_logprobs(net, pairs, folder), fresh)


def changed_weight(net):
    with torch.no_grad():
        net.model.layers[1].self_attn.k_proj.bias[3] += 1e-7
    return net


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m, p: (changed_weight(m()), p), id="one weight"),
        pytest.param(lambda m, p: (m(rope_theta=1e4), p), id="config"),
        pytest.param(lambda m, p: (m().bfloat16(), p), id="dtype"),
        pytest.param(lambda m, p: (m(), p, "bf16"), id="precision"),
        pytest.param(lambda m, p: (m(), dpo.Pairs(p.chosen[:-1], p.rejected[:-1])), id="fewer pairs"),
        pytest.param(lambda m, p: (m(), dpo.Pairs(p.chosen[::-1], p.rejected[::-1])), id="order"),
        pytest.param(lambda m, p: (m(), dpo.Pairs(p.rejected, p.chosen)), id="sides"),
    ],
)
def test_another_model_or_other_pairs_have_another_cache(change, pairs, tiny_model):
    assert dpo.reference_key(tiny_model(), pairs) == dpo.reference_key(tiny_model(), pairs)
    assert dpo.reference_key(*change(tiny_model, pairs)) != dpo.reference_key(tiny_model(), pairs)


def test_another_text_context_template_or_mask_has_another_cache(pairs, tiny_model, chatml_tokenizer, monkeypatch):
    net, rows = tiny_model(), pair_rows()

    def key(rows, length=256):
        return dpo.reference_key(net, dpo.encode_pairs(chatml_tokenizer, rows, length)[0])

    known = {key(rows)}
    assert key(rows, 300) in known  # no pair is longer than either, so the numbers are the same
    longest = max(example.positions for example in pairs.examples)
    known.add(key(rows, longest - 1))
    known.add(key([*rows[:5], {**rows[5], "rejected": rows[5]["rejected"] + "?"}]))
    unscored = pairs.chosen[0]._replace(scored=np.roll(pairs.chosen[0].scored, 1))
    known.add(dpo.reference_key(net, dpo.Pairs([unscored, *pairs.chosen[1:]], pairs.rejected)))
    turns = chat.tokens.turns  # a frame with a token more
    monkeypatch.setattr(chat.tokens, "turns", lambda *a: [turn._replace(ids=[*turn.ids, 10]) for turn in turns(*a)])
    known.add(key(rows))
    assert len(known) == 5


def test_a_stale_cache_is_not_read(pairs, tiny_model, tmp_path):
    first = dpo.reference_logprobs(tiny_model(), pairs, str(tmp_path))
    other = dpo.reference_logprobs(tiny_model(seed=5), pairs, str(tmp_path))
    assert not np.allclose(first, other)
    assert np.array_equal(dpo.reference_logprobs(tiny_model(), pairs, str(tmp_path)), first)


def test_a_killed_pass_over_the_reference_goes_on_where_it_was(pairs, tiny_model, tmp_path, monkeypatch):
    net = tiny_model()
    whole = dpo.reference_logprobs(net, pairs, str(tmp_path / "whole"))
    monkeypatch.setattr(dpo, "PAIRS_PER_PART", 2)
    calls, compute = [], dpo.pair_logprobs

    def killed_in_the_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compute(*arguments)

    monkeypatch.setattr(dpo, "pair_logprobs", killed_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        dpo.reference_logprobs(net, pairs, str(tmp_path / "parts"))
    parts = dpo.reference_logprobs(net, pairs, str(tmp_path / "parts"))
    assert len(calls) == 4  # the third part alone was computed again
    assert np.allclose(parts, whole, rtol=1e-5)


def test_ranks_share_the_pass_over_the_reference(pairs, tiny_model, tmp_path, monkeypatch):
    net, count = tiny_model(), []
    monkeypatch.setattr(dpo, "PAIRS_PER_PART", 2)
    alone = dpo.reference_logprobs(net, pairs, str(tmp_path / "alone"))
    compute = dpo.pair_logprobs
    monkeypatch.setattr(dpo, "pair_logprobs", lambda *a: count.append(1) or compute(*a))
    monkeypatch.setattr(dpo, "rank_world", lambda: (1, 2))
    with pytest.raises(FileNotFoundError):  # the other rank's parts are not there
        dpo.reference_logprobs(net, pairs, str(tmp_path / "both"))
    monkeypatch.setattr(dpo, "rank_world", lambda: (0, 2))
    assert np.array_equal(dpo.reference_logprobs(net, pairs, str(tmp_path / "both")), alone)
    assert len(count) == 3


def test_the_reference_in_the_precision_of_the_training(pairs, tiny_model, tmp_path):
    net = tiny_model()
    exact, rounded = (dpo.reference_logprobs(net, pairs, str(tmp_path), precision) for precision in ("fp32", "bf16"))
    assert not np.array_equal(exact, rounded)
    assert np.allclose(exact, rounded, rtol=0.05)
    batch = dpo.batch_fn(pairs, rounded, seed=0)(list(range(6)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        parts = dpo.loss_fn(Objective("dpo", beta=0.1))(net, batch)
    assert parts.loss_sum.item() / 6 == pytest.approx(math.log(2), abs=2e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_training_widens_the_margin(loss, pairs, tiny_model, tmp_path):
    net = tiny_model()
    reference = None if loss == "simpo" else dpo.reference_logprobs(net, pairs, str(tmp_path))
    objective = Objective(loss, beta=0.5)
    records = []
    config = LoopConfig(steps=8, rows_per_step=6, micro_rows=3, lr=3e-4, log_every=1, weight_decay=0.0)
    fit(
        net,
        dpo.batch_fn(pairs, reference, seed=0),
        dpo.loss_fn(objective),
        config,
        str(tmp_path),
        on_log=records.append,
    )
    if loss != "simpo":
        assert records[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert records[-1]["loss"] < records[0]["loss"]
    assert records[-1]["reward_margin"] > records[0]["reward_margin"]


def test_no_pairs_is_a_clear_error():
    with pytest.raises(ValueError, match="no preference pair"):
        dpo.batch_fn(dpo.Pairs([], []), None, seed=0)
