"""An exported folder is the trained model, in fp32 to the bit and in bf16 rounded once, and says what it is."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from train import model
from train.export import huggingface as export

TEXTS = [("en", "the boat sails to the harbour"), ("th", "เรือแล่นไปที่ท่าเรือ")]


@pytest.fixture
def trained(tiny_model, chatml_tokenizer, tmp_path) -> str:
    model.save(tiny_model(seed=1), chatml_tokenizer, str(tmp_path / "trained"), 128)
    return str(tmp_path / "trained")


@torch.no_grad()
def logits(folder: str, dtype=torch.float32):
    ids = torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(0))
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()(ids).logits


def test_fp32_has_the_same_bits_and_the_trained_context(trained, tmp_path):
    facts = export.export(trained, str(tmp_path / "out"), "fp32", TEXTS)
    assert torch.equal(logits(str(tmp_path / "out")), logits(trained))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["max_position_embeddings"] == facts["context"] == 128 and config["dtype"] == "float32"
    assert (facts["family"], facts["architecture"], facts["layers"]) == ("Qwen2", "Qwen2ForCausalLM", 2)
    assert facts["rounding"] == {} and facts["parameters"] == sum(p.numel() for p in model.load(trained).parameters())


def test_bf16_is_rounded_once_and_the_cost_is_measured(trained, tmp_path):
    facts = export.export(trained, str(tmp_path / "out"), "bf16", TEXTS)
    assert torch.equal(logits(str(tmp_path / "out"), torch.bfloat16), logits(trained, torch.bfloat16))
    assert not torch.equal(logits(str(tmp_path / "out")), logits(trained))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    sizes = [Path(folder, "model.safetensors").stat().st_size for folder in (tmp_path / "out", trained)]
    assert sizes[0] < 0.55 * sizes[1]
    assert facts["rounding"].keys() == {"en", "th"} and 0 < max(map(abs, facts["rounding"].values())) < 0.05


def test_a_llama_says_that_it_is_one(chatml_tokenizer, tmp_path):
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    chatml_tokenizer.save_pretrained(tmp_path / "llama")
    facts = export.export(str(tmp_path / "llama"), str(tmp_path / "out"), "fp32")
    assert (facts["family"], facts["architecture"]) == ("Llama", "LlamaForCausalLM") and facts["tied"] is False
    assert torch.equal(logits(str(tmp_path / "out")), logits(str(tmp_path / "llama")))


def test_what_is_not_the_model_is_not_exported(trained, tmp_path, monkeypatch):
    save = model.save

    def broken(net, *args):
        with torch.no_grad():
            net.model.norm.weight[0] += 1
        save(net, *args)
        with torch.no_grad():
            net.model.norm.weight[0] -= 1

    monkeypatch.setattr(model, "save", broken)
    with pytest.raises(AssertionError, match=r"model\.norm\.weight is not as in the model"):
        export.export(trained, str(tmp_path / "out"), "fp32")
    with pytest.raises(ValueError, match="dtype must be one of"):
        export.export(trained, str(tmp_path / "out"), "fp8")
