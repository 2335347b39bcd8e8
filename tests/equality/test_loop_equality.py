"""The loop gives the same run however it is cut: in micro-batches, over ranks, sharded or not, stopped and resumed."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
import torch.distributed as dist

from train import model
from train.kernels import adamw as optim
from train.loop import LoopConfig, fit
from train.methods import pretrain
from train.monitor.heldout_text import Validation
from train.monitor.throughput import MEASURED
from train.scores import evaluate

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

# eps as in Sailor2 (its training scripts): with 1e-8 Adam divides the rounding error of a gradient that is almost 0 (a key bias
# hardly matters) by itself, and runs that should be equal would differ by whole updates.
CONFIG = LoopConfig(
    steps=6,
    rows_per_step=8,
    micro_rows=8,
    lr=3e-3,
    schedule="cosine",
    warmup_steps=2,
    min_lr=1e-4,
    eps=1e-5,
    log_every=1,
    checkpoint_every=2,
    keep_checkpoints=9,
)


def build(tied: bool = False, dropout: float = 0.0):
    shape = {
        "vocab_size": 127,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "tie_word_embeddings": tied,
        "attention_dropout": dropout,
        "initializer_range": 0.1,
    }
    return model.build(shape, seed=6)


def batch_fn(rows: list[int]) -> dict[str, torch.Tensor]:
    """Row r has r mod 5 * 4 positions without a label, so that means of micro-batch means would be wrong."""
    sequences = [torch.randint(0, 127, (33,), generator=torch.Generator().manual_seed(row)) for row in rows]
    ids = torch.stack(sequences)
    labels = ids[:, 1:].clone()
    for i, row in enumerate(rows):
        labels[i, : row % 5 * 4] = -100
    return {
        "input_ids": ids[:, :-1],
        "labels": labels,
        "doc_ids": (torch.arange(32) // 11).expand(len(rows), -1),
        "position_ids": torch.arange(32).expand(len(rows), -1),
        "count": (labels != -100).sum(),
        "pool": torch.tensor(rows) % 3,
    }


def train(uri: str, net=None, batches=batch_fn, **more):
    """(records without times, final weights, summary)"""
    net, records = net or build(), []
    config = dataclasses.replace(CONFIG, **more)
    rng = np.random.default_rng(0)
    documents = [(lang, rng.integers(1, 40, n), 2 * n) for lang, n in (("en", 50), ("en", 9), ("lo", 70))]
    heldout = evaluate.pack(documents, context=32, eod=0, batch_rows=1)
    more = {"languages": ["en", "lo", "en"], "validation": Validation(heldout, every=2)}
    summary = fit(net, batches, pretrain.loss, config, uri, on_log=records.append, **more)
    return [{k: v for k, v in r.items() if k not in MEASURED} for r in records], net.state_dict(), summary


def assert_same_run(got, want):
    """Within the error of fp32 sums in another order."""
    for a, b in zip(got[0], want[0], strict=True):
        assert a["step"] == b["step"] and a["tokens"] == b["tokens"] and a["lr"] == b["lr"]
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=2e-5)
        assert a["attended_per_token"] == b["attended_per_token"]
        assert a["loss_by_language"] == pytest.approx(b["loss_by_language"], rel=2e-6)
        for key in ("bits_per_byte", "validation_loss"):
            assert a.get(key) == (pytest.approx(b[key], rel=2e-5) if key in b else None)
    for name, weight in want[1].items():
        assert (got[1][name] - weight).norm() <= 1e-4 * weight.norm() + 1e-5, name


@pytest.mark.parametrize("micro_rows", [1, 3])
def test_accumulation_is_one_large_batch(tmp_path, micro_rows):
    assert_same_run(train(str(tmp_path / "many"), micro_rows=micro_rows), train(str(tmp_path / "one")))


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_activation_checkpointing_is_the_same_run_bit_for_bit(tmp_path, mode):
    kept = train(str(tmp_path / "kept"), build(dropout=0.2), deterministic=True)
    repeated = train(str(tmp_path / mode), build(dropout=0.2), activation_checkpointing=mode, deterministic=True)
    torch.use_deterministic_algorithms(False)
    assert repeated[0] == kept[0]
    assert all(torch.equal(repeated[1][name], weight) for name, weight in kept[1].items())


class Killed(Exception):
    pass


@pytest.mark.parametrize("more", [{"log_every": 1}, {"log_every": 4}, {"optimiser_states": "8bit"}])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, more):
    settings = {"micro_rows": 4, **more}
    records, weights, _ = train(str(tmp_path / "whole"), build(dropout=0.2), **settings)

    def killed(rows):
        if rows[0] >= 5 * CONFIG.rows_per_step:
            raise Killed
        return batch_fn(rows)

    with pytest.raises(Killed):
        train(str(tmp_path / "cut"), build(dropout=0.2), killed, **settings)
    net = build(dropout=0.2)
    with torch.no_grad():
        net.lm_head.weight.zero_()  # all must come from the checkpoint
    resumed, resumed_weights, summary = train(str(tmp_path / "cut"), net, **settings)
    assert summary["resumed_from"] == 4
    assert resumed == [r for r in records if r["step"] > 4]
    assert all(torch.equal(resumed_weights[name], weight) for name, weight in weights.items())
    undisturbed, _, _ = train(str(tmp_path / "no dropout"), build(), **settings)
    assert undisturbed[-1]["loss"] != records[-1]["loss"]  # dropout was on, so its noise was replayed


def rank_main(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    for name, more in RUNS.items():
        tied = "tied" in name
        got = train(f"{folder}/{name}", build(tied), **more)
        net = build(tied)
        again = train(f"{folder}/{name}", net, **{**more, "steps": 8})  # resumed at the same world size
        model.save(net, None, f"{folder}/{name}/hf", 32)
        if rank == 0:
            Path(f"{folder}/{name}.json").write_text(json.dumps([got[0], again[0]]))
    dist.destroy_process_group()


RUNS = {
    "replicate": {"micro_rows": 2, "schedule": "constant"},
    "fsdp": {"micro_rows": 2, "schedule": "constant", "parallel": "fsdp"},
    "fsdp-selective": {
        "micro_rows": 2,
        "schedule": "constant",
        "parallel": "fsdp",
        "activation_checkpointing": "selective",
    },
    "fsdp-tied": {"micro_rows": 4, "schedule": "constant", "parallel": "fsdp"},
    "fsdp-8bit": {"micro_rows": 2, "schedule": "constant", "parallel": "fsdp", "optimiser_states": "8bit"},
    # documents are 11 positions long, the chunks of a row 8: every cut goes through one
    "context": {"micro_rows": 3, "schedule": "constant", "context_parallel": 2},
    "context-fsdp-selective": {
        "micro_rows": 4,
        "schedule": "constant",
        "context_parallel": 2,
        "parallel": "fsdp",
        "activation_checkpointing": "selective",
    },
}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("ranks"))
    ranks.run(rank_main, (2, folder), 2)
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_are_one_also_after_resuming_at_either_size(tmp_path, two_ranks, name):
    tied = "tied" in name
    settings = {"schedule": "constant", "micro_rows": 4}
    settings["optimiser_states"] = RUNS[name].get("optimiser_states", "fp32")
    records, weights, _ = train(str(tmp_path / "one"), build(tied), steps=8, **settings)
    two, resumed = json.loads(Path(f"{two_ranks}/{name}.json").read_text())
    saved = model.load(f"{two_ranks}/{name}/hf").state_dict()
    assert_same_run((two + resumed, saved), (records, weights))

    # the checkpoint of two ranks at step 4, gone on with by one
    for step in (6, 8):
        shutil.rmtree(f"{two_ranks}/{name}/checkpoints/step_{step:08d}")
    alone, alone_weights, summary = train(f"{two_ranks}/{name}", build(tied), steps=8, **settings)
    assert summary["resumed_from"] == 4
    assert_same_run((two[:4] + alone, alone_weights), (records, weights))


def test_logged_rates_follow_the_formulas(tmp_path):
    def half_cosine(step: int) -> float:
        return 1e-4 + (3e-3 - 1e-4) * (1 + math.cos(math.pi * (step - 2) / 4)) / 2

    expected = [1.5e-3, 3e-3, *(half_cosine(step) for step in range(2, 6))]
    records, _, _ = train(str(tmp_path), rows_per_step=1)
    assert [r["lr"] for r in records] == pytest.approx(expected)


def test_schedules_equal_the_formulas_of_torchtitan_and_transformers():
    transformers = pytest.importorskip("transformers")
    steps, warmup = 50, 10
    parameter = torch.nn.Parameter(torch.zeros(1))
    references = {
        "linear": transformers.get_linear_schedule_with_warmup,
        "cosine": transformers.get_cosine_schedule_with_warmup,
    }
    for name, make in references.items():
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        scheduler = make(optimizer, warmup, steps)
        theirs = []
        for _ in range(steps):
            theirs.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        ours = [
            optim.learning_rate(step, lr=1.0, steps=steps, schedule=name, warmup_steps=warmup) for step in range(steps)
        ]
        assert ours[warmup:] == pytest.approx(theirs[warmup:])
        assert ours[: warmup - 1] == pytest.approx(theirs[1:warmup])  # theirs spends its first update at a rate of 0
    # torchtitan: decay_steps = 20, stable = steps + 1 - warmup - decay, p = (step + 1 - warmup - stable) / decay
    for step in range(steps):
        stable = steps + 1 - warmup - 20
        if step < warmup:
            reference = (step + 1) / warmup
        elif step < warmup + stable:
            reference = 1.0
        else:
            reference = 0.1 + 0.9 * (1 - (step + 1 - warmup - stable) / 20)
        ours = optim.learning_rate(
            step, lr=1.0, steps=steps, schedule="wsd", warmup_steps=warmup, decay_steps=20, min_lr=0.1
        )
        assert ours == pytest.approx(reference)
