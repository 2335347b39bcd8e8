"""What a base cannot give is one sentence that names the key, before the first stage and in the dry run."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from cluster import storage
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.config import reader as recipes
from ray_jobs.plan import dry_run
from ray_jobs.plan import training as plan_training
from ray_jobs.run import bases
from ray_jobs.stages import base as stage

SHAPE = {
    "vocab_size": 310,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
EXPAND = "train.expand={new_layers: 2, untie_embeddings: true, vocab_size: 310, trainable: all}"


@pytest.fixture
def base(tmp_path, chatml_tokenizer):
    """A function that makes a folder with a random model of a kind, and the tokenizer of the tests."""

    def make(kind="qwen2", **more):
        folder = tmp_path / kind
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SHAPE, **more)).save_pretrained(folder)
        chatml_tokenizer.save_pretrained(folder)
        return str(folder)

    return make


def said(folder, *overrides, recipe="align", **more):
    own = [f"train.base.model={folder}", f"tokenize.tokenizer={folder}", "train.base.shape=null", *overrides]
    return list(bases.faults(recipes.load(recipe, own), **more))


def test_a_base_that_can_do_all(base):
    assert said(base()) == []
    assert said(base(), EXPAND, recipe="sailor2-1b") == []


@pytest.mark.parametrize(
    ("kind", "overrides", "sentence"),
    [
        ("mixtral", [], "train.base.model: model kind mixtral: a mixture of experts is not supported"),
        ("granite", [], "train.reward: transformers has no reward head for models of kind granite"),
        ("qwen2", [EXPAND.replace("310", "290")], "train.expand.vocab_size: 290 rows are fewer than the 300 tokens"),
        ("qwen2", [EXPAND.replace("2,", "3,")], "train.expand: 3 new layers cannot be spread evenly over 4 layers"),
        ("starcoder2", [EXPAND], "train.expand: Starcoder2DecoderLayer has no mlp.down_proj"),
    ],
)
def test_what_it_cannot_give_is_said(base, kind, overrides, sentence):
    found = said(base(kind), *overrides, recipe="sailor2-1b" if overrides else "align")
    assert len(found) == 1 and found[0].startswith(sentence), found


def test_a_folder_may_lie_elsewhere(base, tmp_path):
    missing = str(tmp_path / "not-there")
    own = f"tokenize.tokenizer={base()}"
    assert said(missing, own) == [f"train.base.model: {missing} is no folder here; correct the path"]
    assert said(missing, own, elsewhere=True) == []
    storage.write_text("memory://bases/mixtral/config.json", json.dumps({"model_type": "mixtral", **SHAPE}))
    (found,) = said("memory://bases/mixtral", own)
    assert found.startswith("train.base.model: model kind mixtral: a mixture of experts")


def test_pruning_longrope_and_weights(base):
    prune = (
        "train.prune={hidden_size: 32, num_attention_heads: 2, intermediate_size: 48, mask_steps: 1, warmup_steps: 1, "
    )
    prune += "heal_tokens: auto, optimiser: {rows_per_step: 1, micro_rows: 1, lr: 1e-4}}"
    (found,) = said(base("gemma2"), prune, EXPAND, recipe="sailor2-1b")
    assert found.startswith("train.prune: a model of kind gemma2 cannot be pruned")
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    parameters = {"rope_type": "longrope", "rope_theta": 1e4, **factors}
    (found,) = said(base("phi3", rope_parameters=parameters, original_max_position_embeddings=64), "train.context=128")
    assert found.startswith("train.context: 128 is more than 64")
    folder = base()
    weights = load_file(f"{folder}/model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})
    (found,) = said(folder)
    assert "the weights lack model.layers.1.mlp.up_proj.weight;" in found
    assert said(folder, weights=False) == []  # a dry run has no need of them


def test_a_longer_context_that_a_base_cannot_have(base):
    long = "train.long_context={context: 8192, tokens: 9999, optimiser: {rows_per_step: 16, lr: 1e-4}}"

    def of(folder, *more):
        return said(folder, EXPAND, long, *more, recipe="sailor2-1b", weights=False)

    assert of(base()) == []
    (found,) = of(base("llama", rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}))
    assert found.startswith("train.long_context.rope: only a plain rotation can be given another base")
    assert found.endswith("is linear; set it to null")
    narrow = base("gemma2", sliding_window=64)
    found = of(narrow)
    assert found[0].startswith("train.long_context.mask: layers of this base see 64 positions back")
    assert len(of(narrow, "train.long_context.mask=intra_document")) == len(found) - 1
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    longrope = {"rope_type": "longrope", "rope_theta": 1e4, **factors}
    folder = base("phi3", rope_parameters=longrope, original_max_position_embeddings=4096)
    (found,) = (one for one in of(folder, "train.long_context.rope=null") if "long_context" in one)
    assert found.startswith("train.long_context.context: 8192 is more than 4096")


def test_chat_tokens_are_added_where_the_recipe_says_so(base):
    folder = base()
    backend = Tokenizer(models.WordLevel({"a": 0, "<|endoftext|>": 1}, "a"))
    backend.add_special_tokens(["<|endoftext|>"])
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(folder)
    made = f"{folder}-tokenizer"
    tokenizers.with_chat_tokens(tokenizers.load(folder)).save_pretrained(made)
    (found,) = said(folder)
    assert "has no token <|im_start|> and no <|im_end|>" in found and "set tokenize.add_chat_tokens: true" in found
    assert said(folder, "tokenize.add_chat_tokens=true") == []
    own = [f"train.base.model={folder}", f"tokenize.tokenizer={folder}", "tokenize.add_chat_tokens=true"]
    assert bases.added_tokens(recipes.load("align", own)) == ["<|im_start|>", "<|im_end|>"]
    found = stage._copy({"tokenizer": made, "own_tokenizer": folder, "source": folder, "target": f"{folder}-out"})
    assert found["tokens_added"] == 2
    weights = [
        load_file(f"{where}/model.safetensors")["model.embed_tokens.weight"] for where in (folder, f"{folder}-out")
    ]
    torch.testing.assert_close(weights[1][2], weights[0][:2].mean(0))
    assert torch.equal(weights[1][3], weights[1][2]) and torch.equal(weights[1][4:], weights[0][4:])


def test_the_dry_run_has_the_shape_of_the_config(tmp_path):
    shape = {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8}
    more = {"head_dim": 128, "intermediate_size": 3072, "vocab_size": 151_936, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3", **shape, **more}))
    recipe = recipes.load("align", [f"train.base.model={tmp_path}"])
    found = dry_run.describe(recipe)["models"]["model"]
    assert found["parameters"] == 596_049_920 == plan_training.model(recipe)[1].parameters
    assert found["tensors"]["model.layers.*.self_attn.q_proj.weight"] == [2048, 1024]
    assert not [name for name in found["tensors"] if name.endswith("bias")]
