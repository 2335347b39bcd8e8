"""GPU time and memory of a recipe's training stages, from the models' shapes.

GPU-seconds = tokens x FLOPs per token (train/monitor/flops.py) / (peak x MFU). Memory per GPU is that of
ray_jobs/plan/gpu_memory.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cluster.deploy.spec import Group
from mixture import readings
from mixture.weights import Auto
from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe
from ray_jobs.config.training import LongContext, Train
from ray_jobs.plan import gpu_memory
from ray_jobs.plan.model import Model, learning, model
from ray_jobs.plan.rates import Number
from ray_jobs.run.graph import BASE, LONG_CONTEXT, PRETRAIN_1, PRUNE
from ray_jobs.training import budget, fit
from train.monitor import flops

WEIGHT_BYTES = 4  # of a model in a host's memory
SMALL = 2e9  # parameters of a model whose matrices are too narrow to fill a GPU
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


def tokens(recipe: Recipe, stage: budget.PlanStage, corpus: float) -> tuple[float, str]:
    """Tokens of a stage and where that is from. `corpus`: tokens that are left, which bound what is `auto` and has no bound."""
    key = "train.base.tokens" if stage == "base" else f"train.pretrain.{stage}.tokens"
    asked = budget.asked(given(recipe.train), stage)
    if not isinstance(asked, Auto):
        return asked, key
    if asked.most is not None:
        return asked.most, f"{key} is auto: known after tokenize, at most max_tokens"
    mixture = recipe.mixture
    most, what = readings.most(mixture.max_epochs) * corpus, "mixture.max_epochs x tokens of the corpus"
    if stage == "stage2" and (rest := 1.0 - mixture.stage2_replay_share - mixture.stage2_instruction_share) > 0:
        most, what = most * recipe.quality.top_share / rest, f"{what} x quality.top_share / share of the best"
    return most, f"{key} is auto: known after tokenize, at most {what}"


def plan(recipe: Recipe, n: Mapping[str, Number], group: Group, corpus: float) -> list[Step]:
    """The training stages on GPUs of `group`, after a corpus of so many tokens."""
    train = given(recipe.train)
    (base, grown), own = model(recipe), learning(recipe)
    used = utilisation(train, n, grown.parameters)
    speed = flops_per_second(group, used)
    mfu = f"MFU {used.value:.0%} of {group.gpu_tflops:,.0f} TFLOP/s; {used.source}"

    def step(name: str, read: float, source: str, of: Model = grown, times: float = 1.0) -> Step:
        cost = f"{of.flops_per_token / 1e9:,.1f} GFLOP a token"
        return Step(name, read, times * read * of.flops_per_token / speed, f"{source}; {cost}; {mfu}")

    steps = []
    if train.base.shape is not None:
        steps.append(step(BASE, *tokens(recipe, "base", corpus), base))
    if train.pretrain is None:
        return steps
    update = train.pretrain.update
    if update.rule == "contrast":
        chosen = update.rows * len(recipe.languages) * train.context
        source = "train.pretrain.update.rows x languages x train.context, which choose what learns"
        steps.append(step("pretrain/choice", chosen * (1 + update.probe_updates), source, base))
    names: tuple[budget.PlanStage, ...] = ("stage1", "stage2")
    for name in names:
        read, source = tokens(recipe, name, corpus)
        steps.append(step(f"pretrain/{name}", read, source, own))
        if train.pretrain.control:
            steps.append(step(f"control/{name}", read, source, base))
    if train.long_context:
        attended, why = attended_per_token(train.long_context, n)
        each = flops.in_documents(grown.shape, grown.vocab_size, attended)
        source = f"train.long_context.tokens; {why}; {each / 1e9:,.1f} GFLOP a token; {mfu}"
        steps.append(Step(LONG_CONTEXT, train.long_context.tokens, train.long_context.tokens * each / speed, source))
    return steps


def attended_per_token(own: LongContext, n: Mapping[str, Number]) -> tuple[float, str]:
    """Positions that a token of the longer context attends to on average, and where that is from: its document's, not the row's,
    unless the mask is `full`."""
    if own.mask == "full":
        return own.context / 2, f"a row of {own.context:,} is one document"
    short, long = n["bytes_per_document"].value / n["bytes_per_token"].value, n["long_document_ratio"].value
    lengths = ((own.long_share, long * own.long_tokens), (1 - own.long_share, short))
    attended = sum(share * min(length, own.context) / 2 for share, length in lengths)
    return attended, (
        f"{own.long_share:.0%} of them in documents of {long * own.long_tokens:,.0f} (long_document_ratio), the others of "
        f"{short:,.0f} (bytes_per_document / bytes_per_token)"
    )


def utilisation(train: Train, n: Mapping[str, Number], parameters: float) -> Number:
    """MFU of training a model of so many parameters: what was given or measured, or what is assumed by its size, with or without
    `train.compile`."""
    if n["mfu"].good is None:  # given or measured
        return n["mfu"]
    own = n["mfu_small" if parameters < SMALL else "mfu"]
    if train.compile:
        return own
    return replace(own, value=own.value * n["mfu_eager"].value / n["mfu"].value, source=n["mfu_eager"].source)


def flops_per_second(group: Group, mfu: Number) -> float:
    """Of one GPU of `group` while it trains. A group that does not say its speed is refused before (`plan.cost`)."""
    assert group.gpu_tflops is not None
    return group.gpu_tflops * 1e12 * mfu.value


def usable_gb(group: Group) -> float:
    """Of the memory of one GPU of `group`. A group that does not say its memory is refused before (`plan.cost`)."""
    assert group.gpu_memory_gb is not None
    return group.gpu_memory_gb * USABLE


def check_memory(recipe: Recipe, group: Group) -> tuple[float, str]:
    """GB that one GPU needs in pre-training, or what is trained instead, and how that is made up.

    Raises ValueError naming the key when that or any other training stage does not fit."""
    train = given(recipe.train)
    workers = train.workers
    if workers > group.max_nodes * group.gpus:
        raise ValueError(
            f"train.workers: {workers} workers need a GPU each, but groups ({group.name}) has at most "
            f"{group.max_nodes} nodes of {group.gpus}; lower train.workers or raise max_nodes"
        )
    _check_whole_models(recipe, group)
    works = gpu_memory.works(recipe)
    for work in sorted(works, key=lambda work: work is not gpu_memory.main(works)):
        _check_stage(train, work, group)
    work = gpu_memory.main(works)
    found = gpu_memory.of_worker(train, work)
    made = (
        f"{sum(found.state.values()):,.1f} GB weights, gradients, Adam ({train.parallel}, {workers} workers) + {work.rows} rows "
        f"of {found.row:,.1f} GB ({train.activation_checkpointing}) + {sum(found.rest.values()):,.1f} GB of logits, casts and "
        f"gathered weights ({work.stage}); as in --dry-run"
    )
    return found.total(work.rows), made


def _check_stage(train: Train, work: gpu_memory.Work, group: Group) -> None:
    """Raises ValueError where a micro-batch of a stage does not fit into a GPU of `group`."""
    room, found = usable_gb(group), gpu_memory.of_worker(train, work)
    state, per_row, rest = sum(found.state.values()), found.row, sum(found.rest.values())
    if state + work.rows * per_row + rest <= room:
        return
    where = "" if work.stage == PRETRAIN_1 else f" in {work.stage}"
    longer = work.stage.startswith(PRUNE) and train.prune is not None and train.prune.start == "long_context"
    key = "train.long_context" if work.stage == LONG_CONTEXT or longer else "train"
    if state + per_row + rest > room and work.whole:
        raise ValueError(
            f"train.draft: every GPU holds the whole model beside its draft, {state:,.0f} GB, and {per_row + rest:,.1f} GB for "
            f"one row, but {group.name} has {room:,.0f} GB to use; take larger GPUs, or set draft: null"
        )
    if state + per_row + rest > room:
        if train.parallel == "replicate" and room > per_row + rest:
            raise ValueError(
                f"train.parallel: every GPU holds all {state:,.0f} GB of weights, gradients and Adam's moments{where}, but "
                f"{group.name} has {room:,.0f} GB to use; set train.parallel: fsdp"
            )
        raise ValueError(
            f"train.workers: {state:,.0f} GB of state on each of {train.workers} GPUs and {per_row:,.1f} GB for one row{where} "
            f"do not fit into {room:,.0f} GB; set train.{'shard_within' if train.shard_within else 'workers'} to at least "
            f"{math.ceil(state * (train.shard_within or train.workers) / (room - per_row - rest))}"
            if room > per_row + rest
            else f"{key}.context: one row of {work.length} tokens needs {per_row:,.0f} GB of activations{where}, {group.name} "
            f"has {room:,.0f} GB; lower {key}.context or set train.activation_checkpointing: selective"
            f"{f' or raise {key}.context_parallel' if work.stage.split('/')[0] in fit.SPLIT else ''}"
        )
    most = max(1, int((room - state - rest) / per_row / work.per_row))
    raise ValueError(
        f"{work.key}: {work.rows} rows of {per_row:,.1f} GB beside {state:,.0f} GB of state{where} do not fit into the "
        f"{room:,.0f} GB of a GPU of {group.name}; set it to {most} or less"
    )


def _check_whole_models(recipe: Recipe, group: Group) -> None:
    """Evaluation, scoring, sampling and reference passes hold a model on one GPU; hosts read models and copy what checkpoints
    write."""
    train = given(recipe.train)
    base, grown = model(recipe)
    one = sum(gpu_memory.read_only(train, grown).values())
    if one > usable_gb(group):
        raise ValueError(
            f"groups ({group.name}).gpu_memory_gb: evaluation, scoring and sampling hold the whole model on one GPU, "
            f"{one:,.0f} GB with a batch, but {group.gpu_memory_gb} GB have room for {usable_gb(group):,.0f}; take larger GPUs"
        )
    here = min(train.workers, group.gpus)
    whole = grown.parameters * WEIGHT_BYTES / 1e9
    copies = gpu_memory.pinned(train, learning(recipe), here)
    # a reward model is copied from its base in each worker; elsewhere one reads for all
    trains_reward = train.reward is not None and train.reward.model is None
    read = 2 * here if trains_reward else 1
    if train.draft:  # each worker reads the model that its draft is for
        read = max(read, here if train.precision == "fp32" else math.ceil(here / 2))
    needed = max(read * whole, (base.parameters + grown.parameters) * WEIGHT_BYTES / 1e9, copies)
    if needed > group.memory_gb * USABLE:
        what = (
            f"the copies of a checkpoint that its workers write take {needed:,.0f} GB"
            if needed == copies
            else f"the workers of a node read {needed:,.0f} GB of weights before they share them"
        )
        raise ValueError(
            f"groups ({group.name}).memory_gb: {what}, but it has {group.memory_gb} GB; take nodes with at least "
            f"{needed / USABLE:,.0f}"
        )
