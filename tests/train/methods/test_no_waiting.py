"""What the loop does with a micro-batch on a GPU, played by tensors without values that say they are CUDA's: nothing on another
device meets them, and nothing is read back, which would make the host wait for the GPU before it can queue more work."""

import numpy as np
import pytest
import torch
from shapes import TINY
from torch import nn

from train import model
from train.batches.examples import Example
from train.batches.parts import on_device
from train.distributed import data_parallel as parallel
from train.kernels import attention, varlen
from train.kernels import cross_entropy as loss
from train.methods import distil, dpo, pretrain, prune, reward
from train.monitor.averages import Averages

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

GPU = torch.device("meta")
SHAPE = TINY | {"tie_word_embeddings": True}


@pytest.fixture(autouse=True)
def meta_is_cuda(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: self.device == GPU))
    monkeypatch.setattr(loss, "_matmul_dtype", lambda hidden: torch.bfloat16)  # autocast knows no meta tensors
    monkeypatch.setattr(loss, "_kernel", lambda in_place, fused, device: fused)  # of distillation too
    # a kernel is not needed to see what is given to it
    monkeypatch.setattr(attention, "_flex", lambda: lambda q, k, v, block_mask, scale, enable_gqa: q * (k * v).mean())
    monkeypatch.setattr(varlen, "varlen_attn", lambda q, k, v, *where, **how: q * (k * v).mean())
    halves = lambda q, k, v, *how: plain(q.bfloat16(), k.bfloat16(), v.bfloat16(), *how).float()  # noqa: E731
    plain = varlen.attention
    monkeypatch.setattr(varlen, "attention", halves)


def moved(net: nn.Module) -> nn.Module:
    """`net` on the GPU; parameters that are one stay one."""
    made: dict[int, nn.Parameter] = {}
    for module in net.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = made.setdefault(id(p), nn.Parameter(torch.empty_like(p, device=GPU)))
        for name, buffer in module._buffers.items():
            module._buffers[name] = torch.empty_like(buffer, device=GPU)
    return net


def pairs() -> dpo.Pairs:
    def side(length: int) -> list[Example]:
        return [Example(str(i), "id", np.arange(length + i), np.arange(length + i) >= 3) for i in range(4)]

    return dpo.Pairs(side(9), side(7))


def packed() -> dict[str, torch.Tensor]:
    ids = torch.arange(48).view(2, 24)
    more = {"doc_ids": ids // 10, "position_ids": ids % 24, "pool": torch.tensor([0, 1])}
    return {"input_ids": ids, "labels": ids, "count": torch.tensor(48), **more}


def case(name: str):
    """(model, loss function, batch, extra parameters)"""
    net, cached = model.build(SHAPE), np.zeros((2, 4), np.float32)
    if name == "reward":
        both = pairs()
        return moved(reward.build(net, 0)), reward.loss, reward.batch_fn(*both, 0)([0, 1]), []
    net = moved(net)
    if name.startswith("dpo"):
        batch = dpo.batch_fn(pairs(), cached, 0, packed=name == "dpo")([0, 1, 2])
        return net, dpo.loss_fn(dpo.Objective("lr_dpo", alpha=0.1)), batch, []
    if name == "distil":
        return net, distil.loss_fn(moved(model.build(SHAPE)).requires_grad_(False), 0.5, 2.0), packed(), []
    if name == "prune":
        target = prune.Target(hidden_size=16, num_attention_heads=2, intermediate_size=24)
        pruning = prune.Pruning(net, target, warmup_steps=10)
        extra = [p for group in pruning.extra_params() for p in group["params"].values()]
        return net, pruning.loss_fn(pretrain.loss), packed(), extra
    return net, lambda *of: pretrain.loss(*of, z_loss=0.1 if name == "z-loss" else 0.0), packed(), []


@pytest.mark.parametrize("backend", ["sdpa", "flex", "varlen"])
@pytest.mark.parametrize("name", ["pretrain", "z-loss", "dpo", "dpo padded", "reward", "prune", "distil"])
def test_a_micro_batch_waits_for_nothing(name, backend):
    net, loss_fn, batch, extra = case(name)
    net.model.attention_backend = backend
    gradients, averages = parallel.Gradients(net.parameters(), extra), Averages(GPU, ["id", "th"])
    gradients.zero()
    averages.begin_step()
    parts = loss_fn(net, on_device(batch, GPU) | {"step": torch.tensor(3)})
    parts.loss_sum.backward()
    gradients.loss += parts.loss_sum.detach()
    averages.add(parts)
    gradients.reduce(2.0)
    gradients.divisor(0.5)
    averages.end_step()
    with pytest.raises(RuntimeError, match="item"):  # so would anything above that looked at a value
        float(parts.loss_sum.detach())
