"""From sums of gradients to an update: the norm, what is divided where, and how often a buffer is passed over."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from train.distributed.data_parallel import ROW, Gradients
from train.kernels import adamw

torch.set_num_threads(1)


def parameters(sizes, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(size, generator=g)) for size in sizes]


def filled(params, extra=(), seed=1):
    gradients = Gradients(params, extra)
    gradients.zero()
    g = torch.Generator().manual_seed(seed)
    for p in [*params, *extra]:
        p.grad.copy_(torch.randn(p.shape, generator=g) * 10 ** (4 * torch.rand((), generator=g) - 2))
    return gradients


@pytest.mark.parametrize("sizes", [[1], [ROW - 1], [ROW], [(7, 300), ROW, 5], [3 * ROW + 17, 2], [(5, ROW)]])
def test_the_norm_has_the_digits_of_one_piece_after_the_other(sizes):
    gradients = filled(parameters(sizes))
    pieces = torch.stack([piece.norm() for piece in gradients._model.split(ROW)])
    assert gradients.norm() == float(pieces.double().square().sum().sqrt())
    gradients.reduce(7.0)
    assert gradients.norm() == pytest.approx(float(gradients._model.double().norm() / 7), rel=1e-5)


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("where", ["model", "tail", "extra", "loss"])
def test_what_is_not_finite_is_seen_wherever_it_is(value, where):
    params, (extra,) = parameters([ROW, 3]), parameters([4], 2)
    gradients = filled(params, [extra])
    tensor = {"model": params[0].grad, "tail": params[1].grad, "extra": extra.grad, "loss": gradients.loss.view(1)}[
        where
    ]
    gradients.reduce(2.0)
    assert math.isfinite(gradients.norm())
    tensor[-1] = value
    assert not math.isfinite(gradients.norm())


SETTINGS = {"lr": 0.03, "betas": (0.9, 0.95), "eps": 1e-5, "weight_decay": 0.1}


@pytest.mark.parametrize("states", ["fp32", "8bit"])
@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_an_update_is_that_by_means_that_were_clipped(states, factor):
    """The other side divides and clips first, with passes of their own: equal to the rounding of these products (8-bit moments
    are rounded by chance, so their second update may differ by a level)."""
    params, extra = parameters([(40, 300), (3, 7), 11]), parameters([5], 3)
    theirs = copy.deepcopy([params, extra])
    optimizers = []
    for mine, more in ((params, extra), theirs):
        group = {"params": more, "lr": 0.1, "maximize": True}
        named = [(str(i), p) for i, p in enumerate(mine)]
        optimizers.append(adamw.adamw(named, extra=[group], states=states, **SETTINGS))
    for seed in range(1 if states == "8bit" else 3):
        gradients = filled(params, extra, seed)
        gradients.reduce(13.0)
        norm = gradients.norm()
        filled(*theirs, seed)
        for p in theirs[0]:
            p.grad /= 13 / factor
        for p in theirs[1]:
            p.grad /= 13
        assert norm == pytest.approx(float(torch.cat([p.grad.flatten() for p in theirs[0]]).norm() / factor), rel=1e-5)
        adamw.step(optimizers[0], gradients.divisor(factor))
        adamw.step(optimizers[1])
    for p, q in zip([*params, *extra], [*theirs[0], *theirs[1]], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


class Passes(TorchDispatchMode):
    """Operations that touch a storage, and the elements that they read or write of it."""

    def __init__(self, storage):
        super().__init__()
        self.pointer, self.calls, self.elements = storage.data_ptr(), [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.is_view or "split" in str(func) or "detach" in str(func):
            return out
        tensors = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, torch.Tensor)]
        touched = [x.numel() for x in tensors if x.untyped_storage().data_ptr() == self.pointer]
        if sum(touched) > 1:  # one is the loss
            self.calls.append(str(func))
            self.elements += sum(touched)
        return out


@pytest.mark.parametrize("states", ["fp32", "8bit"])
def test_the_buffer_is_passed_over_three_times_beside_the_backward_pass(states):
    """24 bytes a parameter were: zero 4, divide 8, norm 4, clip 8. Now zero and norm, and the optimiser, which must read it,
    writes the quotient back (with 8 bits it does not); and one kernel takes the norm whatever the size."""
    params = parameters([(300, 300)] * 12 + [64] * 8)
    gradients = Gradients(params)
    optimizer = adamw.adamw([(str(i), p) for i, p in enumerate(params)], states=states, **SETTINGS)
    adamw.step(optimizer)
    with Passes(gradients._flat.untyped_storage()) as passes:
        gradients.zero()
        gradients.reduce(5.0)
        gradients.norm()
        before = list(passes.calls)
        adamw.step(optimizer, gradients.divisor(0.5))
    assert before == ["aten.zero_.default", "aten.linalg_vector_norm.default", "aten.linalg_vector_norm.default"]
    size = gradients._model.numel()
    assert passes.elements <= 3.01 * size  # the third is the optimiser's call, whose reading is its own
