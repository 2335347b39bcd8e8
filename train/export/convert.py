"""Between training checkpoints and Hugging Face folders, both ways, and from one folder to another in a different dtype.

A checkpoint holds the weights in fp32 with Adam's moments, sharded as they were trained; its meta has the model's config. A
folder is what `transformers` opens: safetensors, a config with the trained context length, tokenizer, generation config and
a card. Models are those that the loop trains.
"""

from __future__ import annotations

import dataclasses

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from cluster import storage
from train import model
from train.batches.decoder import CausalLM
from train.checkpoint import checkpoint
from train.kernels import low_rank
from train.loop import Progress, named_tensors

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [pinisi]
---
# {name}

Converted by Pinisi from {source}.

| | |
|---|---|
| shape | {architecture}, {layers} layers, width {width}, {tied} |
| parameters | {parameters:,} |
| context | {context} tokens |
| vocabulary | {vocabulary:,} |
| dtype | {dtype} |
"""


def to_folder(
    source: str, folder: str, *, like: str | None = None, context: int | None = None, dtype: str = "fp32"
) -> str:
    """Write the model of `source` as a Hugging Face folder; returns what it was made from.

    `source` is a checkpoint (`step_*`), a folder with checkpoints (the newest complete one), or a Hugging Face folder.
    `like` is a Hugging Face folder with the tokenizer (left out: the source's own, if it is one); `context` the trained
    length in tokens (left out: as the config says). All are URIs.

    Raises ValueError when there is no complete checkpoint, or one that does not say its model's config.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}.")
    if storage.exists(storage.join(source, "config.json")):
        net, made_from, like = model.load(source), "the weights of a Hugging Face folder", like or source
    else:
        found = checkpoint.latest(source) or checkpoint.at(source)
        if found is None:
            raise ValueError(f"{source}: neither a Hugging Face folder nor a complete checkpoint.")
        net, made_from = _from_checkpoint(found), f"the training checkpoint of update {found.step}"
    net = net.to(DTYPES[dtype])
    context = context or net.config.max_position_embeddings
    model.save(net, _tokenizer(like), folder, context, _card(net, folder, made_from, context))
    return made_from


def to_checkpoint(folder: str, uri: str) -> None:
    """Write the model of a Hugging Face folder as the checkpoint of update 0 below `uri`, which the loop continues from."""
    net = model.load(folder)
    named, _ = named_tensors(net, [])
    state = {name: tensor.detach() for name, tensor in named.items()}
    for name in (name for name in named if name.startswith("model/")):
        state |= {f"{moment}/{name}": torch.zeros_like(named[name]) for moment in ("exp_avg", "exp_avg_sq")}
    meta = dataclasses.asdict(Progress()) | {
        "window": {},
        "guard": [],
        "validation": None,
        "config": net.config.to_dict(),
    }
    checkpoint.save(uri, 0, state, meta)


def _from_checkpoint(found: checkpoint.Checkpoint) -> CausalLM:
    if not found.meta.get("config"):
        raise ValueError(f"{found.uri} does not say the config of its model.")
    values = dict(found.meta["config"])
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if net.state_dict().keys() == dict(net.named_parameters(remove_duplicate=False)).keys():
        net.to_empty(device="cpu")
    else:  # constants of the model that its folder has (Apertus), and a checkpoint has not
        net = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    net.tie_weights()
    rank = low_rank.rank_of(checkpoint.shapes(found))
    if rank:
        low_rank.attach(net, rank)
    named, _ = named_tensors(net, [])
    checkpoint.load(found, {name: tensor.detach() for name, tensor in named.items()})
    low_rank.merge(net)
    return net


def _tokenizer(folder: str | None) -> PreTrainedTokenizerBase | None:
    if folder is None or not storage.exists(storage.join(folder, "tokenizer_config.json")):
        return None
    return AutoTokenizer.from_pretrained(storage.localize(folder))


def _card(net: CausalLM, folder: str, source: str, context: int) -> str:
    config = net.config
    return CARD.format(
        name=folder.rstrip("/").rsplit("/", 1)[-1],
        source=source,
        architecture=type(net).__name__,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        tied="tied embeddings" if config.tie_word_embeddings else "untied embeddings",
        parameters=sum(p.numel() for p in net.parameters()),
        context=context,
        vocabulary=config.vocab_size,
        dtype=str(net.dtype).removeprefix("torch."),
    )
