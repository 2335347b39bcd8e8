import pytest
import torch
from shapes import TINY
from transformers import AutoModelForCausalLM, Qwen2Config

from train import model
from train.methods import expand

torch.set_num_threads(1)  # tiny tensors: a second thread only waits


def build(layers: int, **more):
    return model.build(TINY | {"num_hidden_layers": layers} | more, seed=layers)


def test_a_clone_with_zero_outputs_follows_the_last_layer_of_each_group():
    net = build(6)
    old = list(net.model.layers)
    assert expand.expand(net, 2) is net
    layers = list(net.model.layers)
    new = expand.inserted(len(layers), 2)
    assert new == [3, 7] and [layers[i] for i in (0, 1, 2, 4, 5, 6)] == old
    for index in new:
        source, clone = dict(layers[index - 1].named_parameters()), dict(layers[index].named_parameters())
        for name, weight in clone.items():
            if name in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
                assert (weight == 0).all()
            else:
                assert torch.equal(weight, source[name]) and weight is not source[name]
    assert [layer.self_attn.layer_idx for layer in layers] == list(range(8))
    assert all(layer.self_attn.config is net.config for layer in layers)
    assert net.config.num_hidden_layers == len(net.config.layer_types) == net.config.max_window_layers == 8


@pytest.mark.parametrize(("layers", "new"), [(6, 4), (6, 12), (4, 3), (6, -2)])
def test_uneven_groups_are_refused(layers, new):
    with pytest.raises(ValueError, match="cannot be spread evenly"):
        expand.expand(build(layers), new)


def test_sliding_windows_stay_with_their_layers():
    net = build(4, use_sliding_window=True, sliding_window=8, max_window_layers=2)
    assert net.config.layer_types == ["full_attention"] * 2 + ["sliding_attention"] * 2
    expand.expand(net, 2)
    assert net.config.layer_types == ["full_attention"] * 3 + ["sliding_attention"] * 3
    assert net.config.max_window_layers == 3


def gradients(net):
    net.zero_grad()
    net(torch.arange(20)[None], labels=torch.arange(20)[None]).loss.backward()
    return {name: p.grad for name, p in net.model.layers[1].named_parameters()}


def test_only_the_zero_matrices_have_a_gradient_at_first_then_all_do():
    net = expand.expand(build(2), 2)
    first = gradients(net)
    for name, gradient in first.items():
        assert bool(gradient.any()) == (name in ("self_attn.o_proj.weight", "mlp.down_proj.weight")), name
    with torch.no_grad():
        for p in net.parameters():
            p -= 0.1 * p.grad
    assert all(gradient.any() for gradient in gradients(net).values())


def test_trainable_chooses_who_learns():
    net = expand.expand(build(4), 2, "new_blocks")
    learning = {name.split(".")[2] for name, p in net.named_parameters() if p.requires_grad}
    assert learning == {"2", "5"} and not net.model.embed_tokens.weight.requires_grad
    expand.set_trainable(net, 2, "all")
    assert all(p.requires_grad for p in net.parameters())
    with pytest.raises(ValueError, match="trainable must be one of"):
        expand.set_trainable(net, 2, "some")
    with pytest.raises(ValueError, match="needs new layers"):
        expand.expand(build(4), 0, "new_blocks")


@pytest.mark.parametrize("tied", [True, False])
def test_the_vocabulary_is_cut_and_never_grown(tied):
    net = build(2, tie_word_embeddings=tied)
    before = net(torch.arange(9)[None]).logits
    expand.expand(net, 0, vocab_size=48)
    assert net.config.vocab_size == 48 and net.lm_head.weight.shape == net.model.embed_tokens.weight.shape == (48, 32)
    assert (net.lm_head.weight is net.model.embed_tokens.weight) == tied
    torch.testing.assert_close(net(torch.arange(9)[None]).logits, before[..., :48], rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="cut, not grown"):
        expand.expand(net, 0, vocab_size=49)


QWEN = {
    # name: (hidden, ffn, heads, kv heads, layers, tied, vocabulary), new layers, billions of parameters (Sailor2 §4.1)
    "1b": ((896, 4864, 14, 2, 24, True, 151936), 24, 0.988),
    "8b": ((3584, 18944, 28, 4, 28, False, 152064), 4, 8.547),
    "20b": ((5120, 13824, 40, 8, 48, False, 152064), 16, 19.173),
}


@pytest.mark.parametrize("name", QWEN)
def test_the_papers_models_have_the_papers_sizes(name):
    (hidden, ffn, heads, kv, layers, tied, vocabulary), new, billions = QWEN[name]
    config = Qwen2Config(
        hidden_size=hidden, intermediate_size=ffn, num_attention_heads=heads, num_key_value_heads=kv,
        num_hidden_layers=layers, tie_word_embeddings=tied, vocab_size=vocabulary, max_window_layers=layers,
    )  # fmt: skip
    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(config)
    net.tie_weights()
    expand.expand(net, new, untie=True, vocab_size=151936)
    assert sum(p.numel() for p in net.parameters()) / 1e9 == pytest.approx(billions, abs=0.0006)
    assert net.config.num_hidden_layers == len(net.config.layer_types) == net.config.max_window_layers == layers + new
    assert net.config.vocab_size == 151936 and not net.config.tie_word_embeddings
