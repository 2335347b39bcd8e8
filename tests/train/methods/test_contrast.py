"""Only what was chosen learns: all units are plain training to the last bit, the others keep theirs, planted ones are found."""

import random

import pytest
import torch
from partial_models import batch_fn, build
from torch import nn
from torch_flops import counted

from train import model
from train.batches.decoder import layers_of
from train.export import convert
from train.kernels import adamw, chosen
from train.loop import LoopConfig, fit
from train.methods import contrast, pretrain
from train.monitor import flops

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

CONFIG = {"steps": 6, "rows_per_step": 4, "micro_rows": 2, "lr": 1e-2, "eps": 1e-5, "log_every": 1}
CHOICE = [{"units": [1, 5, 40], "heads": [0, 3], "kv_heads": [1]}, {"units": [7], "heads": [], "kv_heads": []}]


def train(net, folder, batches=batch_fn, **more):
    records = []
    fit(
        net,
        batches,
        pretrain.loss,
        LoopConfig(**CONFIG | more),
        str(folder),
        on_log=records.append,
        after_step=lambda step, net: chosen.write_back(net),
    )
    return [(r["loss"], r["grad_norm"]) for r in records]


def same(a, b) -> bool:
    return all(torch.equal(a.state_dict()[name], weight) for name, weight in b.state_dict().items())


MODES = [
    {},
    {"precision": "bf16"},
    {"optimiser_states": "8bit"},
    {"exact": True},
    {"activation_checkpointing": "selective"},
    {"activation_checkpointing": "full"},
]


@pytest.mark.parametrize("more", MODES)
@pytest.mark.parametrize("tied", [False, True])
def test_a_share_of_one_is_plain_training_bit_for_bit(tmp_path, tied, more):
    plain = build(tied)
    net = chosen.attach(build(tied), chosen.even(plain, 1.0), vocabulary=True)
    got, want = (train(one, tmp_path / str(i), **more) for i, one in enumerate((net, plain)))
    assert got == want
    assert any(norm > 1 for _, norm in want)  # clipped, so the norm counts
    chosen.finish(net)
    assert net.state_dict().keys() == plain.state_dict().keys() and same(net, plain)


def rows_of(name: str, layer: int, choice) -> tuple[int, list[int]] | None:
    """(axis, indices) of what may change of a tensor of a layer; None of one that may not at all."""
    for _, projection, kind, axis in chosen.PLACES:
        if f".{projection}." in name and not (axis and name.endswith("bias")):
            width = 1 if kind == "units" else 8
            return axis, [unit * width + i for unit in choice[layer][kind] for i in range(width)]
    return None


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("states", ["fp32", "8bit"])
def test_what_is_not_chosen_stays_to_the_last_bit_and_the_rest_learns(tmp_path, seed, states):
    at_random, base = random.Random(seed), build()
    sizes = {"units": 48, "heads": 4, "kv_heads": 2}
    choice = [
        {kind: sorted(at_random.sample(range(n), at_random.randint(0, n // 2))) for kind, n in sizes.items()}
        for _ in range(2)
    ]
    choice[0]["units"] = choice[0]["units"] or [0]
    net = chosen.attach(build(), choice)
    train(net, tmp_path, optimiser_states=states)
    chosen.finish(net)
    assert all(type(module) is nn.Linear for module in net.modules() if isinstance(module, nn.Linear))
    for name, weight in net.state_dict().items():
        before = base.state_dict()[name]
        axis, index = (".layers." in name and rows_of(name, int(name.split(".")[2]), choice)) or (0, [])
        others = [i for i in range(weight.shape[axis]) if i not in index]
        assert torch.equal(
            weight.index_select(axis, torch.tensor(others, dtype=torch.long)),
            before.index_select(axis, torch.tensor(others, dtype=torch.long)),
        ), name
        changed = (weight != before).any(1 - axis) if weight.ndim == 2 else weight != before
        assert changed.sum() >= 0.9 * len(index), name


def test_moments_are_of_the_chosen_alone():
    net = chosen.attach(build(), CHOICE)
    optimiser = adamw.adamw(net.named_parameters(), lr=1.0, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1)
    named = {f"model/{name}": p for name, p in net.named_parameters()}
    moments = {k: v for k, v in adamw.state_tensors(optimiser, named).items() if not k.startswith("model/")}
    assert moments and all(".chosen" in name for name in moments)
    # 4 units of 3 x 32; 2 heads of 8 x 32 twice and a bias; 1 key/value head of 8 x 32 twice and two biases
    assert sum(v.numel() for v in moments.values()) == 2 * (4 * 96 + 2 * (2 * 256 + 8) + 2 * 264)


@pytest.mark.parametrize("more", [{}, {"exact": True}, {"optimiser_states": "8bit"}])
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(tmp_path, more):
    nets = [chosen.attach(build(), CHOICE, vocabulary=True) for _ in range(3)]
    want = train(nets[0], tmp_path / "whole", checkpoint_every=2, **more)

    def killed(rows):
        if rows[0] >= 16:
            raise KeyboardInterrupt
        return batch_fn(rows)

    with pytest.raises(KeyboardInterrupt):
        train(nets[1], tmp_path / "cut", killed, checkpoint_every=2, **more)
    assert train(nets[2], tmp_path / "cut", checkpoint_every=2, **more) == want[4:]
    assert same(nets[2], nets[0])


def test_a_checkpoint_is_converted_with_its_slices(tmp_path):
    net = chosen.attach(build(), CHOICE)
    train(net, tmp_path, checkpoint_every=6)
    convert.to_folder(str(tmp_path / "checkpoints"), str(tmp_path / "hf"))
    chosen.finish(net)
    assert same(model.load(str(tmp_path / "hf")), net)


def test_the_gradients_are_the_slices_of_the_whole_ones():
    net, plain = chosen.attach(build(), CHOICE), build()
    for one in (net, plain):
        pretrain.loss(one, batch_fn([1, 2])).loss_sum.backward()
    whole = dict(plain.named_parameters())
    for name, p in net.named_parameters():
        if p.requires_grad:
            of = name.replace("chosen_bias", "bias").replace("chosen", "weight")
            axis, index = rows_of(of, int(of.split(".")[2]), CHOICE)
            want = whole[of].grad.index_select(axis, torch.tensor(index))
            assert (p.grad - want).norm() <= 1e-5 * want.norm(), name


@pytest.mark.parametrize("vocabulary", [False, True])
def test_operations_are_those_that_torch_counts(vocabulary):
    net = chosen.attach(build(vocab_size=64), CHOICE, vocabulary)
    per_token, per_pair = flops.of_step(net)
    assert counted(net, 2, 16) == 2 * (16 * per_token + 16 * 16 * per_pair)


# Measuring


def measured(net, target, replay):
    return contrast.measure(net, pretrain.loss, target, replay, torch.autocast("cpu", enabled=False))


def makers(rows, *bounds):
    return [lambda row=row: batch_fn([row], *bounds) for row in rows]


def test_squares_are_those_of_the_gradients_of_each_row():
    found = measured(build(), makers([1, 2, 3]), makers([4]))
    want = [0.0, 0.0, 0.0]
    for row in (1, 2, 3):
        net = build()
        parts = pretrain.loss(net, batch_fn([row]))
        (parts.loss_sum / parts.count).backward()
        mlp, attention = net.model.layers[1].mlp, net.model.layers[1].self_attn
        up, down, gate = (getattr(mlp, f"{name}_proj").weight.grad for name in ("up", "down", "gate"))
        want[0] += float(up[5].square().sum() + gate[5].square().sum() + down[:, 5].square().sum()) / 3
        q, o = attention.q_proj.weight.grad, attention.o_proj.weight.grad
        want[1] += float(q[24:32].square().sum() + o[:, 24:32].square().sum()) / 3
        k, v = attention.k_proj.weight.grad, attention.v_proj.weight.grad
        want[2] += float(k[8:16].square().sum() + v[8:16].square().sum()) / 3
    one = found.target[1]
    got = [float(one["units"][5]), float(one["heads"][3]), float(one["kv_heads"][1])]
    assert got == pytest.approx(want, rel=1e-5)


@torch.no_grad()
def plant(net, units, heads, others=4):
    """Dimensions 0 to `others` - 1 of the stream are of the tokens from 30 on alone; only what is planted reads them, and reads
    nothing else."""
    net.model.embed_tokens.weight[:30, :others] = 0
    net.model.embed_tokens.weight[30:, :others] *= 3
    for number, layer in enumerate(layers_of(net)):
        layer.self_attn.o_proj.weight[:others] = 0
        layer.mlp.down_proj.weight[:others] = 0
        for projection in ("q_proj", "k_proj", "v_proj"):
            getattr(layer.self_attn, projection).bias.zero_()
        for projection, of, width in (("gate_proj", units, 1), ("up_proj", units, 1), ("v_proj", heads, 8)):
            weight = getattr(layer.mlp if width == 1 else layer.self_attn, projection).weight
            mine = torch.tensor([unit * width + i for unit in of[number] for i in range(width)], dtype=torch.long)
            reads = torch.zeros(len(weight), dtype=torch.bool).index_fill_(0, mine, True)
            weight[~reads, :others] = 0
            weight[mine, others:] = 0
            weight[mine, :others] *= 5
    return net


@pytest.mark.parametrize("seed", range(6))
def test_planted_units_are_found(seed):
    at_random = random.Random(seed)
    net = build(seed=seed)
    units = [sorted(at_random.sample(range(48), n)) for n in (at_random.randint(1, 6), at_random.randint(1, 6))]
    net = plant(net, units, [[], []])
    found = measured(net, makers(range(6), 30, 61), makers(range(6, 12), 0, 30))
    share = sum(map(len, units)) / 96
    assert [one["units"] for one in contrast.choose(found.target, found.replay, share)] == units


@pytest.mark.parametrize("seed", range(6))
def test_planted_heads_are_found(seed):
    heads = [[seed % 4], [(seed + 1) % 4]]
    net = plant(build(seed=seed, num_key_value_heads=4), [[], []], heads)
    found = measured(net, makers(range(6), 30, 61), makers(range(6, 12), 0, 30))
    assert [one["heads"] for one in contrast.choose(found.target, found.replay, 0.25)] == heads


def test_the_choice_is_the_highest_scores_of_each_kind_and_ties_are_the_first():
    sizes = {"units": 4, "heads": 2, "kv_heads": 2}
    target = [{kind: torch.ones(n) for kind, n in sizes.items()} for _ in range(2)]
    replay = [{kind: torch.ones(n) for kind, n in sizes.items()} for _ in range(2)]
    target[1]["units"] = torch.tensor([1.0, 9.0, 1.0, 8.0])
    assert contrast.choose(target, replay, 0.25) == [
        {"units": [], "heads": [0], "kv_heads": [0]},
        {"units": [1, 3], "heads": [], "kv_heads": []},
    ]
    target[1]["units"] *= 1000  # a layer's scores are relative to its mean
    assert contrast.choose(target, replay, 0.25)[1]["units"] == [1, 3]
    replay[0]["units"] = torch.tensor([1.0, 1.0, 0.0, 1.0])  # never used by replay
    assert contrast.choose(target, replay, 0.125)[0]["units"] == [2]
    assert contrast.choose(target, replay, 1.0) == [{kind: [*range(n)] for kind, n in sizes.items()}] * 2
    nothing = [{kind: torch.zeros(n) for kind, n in sizes.items()} for _ in range(2)]
    assert contrast.choose(nothing, nothing, 0.25)[0]["units"] == [0, 1]


def test_units_that_are_never_open_are_counted():
    net = build()
    with torch.no_grad():
        net.model.layers[1].mlp.gate_proj.weight[3:10] = 0  # a gate of 0 is not open
    never = measured(net, makers(range(8)), makers([20])).never
    assert never == [0, 7]


def test_a_layer_of_another_build_is_refused():
    net = build()
    net.model.layers[1].mlp.gate_proj = nn.Identity()
    with pytest.raises(ValueError, match="has no units of its own"):
        chosen.attach(net, CHOICE)
