"""An expanded model computes the logits of its base bit for bit, here and in transformers without our code."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from train import model
from train.methods import expand

torch.set_num_threads(1)  # tiny tensors: a second thread only waits


def build(layers: int, tied: bool = False, kv_heads: int = 2):
    shape = {
        "vocab_size": 157,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 64,
        "tie_word_embeddings": tied,
        "initializer_range": 0.1,
    }
    net = model.build(shape, seed=layers).eval()
    with torch.no_grad():  # as after training: norms and biases are not at their initial values
        for name, p in net.named_parameters():
            if p.ndim == 1:
                p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))
    return net


@torch.no_grad()
def logits(net):
    ids = torch.randint(0, 157, (2, 40), generator=torch.Generator().manual_seed(0))
    return net(ids, use_cache=False).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("layers", "new"), [(6, 2), (4, 2), (24, 24), (28, 4), (48, 16)]
)  # the last three: the paper's
def test_logits_are_the_same_bits(layers, new, dtype):
    base = build(layers).to(dtype)
    bigger = expand.expand(copy.deepcopy(base), new)
    assert len(bigger.model.layers) == layers + new
    assert torch.equal(logits(bigger), logits(base))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("untie", [True, False])
def test_qwens_padded_vocabulary_is_cut_to_the_same_bits(dtype, untie):
    shape = {
        "vocab_size": 152_064,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "tie_word_embeddings": untie,
    }
    base = model.build(shape, seed=1).to(dtype).eval()
    bigger = expand.expand(copy.deepcopy(base), 2, untie=untie, vocab_size=151_936)
    assert bigger.config.vocab_size == 151_936 == len(bigger.lm_head.weight) == len(bigger.model.embed_tokens.weight)
    assert torch.equal(logits(bigger), logits(base)[..., :151_936])


def test_a_llama_is_expanded_to_the_same_bits():
    config = LlamaConfig(
        vocab_size=157, hidden_size=48, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    base = LlamaForCausalLM(config).eval()
    bigger = expand.expand(copy.deepcopy(base), 2)
    assert bigger.config.num_hidden_layers == len(bigger.model.layers) == 6 and base.config.num_hidden_layers == 4
    assert torch.equal(logits(bigger), logits(base))


def test_greedy_text_is_the_same():
    base = build(4)
    bigger = expand.expand(copy.deepcopy(base), 2)
    prompt = torch.arange(10)[None]
    ours, theirs = (m.generate(prompt, max_new_tokens=12, do_sample=False, pad_token_id=0) for m in (bigger, base))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_untying_keeps_the_bits(dtype):
    base = build(4, tied=True).to(dtype)
    bigger = expand.expand(copy.deepcopy(base), 2, untie=True)
    assert bigger.lm_head.weight is not bigger.model.embed_tokens.weight
    assert torch.equal(logits(bigger), logits(base))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("untie", [True, False])
def test_transformers_alone_loads_it_with_the_same_bits(tmp_path, tied, untie):
    base = build(4, tied=tied, kv_heads=4)
    bigger = expand.expand(copy.deepcopy(base), 2, untie=untie)
    with torch.no_grad():  # a changed head must be the one that is read back
        bigger.lm_head.weight += 0.01
    model.save(bigger, None, str(tmp_path / "hf"), context=64)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    assert plain.config._attn_implementation == "sdpa" and plain.config.tie_word_embeddings == (tied and not untie)
    assert len(plain.model.layers) == len(plain.config.layer_types) == 6
    assert torch.equal(logits(plain), logits(bigger))
    assert torch.equal(logits(model.load(str(tmp_path / "hf")).eval()), logits(bigger))
