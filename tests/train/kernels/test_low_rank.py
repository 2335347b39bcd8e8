"""Low-rank updates: the merged model is the trained one, and only what is asked for learns."""

import pytest
import torch
from partial_models import batch_fn, build
from torch import nn
from torch_flops import counted

from train import model
from train.batches.decoder import layers_of
from train.checkpoint import checkpoint
from train.export import convert
from train.kernels import adamw, low_rank
from train.loop import LoopConfig, fit
from train.methods import pretrain
from train.monitor import flops

torch.set_num_threads(1)  # tiny tensors: a second thread only waits


CONFIG = {"steps": 6, "rows_per_step": 4, "micro_rows": 2, "lr": 1e-2, "eps": 1e-5, "log_every": 1}


def train(net, folder, batches=batch_fn, **more):
    records = []
    fit(net, batches, pretrain.loss, LoopConfig(**CONFIG | more), str(folder), on_log=records.append)
    return [(r["loss"], r["grad_norm"]) for r in records]


@torch.no_grad()
def logits(net):
    batch = batch_fn([100, 101])
    return net.eval()(input_ids=batch["input_ids"]).logits


def test_a_model_begins_as_its_base_and_the_same_seed_gives_the_same_updates():
    want = logits(build())
    nets = [low_rank.attach(build(), 4, seed=seed) for seed in (1, 1, 2)]
    assert all(torch.equal(logits(net), want) for net in nets)
    a, b, other = (net.model.layers[0].mlp.up_proj.lora_A for net in nets)
    assert torch.equal(a, b) and not torch.equal(a, other)
    assert a.abs().max() <= 32**-0.5 and a.std() > 0.4 * 32**-0.5
    assert not torch.equal(a, nets[0].model.layers[1].mlp.up_proj.lora_A)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("vocabulary", [False, True])
@pytest.mark.parametrize("rank", [1, 5, 500])
def test_merged_is_unmerged(tmp_path, tied, vocabulary, rank):
    net = low_rank.attach(build(tied), rank, vocabulary)
    train(net, tmp_path)
    before = logits(net)
    low_rank.merge(net)
    assert all(type(module) is nn.Linear for _, module in low_rank.linear_layers(net))
    assert net.state_dict().keys() == build(tied).state_dict().keys()
    assert (logits(net) - before).abs().max() <= 1e-5 * before.abs().max().clamp(min=1)
    assert (before - logits(build(tied))).abs().max() > 1e-2  # it has learnt


def test_it_is_the_definition():
    """W + B A for each layer, by a sum over the rank; of alpha = r, as other libraries write it."""
    net, base = low_rank.attach(build(), 3), build()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for (_, changed), (_, plain) in zip(low_rank.linear_layers(net), low_rank.linear_layers(base), strict=True):
            changed.lora_B.copy_(torch.randn(changed.lora_B.shape, generator=generator) / 10)
            for r in range(3):
                plain.weight += torch.outer(changed.lora_B[:, r], changed.lora_A[r])
    assert torch.allclose(logits(net), logits(base), rtol=1e-5, atol=1e-5)


def test_the_gradients_are_those_of_the_product():
    """dA = Bᵀ dW and dB = dW Aᵀ, with dW of the same model with whole weights."""
    net = low_rank.attach(build(), 3, vocabulary=False)
    with torch.no_grad():
        for _, module in low_rank.linear_layers(net):
            module.lora_B.normal_(0, 0.1, generator=torch.Generator().manual_seed(module.out_features))
    whole = low_rank.attach(build(), 3)
    whole.load_state_dict(net.state_dict())
    low_rank.merge(whole)
    whole.requires_grad_(True)
    for one in (net, whole):
        pretrain.loss(one, batch_fn([1, 2])).loss_sum.backward()
    for (name, one), (_, other) in zip(low_rank.linear_layers(net), low_rank.linear_layers(whole), strict=True):
        gradient = other.weight.grad
        for got, want in ((one.lora_A.grad, one.lora_B.T @ gradient), (one.lora_B.grad, gradient @ one.lora_A.T)):
            assert (got - want).norm() <= 1e-5 * want.norm() + 1e-6, name


@pytest.mark.parametrize("states", ["fp32", "8bit"])
def test_moments_are_of_the_updates_alone(states):
    net = low_rank.attach(build(), 3, vocabulary=False)
    optimiser = adamw.adamw(
        net.named_parameters(), lr=1.0, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1, states=states
    )
    named = {f"model/{name}": p for name, p in net.named_parameters()}
    moments = {name for name in adamw.state_tensors(optimiser, named) if not name.startswith("model/")}
    assert moments and all(".lora_" in name for name in moments)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == sum(
        3 * sum(module.weight.shape) for _, module in low_rank.linear_layers(net)
    )


@pytest.mark.parametrize("vocabulary", [False, True])
def test_what_does_not_learn_stays_to_the_last_bit(tmp_path, vocabulary):
    net, base = low_rank.attach(build(), 3, vocabulary), build().state_dict()
    train(net, tmp_path)
    linear = {f"{name}.{part}" for name, _ in low_rank.linear_layers(net) for part in ("weight", "bias")}
    for name, weight in net.state_dict().items():
        if ".lora_" not in name:
            assert torch.equal(weight, base[name]) == (name in linear or not vocabulary), name


@pytest.mark.parametrize("more", [{}, {"exact": True}, {"optimiser_states": "8bit"}, {"precision": "bf16"}])
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(tmp_path, more):
    net = low_rank.attach(build(), 3)
    want = train(net, tmp_path / "whole", checkpoint_every=2, **more)

    def killed(rows):
        if rows[0] >= 16:
            raise KeyboardInterrupt
        return batch_fn(rows)

    with pytest.raises(KeyboardInterrupt):
        train(low_rank.attach(build(), 3), tmp_path / "cut", killed, checkpoint_every=2, **more)
    again = low_rank.attach(build(), 3)
    assert train(again, tmp_path / "cut", checkpoint_every=2, **more) == want[4:]
    for one in (net, again):
        low_rank.merge(one)
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in net.state_dict().items())


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_checkpointed_activations_change_nothing(tmp_path, mode):
    nets = [low_rank.attach(build(), 3) for _ in range(2)]
    assert train(nets[0], tmp_path / "a") == train(nets[1], tmp_path / "b", activation_checkpointing=mode)


def test_a_checkpoint_is_converted_with_its_updates(tmp_path):
    net = low_rank.attach(build(), 3)
    train(net, tmp_path, checkpoint_every=6)
    convert.to_folder(str(tmp_path / "checkpoints"), str(tmp_path / "hf"))
    low_rank.merge(net)
    assert torch.equal(logits(model.load(str(tmp_path / "hf"))), logits(net))
    assert low_rank.rank_of(checkpoint.shapes(checkpoint.latest(str(tmp_path / "checkpoints")))) == 3


@pytest.mark.parametrize("vocabulary", [False, True])
def test_operations_are_those_that_torch_counts(vocabulary):
    net = low_rank.attach(build(num_hidden_layers=3, vocab_size=64), 5, vocabulary)
    per_token, per_pair = flops.of_step(net)
    assert counted(net, 2, 16) == 2 * (16 * per_token + 16 * 16 * per_pair)
    assert len(layers_of(net)) == 3


def test_a_rank_of_nothing_is_refused():
    with pytest.raises(ValueError, match="rank must be at least 1, not 0"):
        low_rank.attach(build(), 0)


def test_it_is_what_peft_computes():
    """Forward and merged, with the same A and B and alpha = r."""
    peft = pytest.importorskip("peft")
    net = low_rank.attach(build(), 3, vocabulary=False)
    with torch.no_grad():
        for _, module in low_rank.linear_layers(net):
            module.lora_B.normal_(0, 0.1, generator=torch.Generator().manual_seed(module.out_features))
    names = [name.rsplit(".", 1)[1] for name, _ in low_rank.linear_layers(net)]
    config = peft.LoraConfig(r=3, lora_alpha=3, target_modules=sorted(set(names)))
    theirs = peft.get_peft_model(build(), config)
    values = net.state_dict()
    for name, p in theirs.named_parameters():
        if "lora_" in name:
            own = name.removeprefix("base_model.model.").replace(".default.weight", "")
            p.data.copy_(values[own])
    want = logits(theirs)
    assert torch.allclose(logits(net), want, rtol=1e-5, atol=1e-5)
    low_rank.merge(net)
    merged = theirs.merge_and_unload()
    for name, weight in merged.state_dict().items():
        assert torch.allclose(net.state_dict()[name], weight, rtol=1e-6, atol=1e-6), name
