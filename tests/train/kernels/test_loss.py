import math

import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax
from torch.utils._python_dispatch import TorchDispatchMode

from train.kernels import cross_entropy as losses
from train.kernels.cross_entropy import (
    IGNORE,
    cross_entropy_and_rows,
    default_chunk,
    linear_cross_entropy,
    token_logprobs,
)

torch.set_num_threads(1)  # tiny tensors: a second thread only waits


def case(scale=1.0):
    rows, length, width, vocabulary = 3, 11, 8, 29
    g = torch.Generator().manual_seed(0)
    hidden = (torch.randn(rows, length, width, generator=g) * scale).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=g).requires_grad_()
    labels = torch.randint(0, vocabulary, (rows, length), generator=g)
    labels[0, :4] = IGNORE
    return hidden, weight, labels


def test_equal_logits_cost_the_logarithm_of_the_vocabulary():
    loss, count = linear_cross_entropy(torch.zeros(1, 5, 4), torch.randn(8, 4), torch.tensor([[0, 7, IGNORE, 3, 1]]))
    assert count == 4 and loss.dtype == torch.float32
    assert loss.item() == pytest.approx(4 * math.log(8), abs=1e-6)


@pytest.mark.parametrize("chunk", [1, 4, 7, 1000, None])
def test_chunks_do_not_change_loss_or_gradients(chunk):
    hidden, weight, labels = case()
    loss, count = linear_cross_entropy(hidden, weight, labels, chunk)
    grads = torch.autograd.grad(loss / count, (hidden, weight))
    logits = (hidden @ weight.T).flatten(0, 1)
    reference = cross_entropy(logits, labels.flatten(), reduction="sum")
    expected = torch.autograd.grad(reference / count, (hidden, weight))
    assert count == (labels != IGNORE).sum()
    torch.testing.assert_close(loss, reference, rtol=1e-6, atol=0)
    for got, want in zip(grads, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 7, None])
def test_losses_of_rows_come_from_the_same_pass(chunk):
    hidden, weight, labels = case()
    labels[1] = IGNORE
    loss, count, loss_B = cross_entropy_and_rows(hidden, weight, labels, chunk)
    logits = hidden @ weight.T
    for row in range(3):
        expected = cross_entropy(logits[row], labels[row], reduction="sum")
        torch.testing.assert_close(loss_B[row], expected, rtol=1e-6, atol=0)
    alone, alone_count = linear_cross_entropy(hidden, weight, labels, chunk)
    assert torch.equal(loss, alone) and count == alone_count and loss_B[1] == 0
    assert loss.requires_grad and not loss_B.requires_grad


def test_ignored_positions_get_no_gradient_and_nothing_at_all_is_no_loss():
    hidden, weight, labels = case()
    loss, _ = linear_cross_entropy(hidden, weight, labels, 4)
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert (gradient[0, :4] == 0).all() and (gradient[0, 4:].abs().sum(-1) > 0).all()
    loss, count = linear_cross_entropy(hidden, weight, torch.full_like(labels, IGNORE), 4)
    assert loss == 0 and count == 0
    assert all((g == 0).all() for g in torch.autograd.grad(loss, (hidden, weight)))


def test_very_large_logits_stay_exact():
    hidden, weight, labels = case(scale=1e3)
    loss, _ = linear_cross_entropy(hidden, weight, labels, 5)
    reference = cross_entropy((hidden @ weight.T).flatten(0, 1), labels.flatten(), reduction="sum")
    assert torch.isfinite(loss)
    torch.testing.assert_close(loss, reference, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("chunk", "tile"), [(3, 29), (None, 29), (3, 7), (None, 4), (4, 1)])
def test_token_logprobs_and_their_gradients_for_any_upstream_gradient(monkeypatch, chunk, tile):
    hidden, weight, labels = case()
    rows = chunk or int((labels != IGNORE).sum())
    monkeypatch.setitem(losses._TILE_BYTES, "cpu", 4 * rows * tile)
    assert [t.stop - t.start for t in losses._tiles(rows, weight)[0]][:-1] == [tile] * (math.ceil(29 / tile) - 1)
    upstream = torch.randn(labels.shape, generator=torch.Generator().manual_seed(9))
    logp = token_logprobs(hidden, weight, labels, chunk)
    grads = torch.autograd.grad((logp * upstream).sum(), (hidden, weight))
    full = log_softmax(hidden @ weight.T, -1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    full = torch.where(labels == IGNORE, 0.0, full)
    expected = torch.autograd.grad((full * upstream).sum(), (hidden, weight))
    assert (logp[0, :4] == 0).all() and logp.shape == labels.shape
    torch.testing.assert_close(logp, full, rtol=0, atol=2e-6)
    for got, want in zip(grads, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=5e-6)


class Largest(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_the_full_logits_never_exist():
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 64, 8, generator=g).requires_grad_()
    weight = torch.randn(500, 8, generator=g).requires_grad_()
    labels = torch.randint(0, 500, (2, 64), generator=g)
    for compute in (
        lambda: linear_cross_entropy(hidden, weight, labels, 16)[0],
        lambda: token_logprobs(hidden, weight, labels, 16).sum(),
    ):
        with Largest() as largest:
            compute().backward()
        assert largest.numel <= 16 * 500 < labels.numel() * 500


def test_of_log_probabilities_not_even_whole_rows_of_logits_exist(monkeypatch):
    monkeypatch.setitem(losses._TILE_BYTES, "cpu", 4 * 1000)
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 128, 8, generator=g).requires_grad_()
    weight = torch.randn(500, 8, generator=g).requires_grad_()
    with Largest() as largest:
        token_logprobs(hidden, weight, torch.randint(0, 500, (1, 128), generator=g)).sum().backward()
    assert largest.numel == weight.numel() < 128 * 500  # its gradient


def test_under_autocast_products_are_bf16():
    hidden, weight, labels = case()
    exact, count = linear_cross_entropy(hidden, weight, labels)
    exact_grads = torch.autograd.grad(exact / count, (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = linear_cross_entropy(hidden, weight, labels)
    grads = torch.autograd.grad(loss / count, (hidden, weight))
    assert loss.dtype == torch.float32 and all(g.dtype == torch.float32 for g in grads)
    assert loss.item() == pytest.approx(exact.item(), rel=5e-3) and loss.item() != exact.item()
    for got, want in zip(grads, exact_grads, strict=True):
        assert (got - want).norm() / want.norm() < 0.02


def test_gradients_of_many_bf16_chunks_are_summed_in_fp32():
    # Equal probabilities of 1/32: each of 1024 chunks adds 1/32, and a bf16 sum would stop growing at 256 / 32 = 8.
    hidden, weight = torch.ones(1, 1024, 4), torch.zeros(32, 4).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = linear_cross_entropy(hidden, weight, torch.zeros(1, 1024, dtype=torch.long), 1)
        logp = token_logprobs(hidden, weight, torch.zeros(1, 1024, dtype=torch.long), 1)
    for gradient in (torch.autograd.grad(loss, weight)[0], -torch.autograd.grad(logp.sum(), weight)[0]):
        assert (gradient[1:] == 32).all() and (gradient[0] == 32 - 1024).all()


@pytest.mark.parametrize("chunk", [4, None])
def test_z_loss_and_its_gradients_equal_the_naive_ones(chunk):
    hidden, weight, labels = case()
    loss, count = linear_cross_entropy(hidden, weight, labels, chunk, z_loss=0.3)
    grads = torch.autograd.grad(loss / count, (hidden, weight))
    logits = (hidden @ weight.T).flatten(0, 1)
    reference = cross_entropy(logits, labels.flatten(), reduction="sum")
    reference = reference + 0.3 * (logits.logsumexp(-1).square() * (labels.flatten() != IGNORE)).sum()
    expected = torch.autograd.grad(reference / count, (hidden, weight))
    torch.testing.assert_close(loss, reference, rtol=1e-6, atol=0)
    for got, want in zip(grads, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    plain, _, rows = cross_entropy_and_rows(hidden, weight, labels, chunk, z_loss=0.3)
    assert rows.sum() < 0.9 * plain  # the losses of rows are without it
    torch.testing.assert_close(rows.sum(), linear_cross_entropy(hidden, weight, labels)[0])


def test_a_second_backward_is_refused_rather_than_wrong():
    hidden, weight, labels = case()
    loss, _ = linear_cross_entropy(hidden, weight, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        loss.backward()


def test_default_chunk_keeps_logits_in_cache_and_is_never_tiny():
    assert default_chunk(torch.empty(16_384, 1)) * 16_384 * 4 <= 16 << 20
    assert default_chunk(torch.empty(10_000_000, 1, device="meta")) == 128
    assert default_chunk(torch.empty(151_936, 1, device="meta")) == 2048  # 1.2 GB of logits on a GPU
    assert default_chunk(torch.empty(4096, 1, device="meta")) == 32_768
