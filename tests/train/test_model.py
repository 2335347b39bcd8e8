import json

import pytest
import torch
from shapes import TINY
from transformers import AutoModelForCausalLM

from mixture.tokenizer import tokenizer as tokenizers
from train import model

SHAPE = TINY | {"tie_word_embeddings": True}


def test_the_seed_alone_decides_the_weights():
    torch.manual_seed(5)
    one = model.build(SHAPE, seed=3)
    state = torch.get_rng_state()
    two = model.build(SHAPE, seed=3)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's generator is untouched
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.lm_head.weight, model.build(SHAPE, seed=4).lm_head.weight)
    assert one.lm_head.weight is one.model.embed_tokens.weight


@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_saved_model_opens_with_and_without_our_code(tmp_path, place):
    folder = str(tmp_path / "hf") if place == "local" else f"memory://{tmp_path.name}/hf"
    net = model.build(SHAPE, seed=1).eval()
    model.save(net, None, folder, context=48)
    again = model.load(folder).eval()
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        assert torch.equal(again(ids).logits, net(ids).logits)
    assert again.config._attn_implementation == "pinisi" and again.config.max_position_embeddings == 48
    if place == "local":
        config = json.loads((tmp_path / "hf" / "config.json").read_text())
        assert config["max_position_embeddings"] == 48 and "pinisi" not in json.dumps(config)
        assert {f.suffix for f in (tmp_path / "hf").iterdir()} == {".json", ".safetensors"}
        plain = AutoModelForCausalLM.from_pretrained(folder).eval()
        with torch.no_grad():
            torch.testing.assert_close(plain(ids).logits, net(ids).logits, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hiden_size": 3}, "hiden_size"),
        ({"hidden_size": 34}, "not a multiple of num_attention_heads"),
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads"),
    ],
)
def test_a_wrong_shape_is_one_clear_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        model.build(SHAPE | change)


def test_rope_theta_reaches_the_model():
    slow, fast = model.build(SHAPE, seed=1), model.build(SHAPE | {"rope_theta": 100.0}, seed=1)
    assert slow.config.rope_parameters["rope_theta"] == 1e6
    assert not torch.equal(slow.model.rotary_emb.inv_freq, fast.model.rotary_emb.inv_freq)


def test_a_saved_tokenizer_says_what_the_model_reads_and_the_config_how_texts_end(tmp_path):
    tokenizer = tokenizers.train_bpe(["some text " * 40], 300, str(tmp_path / "tokenizer"))
    length = tokenizer.model_max_length
    model.save(model.build(SHAPE | {"vocab_size": 300}, seed=1), tokenizer, str(tmp_path / "hf"), context=48)
    written = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (written["model_max_length"], config["eos_token_id"]) == (48, tokenizer.eos_token_id)
    assert tokenizer.model_max_length == length  # the caller's is untouched
