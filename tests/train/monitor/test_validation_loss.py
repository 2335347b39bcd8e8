"""SFT, reward models and DPO are measured on held-out rows by their own loss, per language, and train as without it."""

import math

import numpy as np
import pytest
import torch

from train.batches.examples import Example
from train.distributed import data_parallel as parallel
from train.kernels import cross_entropy as loss
from train.loop import LoopConfig, fit
from train.methods import dpo, reward, sft
from train.monitor import stop
from train.monitor.heldout_rows import LossValidation, batches
from train.monitor.throughput import MEASURED
from train.scores import logprobs

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

LANGS = ["en", "en", "en", "lo", "lo"]


def some(n: int, seed: int, langs: list[str] = LANGS) -> list[Example]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        ids = rng.integers(1, 300, int(rng.integers(6, 20))).astype(np.int64)
        found.append(Example(f"{seed}-{i}", langs[i % len(langs)], ids, np.arange(len(ids)) >= 3))
    return found


def of_language(held: list[Example], lang: str) -> list[Example]:
    return [example for example in held if example.lang == lang]


def packed(held: list[Example]) -> list:
    found = []
    for lang in sorted({example.lang for example in held}):
        mine = of_language(held, lang)
        rows = sft.pack([example.positions for example in mine], 32)
        found += batches(lang, sft.batch_fn(mine, rows, 32, 0), len(rows), 2)
    return found


def pairs(chosen: list[Example], rejected: list[Example], make) -> list:
    found = []
    for lang in sorted({example.lang for example in chosen}):
        index = [i for i, example in enumerate(chosen) if example.lang == lang]
        found += batches(lang, make(index), len(index), 2)
    return found


def test_sft_loss_of_a_language_is_its_answers_mean(tiny_model, monkeypatch):
    monkeypatch.setattr(loss, "_add_product", None)  # no gradient of the head is computed for nothing
    net, held = tiny_model(seed=1).train(), some(9, seed=3)
    found = LossValidation(packed(held), sft.loss, every=2)
    found.begin(net)
    for lang in ("en", "lo"):
        mine = of_language(held, lang)
        want = -logprobs.logprobs(net, mine).sum() / sum(example.n_scored for example in mine)
        assert found.start["validation_loss"][lang] == pytest.approx(want, rel=1e-5)
    net.train()
    with torch.no_grad():
        net.lm_head.weight.mul_(0.9)
    record = found.measure(net)
    assert net.training and record["validation_seconds"] > 0
    for lang in ("en", "lo"):
        now, before = record["validation_loss"][lang], found.start["validation_loss"][lang]
        assert record["validation_loss_change"][lang] == now - before != 0


def test_reward_accuracy_and_margin_are_those_of_the_scores(tiny_model):
    net = reward.build(tiny_model(seed=1), 0, seed=2)
    with torch.no_grad():
        net.score.weight.mul_(30)
    chosen, rejected = some(9, seed=3), some(9, seed=4)
    held = pairs(chosen, rejected, lambda at: reward.batch_fn([chosen[i] for i in at], [rejected[i] for i in at], 0))
    metrics = {"accuracy": "validation_accuracy", "margin": "validation_margin"}
    found = LossValidation(held, reward.loss, 1, metrics)
    found.begin(net)
    record = found.measure(net)
    for lang in ("en", "lo"):
        index = [i for i, example in enumerate(chosen) if example.lang == lang]
        with torch.no_grad():
            sides = [reward.batch_fn([chosen[i]], [rejected[i]], 0)([0]) for i in index]
            margins = [-float(reward.rewards(net.eval(), pair).diff()) for pair in sides]
        assert record["validation_accuracy"][lang] == pytest.approx(np.mean(np.array(margins) > 0))
        assert record["validation_margin"][lang] == pytest.approx(np.mean(margins), rel=1e-4, abs=1e-6)
    assert 0 < sum(record["validation_accuracy"].values()) < 2


def test_a_policy_that_is_its_reference_has_no_margin_and_dpo_learns_one(tiny_model, tmp_path):
    net = tiny_model(seed=1)
    both = dpo.Pairs(some(10, seed=3), some(10, seed=4))
    cached = dpo.reference_logprobs(net, both, str(tmp_path))
    loss_fn = dpo.loss_fn(dpo.Objective("dpo", beta=0.5))

    def make(index):
        return dpo.batch_fn(dpo.Pairs(*([side[i] for i in index] for side in both)), cached[:, index], 0)

    metrics = {"accuracy": "validation_accuracy", "reward_margin": "validation_margin"}
    found = LossValidation(pairs(*both, make), loss_fn, 4, metrics)
    found.begin(net)
    assert found.start["validation_loss"] == pytest.approx({"en": math.log(2), "lo": math.log(2)}, abs=1e-4)
    assert found.start["validation_margin"] == pytest.approx({"en": 0, "lo": 0}, abs=1e-4)
    config = LoopConfig(steps=8, rows_per_step=10, micro_rows=5, lr=3e-3)  # the same pairs, so the margin must grow
    summary = fit(net, dpo.batch_fn(both, cached, 0), loss_fn, config, str(tmp_path / "out"), validation=found)
    assert min(summary["validation_margin"].values()) > 0.1
    assert summary["validation_accuracy"] == {"en": 1.0, "lo": 1.0}
    assert max(summary["validation_loss_change"].values()) < -0.05


def train(tiny_model, out, *, stop_at=None, seed=1, validated=True):
    """(records without what the clock says, weights); stops with a checkpoint after `stop_at` updates."""
    records: list[dict] = []
    net, seen = tiny_model(seed=seed), some(8, seed=5)
    rows = sft.pack([example.positions for example in seen], 32)

    def after(step: int, _) -> None:
        if step == stop_at:
            stop.requested.set()

    validation = LossValidation(packed(some(6, seed=3)), sft.loss, every=3) if validated else None
    config = LoopConfig(steps=7, rows_per_step=2, micro_rows=2, lr=1e-3, log_every=2, checkpoint_every=2)
    try:
        more = {"on_log": records.append, "after_step": after, "validation": validation}
        fit(net, sft.batch_fn(seen, rows, 32, 0), sft.loss, config, str(out), **more)
    except stop.Stopped:
        pass
    finally:
        stop.requested.clear()
    return [{k: v for k, v in r.items() if k not in MEASURED} for r in records], net.state_dict()


def test_training_is_the_same_with_and_without_and_after_a_resume(tiny_model, tmp_path):
    want, weights = train(tiny_model, tmp_path / "whole")
    assert [r["step"] for r in want if "validation_loss" in r] == [3, 6, 7]
    _, without = train(tiny_model, tmp_path / "without", validated=False)
    assert all(torch.equal(without[name], weight) for name, weight in weights.items())
    first, _ = train(tiny_model, tmp_path / "parts", stop_at=4)
    rest, resumed = train(tiny_model, tmp_path / "parts", seed=9)  # what it starts from is not measured anew
    assert first + rest == want and all(torch.equal(resumed[name], weight) for name, weight in weights.items())


@pytest.mark.parametrize("world", [2, 3, 7])
def test_ranks_share_the_batches_and_each_counts_once(tiny_model, monkeypatch, world):
    net, held = tiny_model(seed=1), packed(some(9, seed=3))
    alone = LossValidation(held, sft.loss, 1)
    alone.begin(net)
    parts, passes = [], []
    monkeypatch.setattr(parallel, "sum_over_ranks", lambda values, device: parts.append(values) or [1.0] * len(values))
    for rank in range(world):
        monkeypatch.setattr(parallel, "rank_world", lambda rank=rank: (rank, world))
        calls: list[int] = []

        def counted(net, batch, calls=calls):
            calls.append(1)
            return sft.loss(net, batch)

        found = LossValidation(held, counted, 1)
        found.begin(net)
        passes.append(len(calls))
    of_batch = np.sum(parts, 0).reshape(-1, 2)
    languages = np.array([language for language, _ in held])
    total = np.stack([of_batch[languages == language].sum(0) for language in np.unique(languages)])
    assert len(total) == 2 < len(of_batch)
    assert (total[:, 0] / total[:, 1]).tolist() == pytest.approx(list(alone.start["validation_loss"].values()))
    assert len(set(passes)) == 1  # as FSDP needs
