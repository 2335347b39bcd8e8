"""Models: Qwen2 built from a config, any that trains as itself loaded from and saved to Hugging Face folders at any URI.

The model class is `transformers`' own; only its attention function is ours (`train/kernels/attention.py`), and it is not written
into the config, so a saved folder opens with `AutoModelForCausalLM` alone.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.utils import logging as transformers_logging

from cluster import document_tokens, storage
from cluster.chatml import IM_END
from train.bases import rope, same_loss
from train.bases import rotation as rotations
from train.bases.rotation import Rotation
from train.bases.shape import first_line, weights_fault
from train.batches.decoder import CausalLM, Decoder, kv_heads
from train.distributed import data_parallel, vocabulary, weights
from train.kernels import attention

transformers_logging.disable_progress_bar()  # one line per file loaded or saved is noise in a job's log


def config_from(values: dict) -> Qwen2Config:
    """A Qwen2 config from its field names (`hidden_size`, `num_hidden_layers`, …) and `rope_theta`.

    Raises ValueError for a field that Qwen2 does not have, and for sizes that do not fit together.
    """
    known = {field.name for field in dataclasses.fields(Qwen2Config)}
    values = dict(values)
    rope_theta = values.pop("rope_theta", 1e6)
    if unknown := sorted(set(values) - known):
        raise ValueError(f"A Qwen2 model has no config field {', '.join(map(repr, unknown))}.")
    values.setdefault("rope_parameters", {"rope_type": "default", "rope_theta": float(rope_theta)})
    values.setdefault("num_key_value_heads", values.get("num_attention_heads", 32))
    values.setdefault("max_window_layers", values.get("num_hidden_layers", 32))
    config = Qwen2Config(**values)
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"hidden_size {config.hidden_size} is not a multiple of num_attention_heads {config.num_attention_heads}."
        )
    if config.num_attention_heads % kv_heads(config):
        raise ValueError(
            f"num_attention_heads {config.num_attention_heads} is not a multiple of "
            f"num_key_value_heads {config.num_key_value_heads}."
        )
    return config


def build(config: dict, seed: int = 0) -> CausalLM:
    """A fresh Qwen2 model in fp32 with our attention. The same config and seed give the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM._from_config(config_from(config), attn_implementation=attention.NAME)
    return _attached(model.float())


def load(folder: str, dtype: torch.dtype = torch.float32, rotation: Rotation | None = None) -> CausalLM:
    """The causal LM of a Hugging Face folder (any URI) or hub name, with our attention; safetensors only. `rotation` is put
    into its config first.

    Raises ValueError for a kind of model whose loss here would not be that of plain `transformers` (train/bases), and for
    weights that lack a tensor.
    """
    path = storage.localize(folder) if storage.exists(folder) else folder
    try:
        config = _config(path, rotation)
        same_loss.of_kind(config)
        loaded = AutoModelForCausalLM.from_pretrained(
            path,
            **({"config": config} if rotation else {}),
            dtype=dtype,
            attn_implementation=attention.NAME,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{folder}: {first_line(error)}") from error
    model, info = cast(tuple[nn.Module, dict], loaded)
    if fault := weights_fault(info["missing_keys"], info["unexpected_keys"], config.model_type):
        raise ValueError(f"{folder}: {fault}")
    return _attached(model)


def on_meta(folder: str, dtype: torch.dtype = torch.float32, rotation: Rotation | None = None) -> CausalLM:
    """The model of `load` without its weights, which the loop reads once it lies where it is trained: on rank 0, a tensor
    at a time, for all ranks (train/distributed/weights.py). Where the folder's tensors are not those of the model by name, so
    that `transformers` renames them, it is `load`."""
    path = storage.localize(folder) if storage.exists(folder) else folder
    try:
        config = _config(path, rotation)
        same_loss.of_kind(config)
        with weights.without_memory():
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention.NAME)
        if Path(path, "generation_config.json").exists():
            model.generation_config = GenerationConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{folder}: {first_line(error)}") from error
    made = _attached(model.eval())
    return made if weights.from_folder(made, path) else load(folder, dtype, rotation)


def _config(path: str, rotation: Rotation | None):
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if rotation:
        rotations.change(config, rotation)
    return config


def _attached(model: nn.Module) -> CausalLM:
    """A causal LM of `transformers` with what we put into it."""
    ours = cast(CausalLM, model)
    attention.attach(ours)
    vocabulary.attach(ours)
    return ours


def save(
    model: Decoder, tokenizer: PreTrainedTokenizerBase | None, folder: str, context: int, card: str | None = None
) -> None:
    """Write `model` as a Hugging Face folder with `context` (the trained length in tokens) in its config, unless the rotation of
    its positions is computed from that number (longrope, yarn, dynamic): then it stays, as the saved model must be this one.

    The tokenizer's ends of text and of a turn go into the generation config; `card` is the text of README.md.
    Call it on every rank: sharded weights are gathered one after another, and rank 0 keeps and writes them.
    """
    rank, weights = data_parallel.rank_world()[0], None
    if any(isinstance(p, DTensor) for p in model.parameters()):
        weights = {}
        for name, value in model.state_dict().items():
            whole = value.full_tensor() if isinstance(value, DTensor) else value
            if rank == 0:  # on the other ranks of a node they would be as many copies in its memory
                weights[name] = whole.cpu()
    if rank == 0:
        if rope.by_distance_alone(model.config):
            model.config.max_position_embeddings = context
        if model.can_generate():
            model.generation_config = _writable(model.generation_config)
        if tokenizer is not None and model.can_generate():
            stops = {document_tokens.end(tokenizer), tokenizer.eos_token_id, tokenizer.get_vocab().get(IM_END)}
            model.generation_config.update(
                eos_token_id=sorted(stops - {None}) or None, pad_token_id=tokenizer.pad_token_id
            )
            if (
                getattr(model.config, "eos_token_id", None) is None
            ):  # what servers read that do not know generation configs
                model.config.eos_token_id = document_tokens.end(tokenizer)
        with storage.atomic_folder(folder) as path:
            model.save_pretrained(path, state_dict=weights)
            if tokenizer is not None:
                reads, tokenizer.model_max_length = tokenizer.model_max_length, model.config.max_position_embeddings
                tokenizer.save_pretrained(path)
                tokenizer.model_max_length = reads
            if card is not None:
                Path(path, "README.md").write_text(card, encoding="utf-8")
    if dist.is_initialized():
        dist.barrier()


def _writable(config: GenerationConfig) -> GenerationConfig:
    """`config`, or its tokens alone where `transformers` reads it and refuses to write it: sampling numbers beside `do_sample:
    false`, as the first folders of Llama 2 and Vicuna have them, which no generation has ever used."""
    try:
        config.validate(strict=True)
    except ValueError:
        tokens = {key: value for key, value in config.to_diff_dict().items() if key.endswith("_token_id")}
        return GenerationConfig(**tokens)
    return config


def parameters(net: nn.Module) -> int:
    """The number of parameters of a model; shared ones count once."""
    return sum(p.numel() for p in net.parameters())
