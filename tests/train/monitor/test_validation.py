import math

import numpy as np
import pytest
import torch

from train import model
from train.loop import LoopConfig, fit
from train.methods import pretrain
from train.monitor import stop
from train.monitor.forgetting import warnings
from train.monitor.heldout_text import Validation
from train.monitor.throughput import MEASURED
from train.scores import evaluate

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

EOD, CONTEXT = 0, 12
SHAPE = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
}
LENGTHS = {"en": [5, 30, 9], "lo": [40, 3], "zh": [7, 7]}


def documents():
    rng = np.random.default_rng(0)
    return [(lang, rng.integers(1, 31, n), 3 * n) for lang, ns in LENGTHS.items() for n in ns]


def validation(**more) -> Validation:
    heldout = evaluate.pack(documents(), context=CONTEXT, eod=EOD, batch_rows=2)
    return Validation(**{"heldout": heldout, "every": 4, "replay": ("en", "zh"), "alarm": 0.02} | more)


def batch_fn(rows: list[int]) -> dict[str, torch.Tensor]:
    """Rows of nothing but token 7: what is learned of them is forgotten of everything else."""
    ids = torch.full((len(rows), CONTEXT), 7)
    batch = {"input_ids": ids, "labels": ids, "doc_ids": torch.zeros_like(ids)}
    return batch | {"position_ids": torch.arange(CONTEXT).expand_as(ids), "count": torch.tensor(ids.numel())}


def train(out, *, stop_at: int | None = None, seed: int = 0, **more):
    """(records without what the clock says, summary, model); stops with a checkpoint after `stop_at` updates."""
    records: list[dict] = []
    settings = {"steps": 10, "rows_per_step": 2, "micro_rows": 2, "lr": 0.01, "log_every": 3, "checkpoint_every": 2}
    net = model.build(SHAPE, seed=seed)

    def after(step: int, _) -> None:
        if step == stop_at:
            stop.requested.set()

    try:
        config = LoopConfig(**settings)
        summary = fit(net, batch_fn, pretrain.loss, config, str(out), on_log=records.append, after_step=after, **more)
    except stop.Stopped:
        summary = {}
    finally:
        stop.requested.clear()
    return [{k: v for k, v in record.items() if k not in MEASURED} for record in records], summary, net


def test_measured_before_training_every_so_often_and_at_the_end(tmp_path):
    before = evaluate.bits_per_byte(model.build(SHAPE, seed=0), documents(), context=CONTEXT, eod=EOD)
    records, summary, net = train(tmp_path, validation=(found := validation()))
    assert [r["step"] for r in records] == [3, 4, 6, 8, 9, 10]
    assert [r["step"] for r in records if "bits_per_byte" in r] == [4, 8, 10]
    assert found.start == {lang: entry["bits_per_byte"] for lang, entry in before.items()}
    after = evaluate.bits_per_byte(net, documents(), context=CONTEXT, eod=EOD)
    last = records[-1]
    assert last["bits_per_byte"] == {lang: entry["bits_per_byte"] for lang, entry in after.items()}
    assert last["bits_per_byte_change"]["lo"] == after["lo"]["bits_per_byte"] - before["lo"]["bits_per_byte"]
    # the documents have 3 bytes a token
    loss = after["lo"]["bits_per_byte"] * 3 * math.log(2)
    assert last["validation_loss"]["lo"] == pytest.approx(loss, rel=1e-12)
    assert summary["bits_per_byte"] == last["bits_per_byte"] and summary["validation_seconds"] > 0


def test_the_alarm_is_for_replay_languages_above_the_limit(tmp_path, caplog):
    records, _, _ = train(tmp_path / "a", validation=validation(alarm=0.02))
    change = records[-1]["bits_per_byte_change"]
    assert change["lo"] > 0.02 and change["en"] > 0.02  # everything else is forgotten, but only en and zh are replay
    assert records[-1]["forgetting"] == {lang: change[lang] for lang in ("en", "zh") if change[lang] > 0.02}
    said = warnings(records[-1])
    both = warnings({**records[-1], "forgetting": {"en": 0.5, "zh": 0.25}, "bits_per_byte": {"en": 2.5, "zh": 3}})
    assert both == [
        "en, zh are being forgotten: 0.500, 0.250 bits per byte more than before training (2.500, 3.000 at update 10); "
        "more replay or a lower learning rate helps."
    ]
    assert len(said) == 1 and said[0].startswith("en, zh are being forgotten: ")
    assert f"being forgotten: {change['en']:.3f}" in said[0] and "update 10" in said[0]
    assert said[0] in caplog.text
    records, _, _ = train(tmp_path / "b", validation=validation(alarm=max(change.values()) + 0.01))
    assert all("forgetting" not in record and warnings(record) == [] for record in records)


def test_training_is_the_same_with_and_without(tmp_path):
    with_it, _, a = train(tmp_path / "with", validation=validation(every=3))
    without, _, b = train(tmp_path / "without")
    fields = ("step", "loss", "grad_norm", "tokens")
    assert [[r[f] for f in fields] for r in with_it] == [[r[f] for f in fields] for r in without]
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("stop_at", [2, 5])
def test_a_resumed_run_writes_the_records_of_one_that_was_never_stopped(tmp_path, stop_at):
    want, _, _ = train(tmp_path / "whole", validation=validation())
    first, _, _ = train(tmp_path / "parts", validation=validation(), stop_at=stop_at)
    # another model, so that a measurement of the model as it comes in would be seen
    rest, summary, _ = train(tmp_path / "parts", validation=validation(), seed=9)
    assert 0 < summary["resumed_from"] < 10
    assert first + rest == want


def test_measuring_draws_no_random_number_and_leaves_the_mode(tmp_path):
    net = model.build(SHAPE, seed=0).train()
    found = validation()
    torch.manual_seed(3)
    found.begin(net)
    found.measure(net)
    drawn = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(4)) and net.training
    assert all(p.grad is None for p in net.parameters())


def test_switched_on_in_mid_run_it_counts_from_there(tmp_path):
    train(tmp_path, stop_at=5)
    records, _, _ = train(tmp_path, validation=(found := validation()), seed=9)
    assert records[-1]["bits_per_byte_change"]["lo"] == records[-1]["bits_per_byte"]["lo"] - found.start["lo"]
    assert records[-1]["bits_per_byte"].keys() == found.start.keys()
