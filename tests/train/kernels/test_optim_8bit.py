import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from train.checkpoint import checkpoint
from train.kernels import adamw as optim
from train.kernels import adamw_8bit as optim_8bit

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

NOTHING = {"lr": 0.0, "weight_decay": 0.0, "eps": 1e-8, "betas": (0.9, 0.95), "maximize": False}


def make(p, states, **more):
    settings = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1} | more
    return optim.adamw([("p", p)], states=states, **settings)


def gradients(steps, rows, columns, seed=0):
    """Heavy-tailed: columns, rows and single elements differ by orders of magnitude, as a transformer's do."""
    g = torch.Generator().manual_seed(seed)
    spread = torch.exp2(2 * torch.randn(1, columns, generator=g) + 3 * torch.randn(rows, 1, generator=g))
    return [torch.randn(rows, columns, generator=g) * spread for _ in range(steps)]


def test_the_first_update_is_adamw_exactly():
    p = nn.Parameter(torch.randn(5, 300, generator=torch.Generator().manual_seed(1)))
    q = nn.Parameter(p.detach().clone())
    p.grad, q.grad = torch.randn(2, 5, 300)[0], None
    q.grad = p.grad.clone()
    make(p, "fp32").step()
    make(q, "8bit").step()
    torch.testing.assert_close(q, p, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("columns", [1, 7, 256, 257, 600])
def test_moments_are_right_to_a_level(columns):
    """A level of sqrt(v) is a 255th of a block's octaves, of which there are at most 16, so v is right to 2^(32/255) above 2^-16
    of the block's largest sqrt(v); m is right to one of 127 parts of the block's largest m / sqrt(v)."""
    p = nn.Parameter(torch.zeros(40, columns))
    optimizer = make(p, "8bit")
    [grad] = gradients(1, 40, columns)
    p.grad = grad
    optimizer.step()
    m, v = optim_8bit.decode(optimizer.state[p])
    want_m, want_v = 0.1 * grad, 0.05 * grad.square()
    blocks = -(-columns // 256)
    width = -(-columns // blocks)
    for start in range(0, columns, width):
        part = slice(start, start + width)
        root = want_v[:, part].sqrt()
        top = root.amax(1, keepdim=True)
        in_range = root > top * 2.0**-16
        assert in_range.float().mean() > 0.99
        ratio = (v[:, part] / want_v[:, part])[in_range]
        level = 2 ** (32 / 255) + 1e-5
        assert ratio.min() > 1 / level and ratio.max() < level
        unit = (want_m[:, part] / v[:, part].sqrt()).abs().amax(1, keepdim=True) / 127
        assert ((m - want_m)[:, part].abs() <= unit * v[:, part].sqrt() * (1 + 1e-4)).all()


def test_rounding_is_right_on_average():
    """With learning rate 0 and one gradient for ever, both moments converge; rounding must not hold them back or carry them
    away: a level is up to 9 % of v, and an update changes it by 0.1 %, so to the nearest level v would never move."""
    p = nn.Parameter(torch.zeros(64, 512))
    optimizer = make(p, "8bit", lr=1e-30, betas=(0.9, 0.999), weight_decay=0.0)
    first, second = gradients(2, 64, 512, seed=3)
    m = v = 0.0
    for t in range(120):
        p.grad = first if t < 60 else second
        optimizer.step()
        m, v = 0.9 * m + 0.1 * p.grad, 0.999 * v + 0.001 * p.grad.square()
    got_m, got_v = optim_8bit.decode(optimizer.state[p])
    # of 32,768 elements with an error of up to 20 % each the mean is known to 0.1 %
    assert abs((got_v / v).mean() - 1) < 0.005
    assert abs(((got_m - m) / v.sqrt()).mean()) < 0.001


def test_what_is_too_small_for_its_block_is_rounded_up():
    p = nn.Parameter(torch.zeros(1, 4))
    optimizer = make(p, "8bit", weight_decay=0.0)
    p.grad = torch.tensor([[1.0, 1e-7, 0.0, -1e-3]])
    for _ in range(3):
        before = p.detach().clone()
        optimizer.step()
        assert (p - before).abs().max() < 0.0105  # no update is larger than the learning rate and a level
    m, v = optim_8bit.decode(optimizer.state[p])
    assert v[0, 1] > 1e-14 * 0.14 and v[0, 2] > 0 and m[0, 2] == 0
    assert p[0, 2] == 0


def test_levels_lie_as_close_as_a_block_allows():
    """Values within a factor of 4 (of sqrt(v): 1 octave) have levels 1/255 of it apart: v is right to 2^(2/255), 0.6 %."""
    p = nn.Parameter(torch.zeros(8, 256))
    optimizer = make(p, "8bit")
    p.grad = 1 + torch.rand(8, 256, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    ratio = optim_8bit.decode(optimizer.state[p])[1] / (0.05 * p.grad.square())
    assert ratio.min() > 2 ** (-2 / 255) - 1e-4 and ratio.max() < 2 ** (2 / 255) + 1e-4


def test_zero_gradients_leave_zeros():
    p = nn.Parameter(torch.ones(3, 5))
    optimizer = make(p, "8bit", weight_decay=0.0)
    p.grad = torch.zeros(3, 5)
    optimizer.step()
    assert torch.equal(p, torch.ones(3, 5))
    assert all(not tensor.any() for tensor in optim_8bit.decode(optimizer.state[p]))


def test_rows_may_be_cut_anywhere():
    """A rank with some rows makes the bits that one with all makes: the noise is that of the row's number."""
    whole = nn.Parameter(torch.randn(10, 300, generator=torch.Generator().manual_seed(2)))
    parts = [whole.detach()[:3].clone(), whole.detach()[3:].clone()]
    states = [optim_8bit.zeros(part) for part in (whole, *parts)]
    for step, grad in enumerate(gradients(3, 10, 300), start=1):
        numbers = optim_8bit._numbers(torch.device("cpu"), step, 0.01, 0.1, 1e-8, 0.9, 0.95, False, 1.0)
        for tensor, got, state, row in (
            (whole.detach(), grad, states[0], 0),
            (parts[0], grad[:3], states[1], 0),
            (parts[1], grad[3:], states[2], 3),
        ):
            optim_8bit._update(tensor, got, *(state[name] for name in optim_8bit.NAMES), *numbers, row, 2)
    assert torch.equal(whole, torch.cat(parts))
    assert all(torch.equal(states[0][n], torch.cat([states[1][n], states[2][n]])) for n in optim_8bit.NAMES)


def test_traced_as_on_a_gpu_it_makes_the_same_bits_and_compiles_nothing_after_the_first_update():
    counter = CompileCounterWithBackend("eager")
    torch._dynamo.reset()
    traced = torch.compile(optim_8bit._update, dynamic=True, backend=counter, fullgraph=True)
    shapes = [(61, 32, 0), (32, 96, 0), (64, 896, 0), (16, 4864, 5), (1, 256, 3), (30, 300, 0), (7, 300, 9)]
    compiled = []
    for step in (1, 2):
        numbers = optim_8bit._numbers(torch.device("cpu"), step, 0.01, 0.1, 1e-8, 0.9, 0.95, False, 1.0)
        for rows, columns, first in shapes:
            p, grad = torch.randn(2, rows, columns, generator=torch.Generator().manual_seed(columns))
            results = []
            for kernel in (traced, optim_8bit._update):
                weight, state = p.clone(), optim_8bit.zeros(p)
                blocks = state["exp_avg_8bit_scale"].shape[1]
                kernel(weight, grad, *(state[name] for name in optim_8bit.NAMES), *numbers, first, blocks)
                results.append([weight, *state.values()])
            assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
        compiled.append(counter.frame_count)
    torch._dynamo.reset()
    assert compiled[0] == compiled[1] <= 4  # beyond 8 it would run uncompiled


def test_matrices_take_two_bytes_and_vectors_and_extra_groups_are_exact():
    net = nn.Sequential(nn.Embedding(100, 1024), nn.Linear(1024, 64))
    mask = nn.Parameter(torch.ones(2, 2))
    optimizer = optim.adamw(
        net.named_parameters(),
        lr=0.1,
        betas=(0.9, 0.95),
        eps=1e-8,
        weight_decay=0.3,
        extra=[{"params": [mask], "lr": 3.0, "maximize": True, "constant_lr": True}],
        states="8bit",
    )
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.1, 3.0]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.3, 0.0, 0.0]
    for exact in (net[1].bias, mask):
        assert optimizer.state[exact]["exp_avg"].dtype == torch.float32
    state = optim.state_tensors(optimizer, {"w": net[0].weight, "mask": mask})
    taken = sum(tensor.nbytes for name, tensor in state.items() if name.endswith("/w"))
    assert taken == optim_8bit.BYTES * net[0].weight.numel() == (2 + 12 / 256) * 102400
    assert set(state) == {"w", "mask", "exp_avg/mask", "exp_avg_sq/mask", *(f"{name}/w" for name in optim_8bit.NAMES)}
    optim.set_updates(optimizer, 7)
    assert all(s["step"] == 7 for s in optimizer.state.values())
    mask.grad = torch.ones(2, 2)
    optimizer.step()
    assert mask[0, 0] > 1  # it climbs


def test_a_checkpoint_keeps_the_small_size_and_moments_of_the_other_kind_are_refused(tmp_path):
    p = nn.Parameter(torch.randn(64, 2560))
    p.grad = torch.randn(64, 2560)
    uri, optimizers = str(tmp_path), {states: make(p, states) for states in optim.STATES}
    optimizers["8bit"].step()
    saved = {name: tensor.clone() for name, tensor in optim.state_tensors(optimizers["8bit"], {"w": p}).items()}
    checkpoint.save(uri, 1, saved)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert 0 < size - p.numel() * (4 + optim_8bit.BYTES) < 2000  # the header
    optimizers["8bit"].step()
    found = optim.state_tensors(optimizers["8bit"], {"w": p})
    checkpoint.load(checkpoint.latest(uri), found)
    assert all(torch.equal(found[name], tensor) for name, tensor in saved.items())
    with pytest.raises(ValueError, match=r"the run needs exp_avg/w of shape \(64, 2560\), the checkpoint has nothing"):
        checkpoint.load(checkpoint.latest(uri), optim.state_tensors(optimizers["fp32"], {"w": p}))
