"""Each family against plain transformers, unpacked: loss and gradients of a packed row, saving, expansion; what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from shapes import SMALL
from transformers import AutoConfig, AutoModelForCausalLM

from train import model
from train.batches import examples
from train.export import convert
from train.generation.generate import Sampling, sample_batch
from train.loop import LoopConfig, fit
from train.methods import expand, pretrain

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

SHAPE = SMALL
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
    "original_max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 64}
WINDOWS = {"sliding_window": 8}
GRANITE = {
    "logits_scaling": 8.0,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.0625,
}
FAMILIES = {
    "qwen2": ("qwen2", {}),
    "qwen2, windows": ("qwen2", {"use_sliding_window": True, "max_window_layers": 2, **WINDOWS}),
    "qwen2, yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "llama": ("llama", {}),
    "llama, llama3 rope": ("llama", {"rope_parameters": LLAMA3}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral, windows": ("mistral", WINDOWS),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma2": ("gemma2", {"head_dim": 16, **WINDOWS}),
    "gemma3": ("gemma3_text", {"head_dim": 16, **WINDOWS}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", WINDOWS),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 2}),
    "phi3": ("phi3", {"sliding_window": None}),
    "phi3, longrope, windows": (
        "phi3",
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64, **WINDOWS},
    ),
    "granite": ("granite", GRANITE),
    "cohere": ("cohere", {"logit_scale": 0.25}),
    "cohere2": ("cohere2", {"head_dim": 16, "logit_scale": 0.25, **WINDOWS}),
    "apertus": ("apertus", {}),
}
REFUSED = {
    "mixtral": "a mixture of experts is not supported",
    "qwen3_moe": "a mixture of experts is not supported",
    "gpt2": "it has no model.embed_tokens",
    "phi": "it has no model.norm",
    "lfm2": "it has no model.norm",
    "bamba": "it has no model.norm|have no attention",
}


def folder(path, kind, more, std=0.2):
    """A folder with a random model of `kind`, and the model in plain transformers."""
    torch.manual_seed(0)
    net = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SHAPE, **more})).float()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=std) if p.ndim > 1 else p.data.add_(torch.randn_like(p) * 0.05)
    net.save_pretrained(path)
    return str(path), AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def documents():
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(3, 160, (n,), generator=generator) for n in (31, 18)]


def packed():
    row = [examples.Example(str(i), "en", ids.numpy(), np.ones(len(ids), bool)) for i, ids in enumerate(documents())]
    return examples.collate([row])


def plain_loss(net):
    return sum(
        torch.nn.functional.cross_entropy(net(ids[None, :-1]).logits[0], ids[1:], reduction="sum")
        for ids in documents()
    )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradients_of_a_packed_row_are_those_of_plain_transformers(tmp_path, name, tied):
    kind, more = FAMILIES[name]
    where, plain = folder(tmp_path / "m", kind, {**more, "tie_word_embeddings": tied})
    net = model.load(where).eval()
    got, want = pretrain.loss(net, packed()).loss_sum, plain_loss(plain)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=0)
    got.backward()
    want.backward()
    wanted = dict(plain.named_parameters())
    for parameter, p in net.named_parameters():
        assert (p.grad - wanted[parameter].grad).norm() <= 1e-4 * wanted[parameter].grad.norm() + 1e-6, parameter


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_and_an_expanded_model_are_the_same_function(tmp_path, name):
    kind, more = FAMILIES[name]
    where, plain = folder(tmp_path / "m", kind, more)
    ids = torch.cat(documents())[None]
    with torch.no_grad():
        want = plain(ids).logits
        net = model.load(where).eval()
        model.save(net, None, str(tmp_path / "saved"), context=48)
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", attn_implementation="eager").eval()
        assert torch.equal(again(ids).logits, want)
        before = net(ids).logits
        grown = expand.expand(net, 2, untie=True)
        assert torch.equal(grown(ids).logits, before)
        model.save(grown, None, str(tmp_path / "grown"), context=48)
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "grown", attn_implementation="eager").eval()
        assert plain.config.num_hidden_layers == 6
        torch.testing.assert_close(plain(ids).logits, want, rtol=0, atol=1e-6 * float(want.abs().max()))
    grown.train()
    pretrain.loss(grown, packed()).loss_sum.backward()
    learning = [p for index in (2, 5) for p in grown.model.layers[index].parameters() if p.grad is not None]
    assert any(p.grad.abs().max() > 0 for p in learning)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_trained_is_refused_with_its_kind_and_a_reason(tmp_path, kind):
    config = AutoConfig.for_model(kind).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": kind}, default=str))
    with pytest.raises(ValueError, match=f"model kind {kind}: ({REFUSED[kind]})"):
        model.load(str(tmp_path))


def test_a_kind_that_would_be_another_function_is_refused(tmp_path, monkeypatch):
    where, _ = folder(tmp_path / "m", "granite", GRANITE | {"attention_multiplier": 0.125})  # a config of its own
    monkeypatch.setattr("train.kernels.head.scale", lambda net: 1.0)
    with pytest.raises(ValueError, match="model kind granite: on two packed documents its loss here is off"):
        model.load(where)


def test_missing_tensors_are_named(tmp_path):
    where, _ = folder(tmp_path / "m", "qwen2", {})
    weights = load_file(f"{where}/model.safetensors")
    lacking = {name: w for name, w in weights.items() if "layers.1.mlp" not in name}
    save_file(lacking, f"{where}/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack model\.layers\.1\.mlp\.down_proj\.weight and 2 more"):
        model.load(where)


def test_weights_of_another_kind_are_named(tmp_path):
    where, _ = folder(tmp_path / "m", "qwen2", {})  # has biases that a Llama has not
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "llama"}))
    with pytest.raises(
        ValueError, match=r"have model\.layers\.0\.self_attn\.k_proj\.bias and 11 more, for which kind llama"
    ):
        model.load(where)


@pytest.mark.parametrize("name", ["gemma3", "gemma2", "mistral, windows", "granite", "smollm3"])
def test_answers_are_those_of_plain_transformers(tmp_path, name):
    kind, more = FAMILIES[name]
    where, plain = folder(tmp_path / "m", kind, more)
    prompts = [ids.tolist() for ids in documents()]
    sampling = Sampling(n=1, temperature=0, max_new_tokens=12)
    for prompt, (drawn,) in zip(
        prompts, sample_batch(model.load(where), prompts, ["a", "b"], [2], sampling), strict=True
    ):
        ids = torch.tensor([prompt])
        for token, logprob in zip(drawn.ids, drawn.logprobs, strict=True):
            with torch.no_grad():
                logits = plain(ids, use_cache=False).logits[0, -1]
            assert token == int(logits.argmax())
            assert logprob == pytest.approx(float(logits.log_softmax(-1)[token]), abs=1e-4)
            ids = torch.cat([ids, torch.tensor([[token]])], 1)


@pytest.mark.parametrize("name", ["gemma3", "apertus", "phi3, longrope, windows", "cohere2", "smollm3"])
def test_what_the_loop_trains_is_what_is_saved_and_converted(tmp_path, name):
    kind, more = FAMILIES[name]
    where, _ = folder(tmp_path / "m", kind, more)
    net = model.load(where)
    config = LoopConfig(
        steps=3,
        rows_per_step=1,
        micro_rows=1,
        lr=1e-2,
        log_every=1,
        checkpoint_every=3,
        activation_checkpointing="full",
    )
    losses = []
    fit(
        net,
        lambda rows: packed(),
        pretrain.loss,
        config,
        str(tmp_path / "run"),
        on_log=lambda r: losses.append(r["loss"]),
    )
    assert losses[-1] < losses[0]
    model.save(net, None, str(tmp_path / "saved"), context=48)
    convert.to_folder(str(tmp_path / "run" / "checkpoints"), str(tmp_path / "converted"), context=48)
    ids = torch.cat(documents())[None]
    with torch.no_grad():
        want = net.eval()(ids).logits
        for made in ("saved", "converted"):
            plain = AutoModelForCausalLM.from_pretrained(tmp_path / made, attn_implementation="eager").eval()
            torch.testing.assert_close(plain(ids).logits, want, rtol=0, atol=2e-6 * float(want.abs().max()))


def test_a_generation_config_that_transformers_would_not_write_stops_no_save(tmp_path):
    where, _ = folder(tmp_path / "m", "llama", {})
    numbers = {"do_sample": False, "temperature": 0.9, "top_p": 0.6, "eos_token_id": 2}
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps(numbers))
    model.save(model.load(where), None, str(tmp_path / "saved"), context=64)
    found = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert found["eos_token_id"] == 2 and "temperature" not in found
    shutil.rmtree(tmp_path / "saved")
