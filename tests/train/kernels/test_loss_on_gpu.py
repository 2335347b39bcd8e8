"""The loss as a GPU computes it: what is compiled there, checked uncompiled, and what goes over memory, counted."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from train.batches.labels import IGNORE
from train.batches.parts import on_device, on_host
from train.kernels import cross_entropy as losses

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

GPU = torch.device("meta")


def logits(rows, size, scale, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, size, (rows,), generator=g)
    labels[torch.rand(rows, generator=g) < 0.3] = IGNORE
    return torch.randn(rows, size, generator=g) * scale, labels


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("z_loss", [0.0, 0.2])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4, 1e7])
def test_the_fused_losses_are_those_in_place(softcap, z_loss, scale):
    for seed, (rows, size) in enumerate([(7, 31), (1, 1), (16, 500), (5, 2)]):
        x, labels = logits(rows, size, scale, seed)
        before = x.clone()
        got = losses._losses(x, labels, softcap, z_loss, torch.float32)
        assert torch.equal(x, before)
        without = losses._losses(x, labels, softcap, z_loss, None)
        assert without[2] is None and torch.equal(without[0], got[0]) and torch.equal(without[1], got[1])
        valid = labels != IGNORE
        want = losses._losses_in_place(x[valid], labels[valid], softcap, z_loss, torch.float32)
        assert (got[0][~valid] == 0).all() and (got[2][~valid] == 0).all()
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a[valid], b, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
def test_the_fused_tiles_are_those_in_place(softcap, scale):
    for seed, (first, last) in enumerate([(0, 40), (40, 41), (3, 29)]):
        x, labels = logits(9, last - first, scale, seed)
        labels = torch.where(labels == IGNORE, IGNORE, labels + 7)  # some are in other tiles
        index_C1, inside_C = losses._in_tile(labels, slice(first, last))
        grad_C = torch.randn(9, generator=torch.Generator().manual_seed(seed))
        got = losses._tile(x, index_C1, softcap)
        of = (index_C1, inside_C, grad_C, softcap, torch.float32)
        got_d = losses._tile_gradient(x, got[1].unsqueeze(1) + 0.5, *of)
        want = losses._tile_in_place(x.clone(), index_C1, softcap)
        want_d = losses._tile_gradient_in_place(x.clone(), want[1].unsqueeze(1) + 0.5, *of)
        for a, b in zip((*got, got_d), (*want, want_d), strict=True):
            torch.testing.assert_close(a, b, rtol=2e-6, atol=4e-6 + 1e-6 * scale * (a is got_d))


@pytest.fixture
def meta_is_cuda(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: self.device == GPU))
    monkeypatch.setattr(losses, "_matmul_dtype", lambda hidden: torch.bfloat16)  # autocast knows no meta tensors
    monkeypatch.setattr(losses, "_kernel", lambda in_place, fused, device: FUSED[fused])


def _one_kernel(x, labels, softcap, z_loss, dtype):
    out = torch.ops.pinisi_tests.losses(x, labels)
    return out if dtype else (*out[:2], None)


@torch.library.custom_op("pinisi_tests::losses", mutates_args={})
def _op(x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    raise NotImplementedError


@_op.register_fake
def _(x, labels):
    return x.new_empty(len(x)), x.new_empty(len(x)), torch.empty_like(x, dtype=torch.bfloat16)


FUSED = {losses._losses: _one_kernel}


class Traffic(TorchDispatchMode):
    """Bytes that operations read and write of tensors as large as logits, and what they are called."""

    def __init__(self, least):
        super().__init__()
        self.least, self.bytes, self.calls, self.rows = least, 0, [], set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.is_view or "empty" in str(func):
            return out
        read = [
            x
            for x in tree_leaves((args, {k: v for k, v in (kwargs or {}).items() if k != "out"}))
            if isinstance(x, torch.Tensor)
        ]
        large = [x for x in [*read, *tree_leaves(out)] if isinstance(x, torch.Tensor) and x.numel() >= self.least]
        if large:
            self.calls.append(func.overloadpacket.__name__)
            self.bytes += sum(x.nbytes for x in large)
            self.rows |= {min(x.shape) for x in large}
        return out


def test_a_logit_is_written_twice_and_read_three_times_on_a_gpu(meta_is_cuda):
    """In bytes 4 + 4 + 2 + 2 + 2, and 4 or 8 more as the compiled function reads its row again; an operation at a time takes
    46."""
    size, rows, width = 50_000, 2048, 8
    weight = nn.Parameter(torch.empty(size, width, device=GPU))
    weight.grad, weight.gradient_buffer = torch.empty_like(weight), True
    hidden = torch.empty(1, rows, width, device=GPU, requires_grad=True)
    labels = torch.zeros(1, rows, dtype=torch.long)
    labels = on_device({"labels": labels}, GPU)["labels"]
    with Traffic(rows * size) as traffic:
        losses.cross_entropy_and_rows(hidden, weight, labels)
    assert traffic.calls == ["mm", "losses", "mm", "addmm"]
    assert traffic.bytes == 14 * rows * size


def test_only_positions_with_a_label_go_through_the_head_on_a_gpu(meta_is_cuda, monkeypatch):
    monkeypatch.setattr(losses, "_kernel", lambda in_place, fused, device: fused)
    weight = nn.Parameter(torch.empty(5000, 8, device=GPU))
    labels = torch.full((3, 100), IGNORE)
    labels[0, 7], labels[2, 90:] = 1, 2
    moved = on_device({"labels": labels}, GPU)["labels"]
    assert on_host(moved) is labels
    for compute in (
        lambda *of: losses.cross_entropy_and_rows(*of)[0],
        lambda *of: losses.token_logprobs(*of).sum(),
    ):
        found = []
        for of in (
            moved,
            torch.empty_like(moved),
        ):  # the second is of unknown origin: all go through, and nothing waits
            hidden = torch.empty(3, 100, 8, device=GPU, requires_grad=True)
            with Traffic(11 * 5000) as traffic:
                compute(hidden, weight, of).backward()
            assert hidden.grad.shape == hidden.shape
            found.append(max(traffic.rows))
        assert found == [11, 300]


def test_a_batch_without_any_label_is_no_loss_on_a_gpu(meta_is_cuda):
    hidden = torch.empty(1, 9, 8, device=GPU, requires_grad=True)
    weight = nn.Parameter(torch.empty(50, 8, device=GPU))
    labels = on_device({"labels": torch.full((1, 9), IGNORE)}, GPU)["labels"]
    for kernel in losses.KERNELS:
        total, count, _ = losses.cross_entropy_and_rows(hidden, weight, labels, kernel=kernel)
        total.backward()
        assert count == 0 and hidden.grad.shape == hidden.shape


@pytest.mark.slow
def test_a_compiler_keeps_nothing_as_large_as_the_logits_but_their_gradient():
    """Inductor for this CPU: the graph is the same for a GPU, and so is that what is made and used at once is never stored."""
    from torch._inductor.utils import run_and_get_code

    x, labels = logits(64, 1000, 3.0)
    torch._dynamo.reset()
    compiled = torch.compile(losses._losses, dynamic=False)
    got, code = run_and_get_code(compiled, x, labels, None, 0.0, torch.bfloat16)
    torch._dynamo.reset()
    assert "".join(code).count("empty_strided_cpu((64, 1000)") == 1
    for a, b in zip(got, losses._losses(x, labels, None, 0.0, torch.bfloat16), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 if a.dtype == torch.float32 else 1e-2)
