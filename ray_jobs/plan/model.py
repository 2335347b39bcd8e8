"""The models of a recipe: the base, the one that is expanded from it, the one that is pruned, from the real modules without
memory."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from transformers import PreTrainedConfig

from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe
from ray_jobs.config.training import Expand, Train, Update
from ray_jobs.run import bases
from ray_jobs.training import update
from train import model as models
from train.bases import shape as shape_of_base
from train.batches.decoder import CausalLM, layers_of
from train.drafts import eagle3, glide
from train.methods import expand, slices
from train.monitor import flops


@dataclass(frozen=True)
class Model:
    """A model by its shape; `layer` and `head` are the parameters of one layer and of the embedding, `sizes` those of each tensor
    and whether it learns. `update`: the rule by which a part of it learns."""

    shape: Mapping
    vocab_size: int
    parameters: int
    flops_per_token: float
    config: PreTrainedConfig = field(repr=False, compare=False)
    learning: int
    layer: int
    head: int
    tied: bool
    sizes: tuple[tuple[int, bool], ...] = field(repr=False)
    update: Update | None = None

    @property
    def keys_width(self) -> int:
        """Numbers of a position's keys in one layer, or of its values."""
        return flops.attention_widths(self.shape)[1]


def model(recipe: Recipe) -> tuple[Model, Model]:
    """The base and the model that is trained, which is the base where nothing is expanded. Raises ValueError for a base whose
    shape is not known here."""
    train, nets_of = given(recipe.train), nets(recipe)
    base = _of(nets_of[0], train.context)
    return base, base if train.expand is None else _of(nets_of[1], train.context)


def nets(recipe: Recipe) -> tuple[CausalLM, CausalLM]:
    """The same as modules on torch's meta device."""
    train = given(recipe.train)
    config = _config(train, bases.vocabulary(recipe) if train.base.shape else 0)
    return _nets(config.to_json_string(), type(config), train.expand)  # type: ignore[arg-type]  # classes have a hash


def updated(recipe: Recipe) -> CausalLM:
    """The model as continual pre-training has it, with what `train.pretrain.update` adds and freezes."""
    train, net = given(recipe.train), nets(recipe)[1]
    if train.pretrain is None or train.pretrain.update.rule == "all":
        return net
    return _updated(net, train.pretrain.update)


def learning(recipe: Recipe) -> Model:
    """The model of `model` as continual pre-training has it: what is held, what learns, and what a token costs."""
    train, grown = given(recipe.train), model(recipe)[1]
    if train.pretrain is None or train.pretrain.update.rule == "all":
        return grown
    net = updated(recipe)
    products, pair = flops.of_step(net)
    return dataclasses.replace(
        grown,
        parameters=models.parameters(net),
        flops_per_token=products + pair * train.context,
        learning=sum(p.numel() for p in net.parameters() if p.requires_grad),
        layer=sum(p.numel() for p in layers_of(net)[0].parameters()),
        sizes=tuple((p.numel(), p.requires_grad) for p in net.parameters()),
        update=train.pretrain.update,
    )


def pruned(recipe: Recipe) -> Model:
    """The model that `train.prune` makes. Raises ValueError where it cannot."""
    return students(recipe)[-1]


def students(recipe: Recipe) -> list[Model]:
    """The models of its rounds, of which each makes the one before smaller."""
    train, own = given(recipe.train), given(given(recipe.train).prune)
    config = nets(recipe)[1].config
    return [_of(slices.on_meta(config, one), context_of_pruning(train)) for one in own.targets(config)]


def teacher(recipe: Recipe) -> Model | None:
    """The model that heals the pruned one, if there is one: it before pruning."""
    before, after = model(recipe)[1], pruned(recipe)
    taught = given(given(recipe.train).prune).teaching(1 - after.parameters / before.parameters)
    return before if taught else None


def drafted(recipe: Recipe) -> Model:
    """The draft of `train.draft`: its own parameters, and, for what a pass of it takes, a model of two layers with the draft's
    vocabulary, as a draft has one layer and reads keys or states of another besides; of EAGLE-3 each step of its test is one."""
    own, net, grown = given(given(recipe.train).draft), nets(recipe)[1], model(recipe)[1]
    words = min(own.vocabulary or grown.vocab_size, grown.vocab_size)
    with torch.device("meta"):
        draft = eagle3.Eagle3(net, torch.arange(words)) if own.method == "eagle3" else glide.Glide(net)
    config = copy.deepcopy(grown.config)
    layers = 1 + (eagle3.STEPS if own.method == "eagle3" else 1)
    config.update({"num_hidden_layers": layers, "vocab_size": words, "tie_word_embeddings": False})
    if types := getattr(config, "layer_types", None):
        config.layer_types = [types[-1]] * layers
    return dataclasses.replace(
        grown,
        shape={**grown.shape, "num_hidden_layers": 1},
        vocab_size=words,
        parameters=models.parameters(draft),
        config=config,
        learning=models.parameters(draft),
        head=words * grown.shape["hidden_size"],
        tied=False,
        sizes=tuple((p.numel(), True) for p in draft.parameters()),
    )


def context_of_pruning(train: Train) -> int:
    """Positions of a row that masks and healing read."""
    long = train.long_context
    return long.context if long and given(train.prune).start == "long_context" else train.context


def _config(train: Train, vocabulary: int) -> PreTrainedConfig:
    if train.base.shape is not None:
        return models.config_from({**train.base.shape.model_dump(), "vocab_size": vocabulary})
    name = str(train.base.model)
    config = bases.config_of(name)
    if config is None:
        known = ", ".join(bases.QWEN)
        raise ValueError(f"train.base.model: {name} cannot be read here; give a folder, or one of {known}")
    return config


@lru_cache(maxsize=4)
def _updated(net: CausalLM, own: Update) -> CausalLM:
    return update.sized(net, own)


@lru_cache(maxsize=16)
def _nets(text: str, kind: type[PreTrainedConfig], own: Expand | None) -> tuple[CausalLM, CausalLM]:
    import json

    def made() -> CausalLM:
        return shape_of_base.on_meta(kind.from_dict(json.loads(text)))

    base = made()
    if own is None:
        return base, base
    grown = made()
    return base, expand.expand(
        grown, own.new_layers, own.trainable, untie=own.untie_embeddings, vocab_size=own.vocab_size
    )


def _of(net: CausalLM, context: int) -> Model:
    shape, vocabulary = flops.shape_of(net), net.config.vocab_size
    return Model(
        shape=shape,
        vocab_size=vocabulary,
        parameters=models.parameters(net),
        flops_per_token=flops.per_token(shape, vocabulary, context),
        config=net.config,
        learning=sum(p.numel() for p in net.parameters() if p.requires_grad),
        layer=sum(p.numel() for p in layers_of(net)[0].parameters()),
        head=net.model.embed_tokens.weight.numel(),
        tied=net.lm_head.weight is net.model.embed_tokens.weight,
        sizes=tuple((p.numel(), p.requires_grad) for p in net.parameters()),
    )
