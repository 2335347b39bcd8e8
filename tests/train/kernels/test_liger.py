import importlib.util

import pytest
import torch
from torch import nn

from train import model
from train.batches.labels import IGNORE
from train.kernels import cross_entropy as loss
from train.kernels import liger
from train.loop import LoopConfig, fit
from train.methods import pretrain

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

INSTALLED = importlib.util.find_spec("liger_kernel") is not None


def twin(hidden_ND, weight_VD, labels_N, ignore, chunk, softcap):  # noqa: PLR0917
    """What `liger.losses_and_gradients` says it returns, from all logits at once."""
    with torch.enable_grad():
        h, w = hidden_ND.detach().requires_grad_(), weight_VD.detach().requires_grad_()
        logits = (h @ w.T).float()
        logits = logits if softcap is None else softcap * (logits / softcap).tanh()
        loss_N = nn.functional.cross_entropy(logits, labels_N, ignore_index=ignore, reduction="none")
        return loss_N.detach(), *torch.autograd.grad(loss_N.sum(), (h, w))


def inputs():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 31, (3, 7), generator=g)
    labels[0, :3] = IGNORE
    return torch.randn(3, 7, 12, generator=g), torch.randn(31, 12, generator=g), labels


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("buffered", [False, True])
def test_its_losses_and_gradients_stand_where_ours_do(monkeypatch, buffered, softcap):
    monkeypatch.setattr(liger, "losses_and_gradients", twin)
    found = {}
    for kernel in ("chunked", "liger"):
        hidden, weight, labels = inputs()
        hidden, weight = hidden.requires_grad_(), nn.Parameter(weight)
        if buffered:
            weight.grad, weight.gradient_buffer = torch.ones_like(weight), True
        total, count, rows = loss.cross_entropy_and_rows(hidden, weight, labels, kernel=kernel, softcap=softcap)
        (total * (1 if buffered else 0.5)).backward()
        found[kernel] = [total.detach(), count, rows, hidden.grad, weight.grad]
    for got, want in zip(found["liger"], found["chunked"], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_without_gradients_it_is_ours():
    hidden, weight, labels = inputs()
    ours = loss.cross_entropy_and_rows(hidden, weight, labels)
    theirs = loss.cross_entropy_and_rows(hidden, weight, labels, kernel="liger")
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_what_it_cannot_do_is_refused(monkeypatch):
    hidden, weight, labels = inputs()
    with pytest.raises(ValueError, match="cannot tell the z-loss from the loss"):
        loss.cross_entropy_and_rows(hidden, weight, labels, z_loss=1e-4, kernel="liger")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package liger-kernel \(pip install 'pinisi\[gpu\]'\)"):
        liger.require(torch.device("cuda"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match="liger runs on a GPU only"):
        liger.require(torch.device("cpu"))


@pytest.mark.parametrize(
    ("device", "installed", "taken"), [("cuda", True, "auto"), ("cuda", False, "chunked"), ("cpu", True, "chunked")]
)
def test_auto_is_liger_where_it_works_and_there_is_no_z_loss(monkeypatch, device, installed, taken):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    net = nn.Module()
    loss.choose(net, "auto", torch.device(device))
    assert loss.chosen(net) == taken
    calls = []
    monkeypatch.setattr(liger, "losses_and_gradients", lambda *args: calls.append(1) or twin(*args))
    hidden, weight, labels = inputs()
    for z_loss in (0.0, 1e-4):
        found = [
            loss.cross_entropy_and_rows(hidden.requires_grad_(), weight, labels, z_loss=z_loss, kernel=kernel)[0]
            for kernel in (loss.chosen(net), "chunked")
        ]
        torch.testing.assert_close(*found)
        assert len(calls) == (taken == "auto")  # and not again for the z-loss


def test_the_loop_asks_for_it_before_it_trains(tmp_path):
    shape = {
        "vocab_size": 31,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = LoopConfig(steps=1, rows_per_step=1, micro_rows=1, lr=0.1, cross_entropy="liger")
    with pytest.raises(ValueError, match="cross_entropy: liger"):
        fit(model.build(shape, seed=0), None, pretrain.loss, config, str(tmp_path))


@pytest.mark.skipif(not (INSTALLED and torch.cuda.is_available()), reason="needs liger-kernel and a CUDA device")
def test_on_a_gpu_it_equals_ours():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5000, (2, 512), generator=g).cuda()
    labels[0, :50] = IGNORE
    found = {}
    for kernel in ("chunked", "liger"):
        g = torch.Generator().manual_seed(1)
        hidden = torch.randn(2, 512, 256, generator=g).cuda().requires_grad_()
        weight = nn.Parameter(torch.randn(5000, 256, generator=g).cuda() / 16)
        with torch.autocast("cuda", torch.bfloat16):
            total, _, rows = loss.cross_entropy_and_rows(hidden, weight, labels, kernel=kernel)
        total.backward()
        found[kernel] = [total.detach(), rows, hidden.grad, weight.grad]
    for got, want in zip(found["liger"], found["chunked"], strict=True):
        assert (got - want).norm() < 0.01 * want.norm()
