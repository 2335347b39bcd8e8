"""Distillation in chunks against whole logits, in fp64 by autograd; what it holds of both heads' logits."""

import pytest
import torch
from torch.nn import functional as F

from ray_jobs.plan.traced import Live
from train.batches.labels import IGNORE
from train.distributed import data_parallel
from train.kernels.distillation import Aim, distil

torch.set_num_threads(1)


def naive(hidden, weight, taught, teacher, labels, aim):  # noqa: PLR0917
    """The formula with all logits, by autograd."""
    valid = labels != IGNORE
    z, t = hidden[valid] @ weight.T, taught[valid] @ teacher.T
    if aim.softcap:
        z = aim.softcap * torch.tanh(z / aim.softcap)
    if aim.softcap_of_teacher:
        t = aim.softcap_of_teacher * torch.tanh(t / aim.softcap_of_teacher)
    log_p, log_q = F.log_softmax(z / aim.temperature, -1), F.log_softmax(t / aim.temperature, -1)
    divergence = aim.temperature**2 * F.kl_div(log_p, log_q, log_target=True, reduction="sum")
    entropy = F.cross_entropy(z, labels[valid], reduction="sum")
    return aim.weight * divergence + (1 - aim.weight) * entropy, entropy, divergence


def case(seed):
    """Random widths, vocabularies, labels with gaps, scales of logits, weights, temperatures and caps."""
    g = torch.Generator().manual_seed(seed)
    pick = lambda low, high: int(torch.randint(low, high, (), generator=g))  # noqa: E731
    rows, length, width, wide, vocabulary = pick(1, 4), pick(3, 40), pick(2, 20), pick(2, 30), pick(5, 400)
    scale = [0.1, 1.0, 6.0][seed % 3]
    make = lambda *shape: scale * torch.randn(*shape, generator=g) / shape[-1] ** 0.25  # noqa: E731
    labels = torch.randint(0, vocabulary, (rows, length), generator=g)
    if seed % 4:
        labels[torch.rand(rows, length, generator=g) < 0.3] = IGNORE
    caps = (None, None) if seed % 5 else (3.0, 7.0)
    aim = Aim([1.0, 0.5, 0.1][seed % 3 - seed % 2], [1.0, 2.0, 0.5, 4.0][seed % 4], *caps)
    inputs = (make(rows, length, width), make(vocabulary, width), make(rows, length, wide), make(vocabulary, wide))
    return (*inputs, labels, aim, pick(1, 50))


@pytest.mark.parametrize("seed", range(24))
def test_loss_and_gradients_are_those_of_whole_logits(seed):
    hidden, weight, taught, teacher, labels, aim, chunk = case(seed)
    exact = [tensor.double() for tensor in (hidden, weight, taught, teacher)]
    for tensor in (hidden, weight, taught, teacher, *exact):
        tensor.requires_grad_()
    loss, entropy, divergence = naive(*exact, labels, aim)
    found = distil(hidden, weight, taught, teacher, labels, aim, chunk)
    torch.testing.assert_close(found.loss.double(), loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.cross_entropy_B.sum().double(), entropy.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.divergence_B.sum().double(), divergence.detach(), rtol=1e-5, atol=1e-5)
    assert int(found.count) == int((labels != IGNORE).sum()) and len(found.divergence_B) == len(labels)
    if found.count:
        (3 * loss).backward()
        (3 * found.loss).backward()
        for ours, theirs in zip((hidden, weight), exact[:2], strict=True):
            size = float(theirs.grad.abs().max())
            torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=2e-6 * max(size, 1))
    assert taught.grad is None and teacher.grad is None


def test_a_model_that_is_its_own_teacher_learns_nothing():
    hidden, weight, *_, labels, _, _ = case(3)
    found = distil(hidden.requires_grad_(), weight, hidden, weight, labels, Aim())
    found.loss.backward()
    assert float(found.loss.detach().abs()) < 1e-5 and float(hidden.grad.abs().max()) < 1e-6


def test_the_loops_buffer_gets_the_gradient_of_the_head():
    hidden, weight, taught, teacher, labels, aim, _ = case(5)
    p = torch.nn.Parameter(weight.clone())
    gradients = data_parallel.Gradients([p])
    gradients.zero()
    distil(hidden, p, taught, teacher, labels, aim).loss.backward()
    other = weight.clone().requires_grad_()
    distil(hidden, other, taught, teacher, labels, aim).loss.backward()
    torch.testing.assert_close(p.grad, other.grad)
    assert p.grad.abs().max() > 0
    with pytest.raises(RuntimeError, match="plain sum"):
        (2 * distil(hidden, p, taught, teacher, labels, aim).loss).backward()


class Real(Live):
    """As `Live`, of tensors that have values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self._seen(func(*args, **(kwargs or {})))


def test_neither_heads_logits_are_ever_whole():
    """Counted: 1,024 positions of 2,000 tokens are 8 MB of logits for each head; 64 at a time are 0.5 MB."""
    torch.manual_seed(0)
    hidden, taught = torch.randn(1, 1024, 8, requires_grad=True), torch.randn(1, 1024, 16)
    weight, teacher = torch.randn(2000, 8, requires_grad=True), torch.randn(2000, 16)
    labels = torch.randint(0, 2000, (1, 1024))
    with Real() as live:
        distil(hidden, weight, taught, teacher, labels, Aim(0.5, 2.0), 64).loss.backward()
    one = 4 * 64 * 2000
    whole = 4 * 1024 * 2000
    assert 2 * one < live.peak < 12 * one < whole
