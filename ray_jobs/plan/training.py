"""GPU time and memory of a recipe's training stages, from the models' shapes.

GPU-seconds = tokens x FLOPs per token (train/monitor/flops.py) / (peak x MFU). Memory per GPU is that of
ray_jobs/plan/gpu_memory.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.deploy.spec import Group
from mixture.weights import Auto
from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe
from ray_jobs.config.training import Train
from ray_jobs.plan import gpu_memory
from ray_jobs.plan.rates import Number
from ray_jobs.run import bases
from ray_jobs.run.bases import FIELDS, QWEN
from ray_jobs.run.graph import BASE
from ray_jobs.training import budget
from train.bases import shape as shape_of_base
from train.batches.decoder import CausalLM
from train.methods import expand
from train.monitor import flops

WEIGHT_BYTES = 4
USABLE = 0.92  # of a GPU's memory; the rest is CUDA's, NCCL's and fragments


@dataclass(frozen=True)
class Step:
    """A stage on GPUs: tokens that are read, forward and backward unless `source` says otherwise, and what it takes.

    `gpus` that work each on its own; None is the gang of `train.workers`.
    """

    name: str
    tokens: float
    gpu_seconds: float
    source: str
    gpus: int | None = None


@dataclass(frozen=True)
class Model:
    """A model by its shape."""

    shape: Mapping
    vocab_size: int
    parameters: int
    flops_per_token: float


def model(recipe: Recipe) -> tuple[Model, Model]:
    """The base and the model that is trained, which is the base where nothing is expanded. Raises ValueError for a base whose
    shape is not known here."""
    train = given(recipe.train)
    base = train.base
    if base.shape is not None:
        shape, vocabulary = base.shape.model_dump(), bases.vocabulary(recipe)
    elif base.model in QWEN:
        *fields, vocabulary = QWEN[base.model]
        shape = dict(zip(FIELDS, fields, strict=True))
    else:
        net = on_meta(str(base.model))
        of_base = _of_net(net, train)
        return of_base, of_base if train.expand is None else _of_net(grown_as(net, train), train)
    if train.expand is None:
        same = _model(shape, vocabulary, train)
        return same, same
    grown = {**shape, "num_hidden_layers": shape["num_hidden_layers"] + train.expand.new_layers}
    if train.expand.untie_embeddings:
        grown["tie_word_embeddings"] = False
    return _model(shape, vocabulary, train), _model(grown, train.expand.vocab_size or vocabulary, train)


def tokens(recipe: Recipe, stage: budget.PlanStage, corpus: float) -> tuple[float, str]:
    """Tokens of a stage and where that is from. `corpus`: tokens that are left, which bound what is `auto` and has no bound."""
    key = "train.base.tokens" if stage == "base" else f"train.pretrain.{stage}.tokens"
    asked = budget.asked(given(recipe.train), stage)
    if not isinstance(asked, Auto):
        return asked, key
    if asked.most is not None:
        return asked.most, f"{key} is auto: known after tokenize, at most max_tokens"
    mixture = recipe.mixture
    most, what = mixture.max_epochs * corpus, "mixture.max_epochs x tokens of the corpus"
    if stage == "stage2" and (rest := 1.0 - mixture.stage2_replay_share - mixture.stage2_instruction_share) > 0:
        most, what = most * recipe.quality.top_share / rest, f"{what} x quality.top_share / share of the best"
    return most, f"{key} is auto: known after tokenize, at most {what}"


def plan(recipe: Recipe, n: Mapping[str, Number], group: Group, corpus: float) -> list[Step]:
    """The training stages on GPUs of `group`, after a corpus of so many tokens."""
    train = given(recipe.train)
    base, grown = model(recipe)
    speed = flops_per_second(group, n["mfu"])
    mfu = f"MFU {n['mfu'].value:.0%} of {group.gpu_tflops:,.0f} TFLOP/s; {n['mfu'].source}"

    def step(name: str, read: float, source: str, of: Model = grown, times: float = 1.0) -> Step:
        cost = f"{of.flops_per_token / 1e9:,.1f} GFLOP a token"
        return Step(name, read, times * read * of.flops_per_token / speed, f"{source}; {cost}; {mfu}")

    steps = []
    if train.base.shape is not None:
        steps.append(step(BASE, *tokens(recipe, "base", corpus), base))
    if train.pretrain is None:
        return steps
    names: tuple[budget.PlanStage, ...] = ("stage1", "stage2")
    for name in names:
        read, source = tokens(recipe, name, corpus)
        steps.append(step(f"pretrain/{name}", read, source))
        if train.pretrain.control:
            steps.append(step(f"control/{name}", read, source, base))
    return steps


def flops_per_second(group: Group, mfu: Number) -> float:
    """Of one GPU of `group` while it trains. A group that does not say its speed is refused before (`plan.cost`)."""
    assert group.gpu_tflops is not None
    return group.gpu_tflops * 1e12 * mfu.value


def usable_gb(group: Group) -> float:
    """Of the memory of one GPU of `group`. A group that does not say its memory is refused before (`plan.cost`)."""
    assert group.gpu_memory_gb is not None
    return group.gpu_memory_gb * USABLE


def check_memory(recipe: Recipe, group: Group) -> tuple[float, str]:
    """GB that one GPU needs, and how that is made up. Raises ValueError naming the key when it does not fit."""
    train = given(recipe.train)
    _, grown = model(recipe)
    workers = train.workers
    if workers > group.max_nodes * group.gpus:
        raise ValueError(
            f"train.workers: {workers} workers need a GPU each, but groups ({group.name}) has at most "
            f"{group.max_nodes} nodes of {group.gpus}; lower train.workers or raise max_nodes"
        )
    room = usable_gb(group)
    found = gpu_memory.of_worker(train, grown.shape, grown.vocab_size)
    state, per_row, rest = sum(found.state.values()), found.row, sum(found.rest.values())
    key, rows = gpu_memory.micro_rows(train)
    made = (
        f"{state:,.1f} GB weights, gradients, Adam ({train.parallel}, {workers} workers) + {rows} rows of {per_row:,.1f} GB "
        f"({train.activation_checkpointing}) + {rest:,.1f} GB of logits and gathered weights; as in --dry-run"
    )
    if state + per_row + rest > room:
        if train.parallel == "replicate":
            raise ValueError(
                f"train.parallel: every GPU holds all {state:,.0f} GB of weights, gradients and Adam's moments, but "
                f"{group.name} has {room:,.0f} GB to use; set train.parallel: fsdp"
            )
        raise ValueError(
            f"train.workers: {state:,.0f} GB of state on each of {workers} GPUs and {per_row:,.1f} GB for one row do not fit "
            f"into {room:,.0f} GB; set train.workers to at least {math.ceil(state * workers / (room - per_row - rest))}"
            if room > per_row + rest
            else f"train.context: one row of {train.context} tokens needs {per_row:,.0f} GB of activations, {group.name} has "
            f"{room:,.0f} GB; lower train.context, set train.activation_checkpointing: selective or raise "
            "train.context_parallel"
        )
    if state + rows * per_row + rest > room:
        fit = int((room - state - rest) / per_row)
        raise ValueError(
            f"{key}: {rows} rows of {per_row:,.1f} GB beside {state:,.0f} GB of state do not fit into the "
            f"{room:,.0f} GB of a GPU of {group.name}; set it to {fit} or less"
        )
    _check_whole_models(recipe, group)
    return state + rows * per_row + rest, made


def _check_whole_models(recipe: Recipe, group: Group) -> None:
    """Evaluation, scoring and sampling hold a model on one GPU; every worker, expansion and export hold one in memory."""
    train = given(recipe.train)
    base, grown = model(recipe)
    one = grown.parameters * WEIGHT_BYTES / 1e9
    if one > usable_gb(group):
        raise ValueError(
            f"groups ({group.name}).gpu_memory_gb: evaluation holds the whole model on one GPU, {one:,.0f} GB in fp32, but "
            f"{group.gpu_memory_gb} GB have room for {usable_gb(group):,.0f}; take larger GPUs"
        )
    needed = max(min(train.workers, group.gpus) * one, (base.parameters + grown.parameters) * WEIGHT_BYTES / 1e9)
    if needed > group.memory_gb * USABLE:
        raise ValueError(
            f"groups ({group.name}).memory_gb: the workers of a node read {needed:,.0f} GB of weights before they share them, "
            f"but it has {group.memory_gb} GB; take nodes with at least {needed / USABLE:,.0f}"
        )


def _model(shape: Mapping, vocabulary: int, train: Train) -> Model:
    return Model(
        shape, vocabulary, flops.parameters(shape, vocabulary), flops.per_token(shape, vocabulary, train.context)
    )


def on_meta(name: str) -> CausalLM:
    """The base of that name without memory. Raises ValueError for one that cannot be read here."""
    config = bases.config_of(name)
    if config is None:
        known = ", ".join(QWEN)
        raise ValueError(f"train.base.model: {name} cannot be read here; give a folder, or one of {known}")
    return shape_of_base.on_meta(config)


def grown_as(net: CausalLM, train: Train) -> CausalLM:
    """`net`, expanded as the recipe says."""
    own = given(train.expand)
    return expand.expand(net, own.new_layers, own.trainable, untie=own.untie_embeddings, vocab_size=own.vocab_size)


def _of_net(net: CausalLM, train: Train) -> Model:
    shape, vocabulary = flops.shape_of(net), net.config.vocab_size
    parameters = sum(p.numel() for p in net.parameters())
    return Model(shape, vocabulary, parameters, flops.per_token(shape, vocabulary, train.context))
