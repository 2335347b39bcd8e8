import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from train import model
from train.checkpoint import checkpoint
from train.export import convert
from train.loop import LoopConfig, fit
from train.methods import pretrain

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
KINDS = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}


@pytest.fixture(params=[(kind, tied) for kind in KINDS for tied in (False, True)], ids=lambda p: f"{p[0]}-{p[1]}")
def folder(request, tmp_path, chatml_tokenizer):
    """A Hugging Face folder that is not ours: written by transformers from its own model."""
    kind, tied = request.param
    config_class, model_class = KINDS[kind]
    torch.manual_seed(1)
    net = model_class(config_class(**SIZES, tie_word_embeddings=tied))
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim == 1:  # as after training: norms are not 1, biases not 0
                p.add_(0.3 * torch.randn_like(p))
    net.save_pretrained(tmp_path / "hf")
    chatml_tokenizer.save_pretrained(tmp_path / "hf")
    return str(tmp_path / "hf")


@torch.no_grad()
def logits(folder, dtype=torch.float32):
    """By plain transformers."""
    ids = torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(0))
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()(ids).logits


def batch_fn(rows):
    ids = torch.stack([torch.randint(0, 300, (33,), generator=torch.Generator().manual_seed(row)) for row in rows])
    places = torch.arange(32).expand(len(rows), -1)
    batch = {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "doc_ids": places // 20, "position_ids": places}
    return batch | {"count": torch.tensor(ids[:, 1:].numel())}


def train(net, uri, steps, **more):
    config = LoopConfig(steps=steps, rows_per_step=4, micro_rows=4, lr=1e-3, eps=1e-5, checkpoint_every=2, **more)
    return fit(net, batch_fn, pretrain.loss, config, uri)


@pytest.mark.parametrize("states", ["fp32", "8bit"])
def test_a_folder_goes_through_import_training_and_export(folder, tmp_path, states):
    net = model.load(folder)
    train(net, str(tmp_path / "run"), 2, optimiser_states=states)
    trained = str(tmp_path / "trained")
    source = str(tmp_path / "run" / "checkpoints")
    assert convert.to_folder(source, trained, like=folder, context=128) == "the training checkpoint of update 2"
    model.save(net, None, str(tmp_path / "direct"), 128)
    assert torch.equal(logits(trained), logits(str(tmp_path / "direct")))
    assert not torch.equal(logits(trained), logits(folder))

    files = {path.name for path in (tmp_path / "trained").iterdir()}
    assert files >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"}
    config = json.loads((tmp_path / "trained" / "config.json").read_text())
    assert config["max_position_embeddings"] == 128 and "pinisi" not in json.dumps(config)
    tokenizer = AutoTokenizer.from_pretrained(trained)
    generation = json.loads((tmp_path / "trained" / "generation_config.json").read_text())
    assert set(generation["eos_token_id"]) == set(tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]))
    card = (tmp_path / "trained" / "README.md").read_text()
    assert "the training checkpoint of update 2" in card and "| context | 128 tokens |" in card

    one_step = f"{source}/step_00000002"
    convert.to_folder(one_step, str(tmp_path / "again"), like=folder, context=128)
    assert torch.equal(logits(str(tmp_path / "again")), logits(trained))


def test_a_checkpoint_made_of_a_folder_trains_as_the_folder_does(folder, tmp_path):
    convert.to_checkpoint(folder, str(tmp_path / "run" / "checkpoints"))
    there_and_back = str(tmp_path / "back")
    convert.to_folder(str(tmp_path / "run" / "checkpoints"), there_and_back)
    assert torch.equal(logits(there_and_back), logits(folder))

    plain = model.load(folder)
    want = train(plain, str(tmp_path / "plain"), 3)
    net = model.load(folder)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()  # all must come from the checkpoint
    got = train(net, str(tmp_path / "run"), 3)
    assert got["loss"] == want["loss"] and got["resumed_from"] == 0
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), plain.parameters(), strict=True))


def test_bf16_halves_the_file_and_gives_the_logits_of_rounded_weights(folder, tmp_path):
    convert.to_folder(folder, str(tmp_path / "half"), dtype="bf16")
    assert torch.equal(logits(str(tmp_path / "half"), torch.bfloat16), logits(folder, torch.bfloat16))
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    size = (tmp_path / "half" / "model.safetensors").stat().st_size
    assert size < 0.55 * (tmp_path / "hf" / "model.safetensors").stat().st_size
    assert (tmp_path / "half" / "tokenizer.json").exists()  # the source's own


def test_what_cannot_be_converted_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="neither a Hugging Face folder nor a complete checkpoint"):
        convert.to_folder(str(tmp_path), str(tmp_path / "out"))
    with pytest.raises(ValueError, match="dtype must be one of fp32, bf16"):
        convert.to_folder(str(tmp_path), str(tmp_path / "out"), dtype="fp8")
    checkpoint.save(str(tmp_path / "c"), 1, {"model/w": torch.ones(1)})
    with pytest.raises(ValueError, match="does not say the config of its model"):
        convert.to_folder(str(tmp_path / "c"), str(tmp_path / "out"))
