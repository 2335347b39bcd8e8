"""What a few updates gain for the way that the weights go."""

import copy

import pytest
import torch
from test_contrast import CONFIG, batch_fn, build

from train.loop import LoopConfig, fit
from train.methods import plasticity, pretrain

torch.set_num_threads(1)  # tiny tensors: a second thread only waits
CPU = torch.device("cpu")


def of(net, tmp_path, **more):
    config = LoopConfig(**CONFIG | {"steps": 5} | more)
    rows = [lambda row=row: batch_fn([row]) for row in range(4)]
    return plasticity.measure(net, rows, pretrain.loss, config, str(tmp_path), device=CPU)


def test_it_is_the_loss_that_falls_by_the_way_of_the_weights(tmp_path):
    net = build()
    old, found = copy.deepcopy(net), of(net, tmp_path)
    pairs = zip(net.parameters(), old.parameters(), strict=True)
    want = sum(float((a - b).detach().double().square().sum()) for a, b in pairs) ** 0.5
    assert found["norm"] == pytest.approx(want, rel=1e-6)
    assert found["loss_drop"] > 0.05 and found["updates"] == 5
    assert found["loss_drop_per_norm"] == found["loss_drop"] / found["norm"]


def test_a_model_that_knows_its_rows_gains_less(tmp_path):
    net = build()
    again = lambda rows: batch_fn([row % 4 for row in rows])  # noqa: E731
    fit(net, again, pretrain.loss, LoopConfig(**CONFIG | {"steps": 150}), str(tmp_path / "learn"))
    assert of(net, tmp_path / "a")["loss_drop_per_norm"] < 0.5 * of(build(), tmp_path / "b")["loss_drop_per_norm"]
