"""Scores by activations against a loop over what the modules saw, and equal shares of languages."""

import types

import pytest
import torch

from train.batches.examples import Example, collate
from train.methods import slices
from train.methods.activation_scores import kept, scores
from train.methods.prune_target import Target, checked, rounds

torch.set_num_threads(1)
TARGET = Target(hidden_size=32, num_attention_heads=4, intermediate_size=40)  # of 64, 8 (2 KV heads), 96


def batch(seed, rows=2, length=25):
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for number in range(rows):
        ids = torch.randint(0, 300, (length,), generator=generator).numpy()
        examples.append([Example(str(number), "id", ids, ids >= 0)])
    return collate(examples)


def naive(net, batches):
    """Mean over positions, by loops over what each module was given or gave."""
    seen = {"hidden": [], "heads": [], "ffn": []}
    handles = []
    for i, layer in enumerate(net.model.layers):
        keep = lambda name, i: lambda _, args: seen[name].append((i, args[0].clone()))  # noqa: E731
        handles.append(layer.self_attn.o_proj.register_forward_pre_hook(keep("heads", i)))
        handles.append(layer.mlp.down_proj.register_forward_pre_hook(keep("ffn", i)))
    norms = [module for name, module in net.model.named_modules() if name.endswith("norm") and "self_attn" not in name]
    handles += [n.register_forward_hook(lambda _, __, out: seen["hidden"].append(out.clone())) for n in norms]
    count = 0
    with torch.no_grad():
        for one in batches:
            net.model(**{key: one[key] for key in ("input_ids", "position_ids", "doc_ids")}, use_cache=False)
            count += one["input_ids"].numel()
    for handle in handles:
        handle.remove()
    layers, config = len(net.model.layers), net.config
    groups, heads = config.num_key_value_heads, config.num_attention_heads
    width = net.model.layers[0].self_attn.head_dim
    hidden = torch.zeros(config.hidden_size)
    ffn, of_heads = torch.zeros(layers, config.intermediate_size), torch.zeros(layers, groups, heads // groups)
    for out in seen["hidden"]:
        for position in out.flatten(0, 1):
            hidden += position.abs()
    for i, into in seen["ffn"]:
        for position in into.flatten(0, 1):
            ffn[i] += position.abs()
    for i, into in seen["heads"]:
        for position in into.flatten(0, 1):
            for head in range(heads):
                part = position[head * width : (head + 1) * width]
                of_heads[i, head // (heads // groups), head % (heads // groups)] += part.square().sum().sqrt()
    return slices.Masks(hidden / count, of_heads / count, ffn / count)


def close(one, other, **more):
    for name in ("hidden_D", "heads_LKG", "ffn_LF"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), **({"rtol": 1e-4, "atol": 1e-6} | more))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_are_those_of_a_loop(tiny_model, seed):
    net, text = tiny_model(seed).eval(), [batch(seed), batch(seed + 9, rows=1)]
    hooks = lambda: [(len(one._forward_hooks), len(one._forward_pre_hooks)) for one in net.modules()]  # noqa: E731
    before = hooks()
    close(scores(net, {"id": text}), naive(net, text))
    assert hooks() == before


def test_every_language_has_an_equal_share_whatever_its_rows(tiny_model):
    net = tiny_model().eval()
    lo, en = [batch(1)], [batch(2), batch(3), batch(4), batch(5)]
    both = scores(net, {"lo": lo, "en": en})
    alone = [scores(net, {"x": text}) for text in (lo, en)]
    mean = [(a + b) / 2 for a, b in zip(*(vars(one).values() for one in alone), strict=True)]
    close(both, slices.Masks(*mean))
    close(both, scores(net, {"lo": lo, "en": en * 3}))
    pooled = scores(net, {"x": lo + en})
    assert (pooled.ffn_LF - both.ffn_LF).abs().max() > 1e-3  # shares by rows would be others


def test_units_that_are_known_to_matter_are_kept(tiny_model):
    net, generator = tiny_model().eval(), torch.Generator().manual_seed(0)
    ffn, hidden = torch.randperm(96, generator=generator)[:40], torch.randperm(64, generator=generator)[:32]
    with torch.no_grad():
        for layer in net.model.layers:
            layer.mlp.up_proj.weight[ffn] *= 30
            layer.input_layernorm.weight[hidden] *= 30
        net.model.norm.weight[hidden] *= 30
    masks = kept(scores(net, {"id": [batch(1)]}), TARGET)
    assert masks.hidden_D.nonzero().squeeze(1).tolist() == sorted(hidden.tolist())
    assert all(masks.ffn_LF[i].nonzero().squeeze(1).tolist() == sorted(ffn.tolist()) for i in range(2))
    assert ((masks.heads_LKG == 1).sum(-1) == 2).all()  # in each group equally many


@pytest.mark.parametrize("seed", range(20))
def test_rounds_are_shapes_on_the_way(seed):
    g = torch.Generator().manual_seed(seed)
    pick = lambda low, high: int(torch.randint(low, high, (), generator=g))  # noqa: E731
    groups, per_group, width, count = pick(1, 9), pick(2, 9), 8 * pick(1, 17), pick(1, 6)
    heads, kept_heads = groups * per_group, groups * pick(1, per_group + 1)
    free = {"head_dim": width} if seed % 2 else {}
    config = types.SimpleNamespace(
        hidden_size=heads * width, num_attention_heads=heads, num_key_value_heads=groups, intermediate_size=4000, **free
    )
    hidden = kept_heads * width if not free else pick(1, heads * width)
    target = Target(hidden, kept_heads, pick(100, 3900))
    found = rounds(config, target, count)
    assert len(found) == count and found[-1] == target
    before = Target(heads * width, heads, 4000)
    for one in found:
        one.check(config)
        for name in ("hidden_size", "num_attention_heads", "intermediate_size"):
            assert getattr(target, name) <= getattr(one, name) <= getattr(before, name)
        assert one != before or count == 1
        before = one


def test_rounds_of_an_8b_and_too_many_of_them():
    config = types.SimpleNamespace(
        hidden_size=3584, num_attention_heads=28, num_key_value_heads=4, intermediate_size=18_944
    )
    first, last = rounds(config, Target(2560, 20, 9352), 2)
    assert first == Target(3072, 24, 14_152) and last == Target(2560, 20, 9352)
    with pytest.raises(ValueError, match="Pruning in 5 steps would remove nothing in step 1; take fewer steps"):
        rounds(config, Target(3584, 28, 18_940), 5)


def test_shapes_that_are_given_only_become_smaller():
    config = types.SimpleNamespace(hidden_size=64, num_attention_heads=8, num_key_value_heads=2, intermediate_size=96)
    one, other = Target(48, 6, 64), Target(32, 4, 40)
    assert checked(config, [one, other]) == [one, other]
    with pytest.raises(ValueError, match="step 2 has a larger hidden_size than the step before"):
        checked(config, [other, one])
    with pytest.raises(ValueError, match="would remove nothing in step 2"):
        checked(config, [other, other])
    with pytest.raises(ValueError, match="4 x 8 = 32"):
        checked(config, [Target(40, 4, 40), other])
