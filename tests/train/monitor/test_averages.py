import math

import pytest
import torch

from train import model
from train.batches.labels import IGNORE
from train.batches.parts import LossParts, RowLosses
from train.loop import LoopConfig, fit
from train.methods import pretrain
from train.monitor.averages import Averages

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

SHAPE = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "initializer_range": 0.5,
}
POOLS = ("all/id", "all/lo", "best/id")


def parts(loss: float, rows: list[tuple[int, float, int]]) -> LossParts:
    pool, losses, counts = zip(*rows, strict=True)
    row_losses = RowLosses(torch.tensor(pool), torch.tensor(losses), torch.tensor(counts))
    return LossParts(torch.tensor(loss), sum(counts), {"x": torch.tensor(8.0)}, row_losses)


def step(averages: Averages, *all_parts: LossParts) -> None:
    averages.begin_step()
    for one in all_parts:
        averages.add(one)
    averages.end_step()


def test_each_language_is_divided_by_its_own_count():
    averages = Averages(torch.device("cpu"), ["id", "lo", "id", "vi"])
    step(averages, parts(15.0, [(0, 10.0, 2), (1, 5.0, 5)]), parts(3.0, [(2, 3.0, 1)]))
    assert averages.means() == {
        "loss": 18 / 8,
        "x": 16 / 8,
        "loss_by_language": {"id": 13 / 3, "lo": 1.0},  # two pools are one language; no row was in vi
    }
    assert math.isnan(averages.means()["loss"])  # begun anew


def test_a_skipped_update_leaves_no_trace_and_a_window_survives_a_checkpoint():
    averages, other = (Averages(torch.device("cpu"), ["id", "lo"]) for _ in range(2))
    step(averages, parts(10.0, [(0, 10.0, 4)]))
    averages.begin_step()
    averages.add(parts(1e9, [(0, 1e9, 4)]))  # no end_step
    other.restore(averages.reduced())
    for one in (averages, other):
        step(one, parts(6.0, [(1, 6.0, 3)]))
        assert one.means()["loss_by_language"] == {"id": 2.5, "lo": 2.0}


def batch_fn(rows: list[int]) -> dict[str, torch.Tensor]:
    ids = torch.stack([torch.randint(0, 31, (9,), generator=torch.Generator().manual_seed(row)) for row in rows])
    labels = ids[:, 1:].clone()
    for row in range(len(rows)):
        labels[row, : rows[row] % 4] = IGNORE
    shape = labels.shape
    return {
        "input_ids": ids[:, :-1],
        "labels": labels,
        "doc_ids": torch.zeros(shape, dtype=torch.long),
        "position_ids": torch.arange(8).expand(shape),
        "pool": torch.tensor([row % 3 for row in rows]),
        "count": (labels != IGNORE).sum(),
    }


@torch.no_grad()
def naive(net, rows: range) -> dict[str, float]:
    """Each language's loss by transformers' logits of one row at a time."""
    sums = {"id": [0.0, 0], "lo": [0.0, 0]}
    for row in rows:
        batch = batch_fn([row])
        logp_TV = net(batch["input_ids"]).logits[0].double().log_softmax(-1)
        for t, label in enumerate(batch["labels"][0].tolist()):
            if label != IGNORE:
                entry = sums["lo" if row % 3 == 1 else "id"]
                entry[0] -= float(logp_TV[t, label])
                entry[1] += 1
    return {name: total / n for name, (total, n) in sums.items()}


@pytest.mark.parametrize("micro_rows", [1, 4])
def test_loss_by_language_in_the_records_of_pre_training(tmp_path, micro_rows):
    net = model.build(SHAPE, seed=1)
    want = naive(net, range(12))
    records = []
    config = LoopConfig(steps=2, rows_per_step=6, micro_rows=micro_rows, lr=1e-30, weight_decay=0.0, log_every=2)
    languages = [pool.split("/")[-1] for pool in POOLS]
    fit(net, batch_fn, pretrain.loss, config, str(tmp_path), on_log=records.append, languages=languages)
    assert records[0]["loss_by_language"] == pytest.approx(want, rel=1e-6)
    counts = {"id": 0, "lo": 0}
    for row in range(12):
        counts["lo" if row % 3 == 1 else "id"] += int(batch_fn([row])["count"])
    total = sum(records[0]["loss_by_language"][name] * n for name, n in counts.items()) / sum(counts.values())
    assert records[0]["loss"] == pytest.approx(total, rel=1e-6)
