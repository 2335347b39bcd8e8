"""What a recipe asks of its base that this cannot give, said before the first stage: kind, weights, tokenizer, shape, functions.

The model is made on torch's meta device, and of the weights the names are read. A name on the hub that cannot be read here and
now is left to the stage `base`.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from functools import cache

from safetensors import safe_open
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from cluster import storage, user_code
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.config.given import given
from ray_jobs.config.reader import lookup
from ray_jobs.config.recipe import Recipe
from ray_jobs.config.training import Train
from ray_jobs.run import graph, hub
from train import model
from train.bases import rope, rotation, same_loss, shape
from train.batches.decoder import CausalLM
from train.drafts import glide
from train.kernels import attention
from train.methods import expand, prune

QWEN = {
    "Qwen/Qwen2.5-0.5B": (896, 24, 14, 2, 4864, True, 151_936),
    "Qwen/Qwen2.5-1.5B": (1536, 28, 12, 2, 8960, True, 151_936),
    "Qwen/Qwen2.5-3B": (2048, 36, 16, 2, 11008, True, 151_936),
    "Qwen/Qwen2.5-7B": (3584, 28, 28, 4, 18944, False, 152_064),
    "Qwen/Qwen2.5-14B": (5120, 48, 40, 8, 13824, False, 152_064),
}
"""Shapes of models that a recipe may name, so that a plan needs no network: width, layers, heads, KV heads, FFN, tied, vocabulary
(their config.json on the Hugging Face hub)."""
ANY_VOCABULARY = 512  # of a new model whose tokenizer cannot be read here: its other shapes are looked at
FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "tie_word_embeddings",
)


def config_of(name: str):
    """The config of a model, None where it cannot be read here and now. Raises ValueError for one that `transformers` does not
    know."""
    if name in QWEN and not storage.exists(name):
        *fields, vocabulary = QWEN[name]
        return model.config_from({**dict(zip(FIELDS, fields, strict=True)), "vocab_size": vocabulary})
    try:
        if not storage.is_local(name):  # a bucket: its weights stay there
            values = storage.read_json(storage.join(name, "config.json"))
            return CONFIG_MAPPING[values["model_type"]].from_dict(values)
        if storage.exists(name):
            return AutoConfig.from_pretrained(storage.local(name), trust_remote_code=False)
        return copy.deepcopy(_on_hub(name)) if hub.is_name(name) else None
    except OSError as error:
        if not storage.exists(name):
            return None
        raise ValueError(f"{name}: its config.json cannot be read ({shape.first_line(error)})") from error
    except (ValueError, KeyError) as error:
        raise ValueError(f"{name}: its config.json cannot be read ({shape.first_line(error)})") from error


@cache  # without a network it takes half a minute to say so
def _on_hub(name: str):
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except OSError:
        return None


def faults(recipe: Recipe, weights: bool = True, elsewhere: bool = False) -> Iterator[str]:
    """What is wrong, each as a sentence that begins with the key; with `weights` also what their files lack. `elsewhere`: the run
    is on other machines, whose folders may not be here."""
    yield from functions_faults(recipe)
    own, train = recipe.tokenize.tokenizer, recipe.train
    tokenizer = None
    try:
        tokenizer = _tokenizer(own, elsewhere)
    except ValueError as error:
        yield f"tokenize.tokenizer: {error}"
    if train is None:
        return
    name = train.base.model
    lacking = [] if tokenizer is None else tokenizers.chat_tokens_lacking(tokenizer)
    added = len(lacking) if recipe.tokenize.add_chat_tokens else 0
    if lacking and not added and (train.sft or train.reward):
        yield (
            f"tokenize.tokenizer: {own} has no token {' and no '.join(lacking)}, which chats are written with; set "
            "tokenize.add_chat_tokens: true"
        )
    tokens = (recipe.tokenize.vocab_size if own == "train" else None) if tokenizer is None else len(tokenizer)
    named = "tokenize.vocab_size: the trained tokenizer" if own == "train" else f"tokenize.tokenizer: {own}"
    if name is None:
        try:
            config = model.config_from({**given(train.base.shape).model_dump(), "vocab_size": tokens or ANY_VOCABULARY})
            yield from _shapes(train, shape.on_meta(config), tokens, added, named)
        except ValueError as error:
            yield f"train.base.shape: {error}"
        return
    try:
        config = config_of(name)
        if config is None:
            if weights and not elsewhere and storage.is_local(name) and not hub.is_name(name):
                yield f"train.base.model: {name} is no folder here; correct the path"
            return
        same_loss.of_kind(config)
        net = shape.on_meta(config)
    except ValueError as error:
        yield f"train.base.model: {error}"
        return
    if fault := weights_fault(name, net) if weights else "":
        yield f"train.base.model: {name}: {fault}"
    if train.attention == "varlen" and getattr(config, "attn_logit_softcapping", None):
        yield f"train.attention: varlen has no soft cap of scores, which {name} has; leave it at auto"
    yield from _too_long("train.context", train.context, config, name)
    if train.reward and config.model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        yield f"train.reward: transformers has no reward head for models of kind {config.model_type}; set it to null"
    yield from _shapes(train, net, tokens, added, named)


def functions_faults(recipe: Recipe) -> Iterator[str]:
    """Functions of the user that stages of this run call and that cannot be imported from here."""
    asked = {key for stage in graph.enabled(recipe) for key in stage.functions} - {
        "filter.signals"
    }  # read with its policy
    for key in sorted(asked):
        if function := lookup(recipe, key):
            try:
                user_code.function(function, os.getcwd(), key)
            except ValueError as error:
                yield str(error)


def _tokenizer(name: str, elsewhere: bool) -> PreTrainedTokenizerFast | None:
    """The tokenizer of a folder, None for one that is trained or cannot be read here and now. Raises ValueError for a folder
    that is not there or holds none."""
    if name == "train" or not storage.is_local(name):
        return None
    if not storage.exists(name):
        if not elsewhere and not hub.is_name(name):
            raise ValueError(f"{name} is no folder here; correct the path")
        return None
    try:
        return tokenizers.load(name)
    except Exception as error:  # of the library, which raises bare ones for a broken file
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise ValueError(f"{name}: its tokenizer cannot be read ({shape.first_line(cause)}); fetch it again") from error


def added_tokens(recipe: Recipe) -> list[str]:
    """The tokens that `tokenize.add_chat_tokens` adds, as far as the tokenizer can be read here."""
    found = _tokenizer(recipe.tokenize.tokenizer, elsewhere=True) if recipe.tokenize.add_chat_tokens else None
    return [] if found is None else tokenizers.chat_tokens_lacking(found)


def vocabulary(recipe: Recipe) -> int:
    """Tokens of the run's tokenizer as far as they are known here: of one that is trained those that it may have at most."""
    found = _tokenizer(recipe.tokenize.tokenizer, elsewhere=True)
    if found is None:
        return recipe.tokenize.vocab_size
    return len(found) + len(added_tokens(recipe))


def _shapes(train: Train, net: CausalLM, tokens: int | None, added: int, named: str) -> Iterator[str]:
    """`named`: the key of the tokenizer, and the tokenizer, which has `tokens`, and `added` more."""
    rows = net.config.vocab_size
    if tokens and tokens > rows:
        yield (
            f"{named} has {tokens:,} tokens, but train.base.model {train.base.model} embeddings for {rows:,}; name the "
            "model's own tokenizer"
        )
    yield from _longer(train, net.config)
    if train.draft and (fault := glide.fault(net.config, train.draft.method)):
        yield f"train.draft: {fault}"
    grown, pruned = train.expand, train.prune
    if pruned:
        try:
            pruned.targets(net.config)
            prune.check_layers(net)
        except ValueError as error:
            yield f"train.prune: {str(error).removeprefix('train.prune: ')}"
    if grown:
        if tokens and grown.vocab_size and grown.vocab_size < tokens + added:
            yield (
                f"train.expand.vocab_size: {grown.vocab_size:,} rows are fewer than the {tokens + added:,} tokens of "
                f"{named.partition(': ')[2]}; give at least as many"
            )
        try:
            expand.expand(
                net, grown.new_layers, grown.trainable, untie=grown.untie_embeddings, vocab_size=grown.vocab_size
            )
        except ValueError as error:
            yield f"train.expand: {str(error).removeprefix('expand: ')}"


def _longer(train: Train, config) -> Iterator[str]:
    """What a model of `config` cannot have of a longer context."""
    own = train.long_context
    if own is None:
        return
    narrow = min((window for window in attention.windows(config) if window), default=own.context)
    if own.mask == "anchor" and narrow < own.context:
        yield (
            f"train.long_context.mask: layers of this base see {narrow} positions back, so the anchor would be out of sight; "
            "set it to intra_document"
        )
    if own.rope and (fault := rotation.fault(config)):
        yield f"train.long_context.rope: {fault}"
    yield from _too_long("train.long_context.context", own.context, config, "this base")


def _too_long(key: str, context: int, config, who: str) -> Iterator[str]:
    """Of rows in which a rotation of two lengths changes for all positions."""
    longest = rope.longest_row(config)
    if longest and context > longest:
        yield (
            f"{key}: {context} is more than {longest}, beyond which {who} rotates all positions of a row in another way, "
            f"also those of short documents; set it to at most {longest}"
        )


def weights_fault(name: str, net: CausalLM) -> str:
    """What the files of a folder lack or have too much, as a sentence; empty where nothing, and where tensors go by other names,
    which loading translates."""
    if not (storage.is_local(name) and storage.exists(name)):
        return ""
    folder = storage.local(name)
    index = storage.join(folder, "model.safetensors.index.json")
    if storage.exists(index):
        places = storage.read_json(index)["weight_map"]
        if absent := sorted({file for file in places.values() if not storage.exists(storage.join(folder, file))}):
            return f"the file {absent[0]} of its weights is not there; fetch the model again"
        found = set(places)
    elif storage.exists(single := storage.join(folder, "model.safetensors")):
        with safe_open(single, "pt") as file:
            found = set(file.keys())
    else:
        return "it has no model.safetensors; fetch the model again, or convert its weights"
    wanted = set(net.state_dict())
    if not wanted & found:
        return ""
    tied = {str(key) for key in net.all_tied_weights_keys}
    return shape.weights_fault(wanted - tied - found, found - wanted, net.config.model_type)
