"""Fixtures of the training tests: a byte-level ChatML tokenizer and tiny random Qwen2 models, made here in a moment."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from cluster.kernel_files import drop_stale

drop_stale()


def pytest_make_parametrize_id(val, argname):
    """Bytes name no test: those that gzip made hold the time, and two workers that collect other names stop the run."""
    return argname if isinstance(val, bytes) and not val.isascii() else None


def pytest_collection_modifyitems(items):
    """Files with the longest tests first: workers take whole files, and none shall wait at the end for one of these.

    A file whose tests may take longer than others is one of them, were it a single test."""
    weights, limits = Counter(), Counter()
    for item in items:
        weights[item.path] += 50 if item.get_closest_marker("slow") else 1
        limit = item.get_closest_marker("timeout")
        limits[item.path] = max(limits[item.path], limit.args[0] if limit else 0)
    items.sort(key=lambda item: -weights[item.path] - limits[item.path])


@pytest.fixture(scope="session")
def chatml_tokenizer():
    """300 tokens: the 256 bytes, ChatML's three control tokens, and merges learned from a few sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [
        "the boat sails to the harbour with rice and fish",
        "perahu itu berlayar ke pelabuhan membawa beras dan ikan",
        "เรือแล่นไปที่ท่าเรือพร้อมข้าวและปลา",
        "user assistant system user assistant system",
    ]
    tokenizer.train_from_iterator(texts * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
    )


@pytest.fixture(scope="session")
def chat_tokenizer(chatml_tokenizer):
    """`chatml_tokenizer` with the chat template that a run gives to its tokenizer."""
    from mixture.tokenizer.tokenizer import with_chat_template

    return with_chat_template(copy.deepcopy(chatml_tokenizer))


@pytest.fixture
def tiny_model() -> Callable:
    """`tiny_model(seed=0, **config)`: a random Qwen2 of 2 layers and 300 tokens, with biases that are not 0."""

    def build(seed: int = 0, **config):
        import torch

        torch.set_num_threads(1)  # matrices this small only make threads wait for one another
        from train import model

        sizes = {
            "vocab_size": 300,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "tie_word_embeddings": False,
        }
        net = model.build({**sizes, **config}, seed=seed)
        with torch.no_grad():  # as after training: norms are not 1, biases not 0, logits not flat
            torch.manual_seed(seed + 1)
            for name, p in net.named_parameters():
                if p.ndim < 2:
                    p.add_(0.2 * torch.randn_like(p))
                elif "embed" not in name:
                    p.mul_(3.0)
        return net

    return build


@pytest.fixture(autouse=True, scope="module")
def no_ray_is_left():
    """A Ray that one file's tests started would be the next file's, with the environment of its start."""
    yield
    if "ray" in sys.modules:
        from cluster.engines import embedded

        embedded.stop()


@pytest.fixture(scope="session")
def nllb(tmp_path_factory) -> str:
    """The folder of a tiny NLLB (`tests/tiny_nllb.py`)."""
    import tiny_nllb

    return tiny_nllb.build(tmp_path_factory.mktemp("nllb"))
