import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from train.kernels import adamw as optim


def curve(**settings):
    return [optim.learning_rate(step, **settings) for step in range(settings["steps"])]


def test_warm_up_then_constant():
    assert curve(lr=8.0, steps=6, warmup_steps=4) == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


def test_linear_falls_from_the_rate_to_just_above_the_floor():
    assert curve(lr=10.0, steps=5, schedule="linear", min_lr=5.0) == pytest.approx([10.0, 9.0, 8.0, 7.0, 6.0])


def test_cosine_is_half_way_in_the_middle():
    values = curve(lr=1.0, steps=12, schedule="cosine", warmup_steps=2, min_lr=0.1)
    assert values[:2] == [0.5, 1.0] and values[2] == 1.0
    assert values[7] == pytest.approx(0.55)
    assert values[11] == pytest.approx(0.1 + 0.9 * (1 + math.cos(0.9 * math.pi)) / 2)


def test_wsd_is_stable_then_decays_to_the_floor():
    values = curve(lr=1.0, steps=10, schedule="wsd", warmup_steps=2, decay_steps=4, min_lr=0.2)
    assert values == pytest.approx([0.5, 1, 1, 1, 1, 1, 1.0, 0.8, 0.6, 0.4])


def test_norms_and_biases_are_not_decayed():
    net = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    net[1].bias.requires_grad_(False)
    optimizer = optim.adamw(net.named_parameters(), lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.3)
    decayed, rest = optimizer.param_groups
    assert decayed["weight_decay"] == 0.3 and rest["weight_decay"] == 0.0
    assert {id(p) for p in decayed["params"]} == {id(net[0].weight), id(net[1].weight)}
    assert {id(p) for p in rest["params"]} == {id(net[2].weight), id(net[2].bias)}


def test_an_update_is_adamw_by_the_book():
    p = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    optimizer = optim.adamw([("p", p)], lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.5)
    x, m, v = torch.tensor([[1.0, -2.0]], dtype=torch.float64), 0, 0
    for t, g in enumerate([[0.5, 1.0], [-0.25, 2.0]], start=1):
        g = torch.tensor([g], dtype=torch.float64)
        p.grad = g.float()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        x = x * (1 - 0.1 * 0.5) - 0.1 * (m / (1 - 0.9**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8)
    torch.testing.assert_close(p.detach().double(), x, rtol=1e-6, atol=1e-7)


def test_extra_groups_follow_the_curve_unless_they_say_constant():
    p, mask, multiplier = (nn.Parameter(torch.ones(2, 2)) for _ in range(3))
    extra = [{"params": [mask], "lr": 2.0}, {"params": [multiplier], "lr": 3.0, "maximize": True, "constant_lr": True}]
    optimizer = optim.adamw([("p", p)], lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.5, extra=extra)
    config = SimpleNamespace(lr=0.1, steps=4, schedule="linear", warmup_steps=0, min_lr=0.0, decay_steps=0)
    assert optim.set_learning_rate(optimizer, 2, config) == pytest.approx(0.05)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.05, 1.0, 3.0])
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.5, 0.0, 0.0]
    for parameter in (p, mask, multiplier):
        parameter.grad = torch.ones(2, 2)
    optimizer.step()
    assert (mask < 1).all() and (multiplier > 1).all()


def test_a_model_without_trainable_parameters_is_an_error():
    with pytest.raises(ValueError, match="no trainable parameter"):
        optim.adamw([], lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
