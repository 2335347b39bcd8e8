"""What the final model of a run has cost: training FLOPs, device hours, tokens; and what it costs to use.

FLOPs = tokens x FLOPs per token, summed over all training that the model comes of, RegMix's proxies among it. A token costs six
operations for each parameter that it is multiplied with, four where that is frozen, and attention as if rows were not causal,
which is how `pinisi plan` counts (train/monitor/flops.py). A preference loss with a reference model takes a forward pass more.
Sampling answers and scoring them is no training and counts in the device hours only.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, TypedDict

from cluster import storage
from ray_jobs.config.given import given
from ray_jobs.config.reader import lookup
from ray_jobs.config.recipe import Recipe
from ray_jobs.experiment import measures
from ray_jobs.plan import alignment, rates
from ray_jobs.plan import model as plan_model
from ray_jobs.run import adopted, bases
from ray_jobs.run.graph import (
    BASE,
    CONTROL_1,
    CONTROL_2,
    OFF_POLICY,
    PRETRAIN_1,
    PRETRAIN_2,
    PROXIES,
    REWARD,
    ROUNDS,
    SFT_1,
    SFT_2,
)
from ray_jobs.run.run import Run
from ray_jobs.training import budget, update
from train.bases import shape as shapes
from train.batches.decoder import CausalLM
from train.methods import expand
from train.monitor import flops
from train.preference_losses.table import LOSSES

FORWARD = 1 / 3  # of a step
LONG = "long_context"  # the stage, and its section in `train`
PLANS: dict[str, budget.PlanStage] = {
    BASE: "base",
    PRETRAIN_1: "stage1",
    PRETRAIN_2: "stage2",
    CONTROL_1: "stage1",
    CONTROL_2: "stage2",
}
"""Stages that read the mixture -> what its plan calls them."""


class Stage(NamedTuple):
    """`flops` and `tokens` of its training; `seconds` on `devices`; whether this run made it or has adopted it."""

    name: str
    flops: float
    tokens: int
    seconds: float
    devices: int
    adopted: bool


class Cost(TypedDict):
    """Of one run. `own_flops`: what is not adopted. None: not known."""

    flops: float
    own_flops: float
    device_hours: float
    tokens: int
    tokens_per_second: float | None
    parameters: int | None
    memory_bytes: int | None


def of(run: Run) -> Cost:
    """What the final model of a run has cost, as far as its stages are done."""
    final = measures.last(run.recipe)
    stages = trained(run, final) if final else []
    tokens, seconds = sum(one.tokens for one in stages), sum(one.seconds for one in stages)
    memory = [(run.manifest(one.name) or {}).get("memory_bytes", 0) for one in stages]
    net = _net(run, final) if final else None
    return {
        "flops": sum(one.flops for one in stages),
        "own_flops": sum(one.flops for one in stages if not one.adopted),
        "device_hours": sum(one.seconds * one.devices for one in stages) / 3600,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds if seconds else None,
        "parameters": None if net is None else sum(p.numel() for p in net.parameters()),
        "memory_bytes": max(memory, default=0) or None,
    }


def trained(run: Run, final: str) -> list[Stage]:
    """The stages whose training the model of the stage `final` comes of, in order."""
    found = []
    for name in _before(run, final):
        manifest = run.manifest(name) or {}
        if not manifest.get("tokens") or not (manifest.get("tokens_per_second") or manifest.get("flops")):
            continue  # not done, or not trained
        work = manifest.get("flops") or manifest["tokens"] * _per_token(run, name)
        shared = adopted.home(run.uri, name) != run.uri
        devices = 1 if name == PROXIES else given(run.recipe.train).workers
        found.append(Stage(name, work, manifest["tokens"], manifest["seconds"], devices, shared))
    return found


def equal_tokens(other: Run, recipe: Recipe) -> dict[str, int]:
    """Tokens of each stage of pre-training that cost `recipe` as many FLOPs as that stage has cost the run `other`, in whole
    updates."""
    train = given(recipe.train)
    own = per_token(plan_nets(other, recipe)[1], train.context)
    found = {}
    for name, stage in ((PRETRAIN_1, given(train.pretrain).stage1), (PRETRAIN_2, given(train.pretrain).stage2)):
        cost = next(one.flops for one in trained(other, PRETRAIN_2) if one.name == name)
        step = stage.rows_per_step * train.context
        found[name.rsplit("/", 1)[1]] = max(1, round(cost / own / step)) * step
    return found


def likely_tokens(other: Run, recipe: Recipe) -> dict[str, int]:
    """The same, also before the run `other` is made: from shapes, and the most tokens that its recipe allows."""
    if {PRETRAIN_1, PRETRAIN_2} <= {one.name for one in trained(other, PRETRAIN_2)}:
        return equal_tokens(other, recipe)
    train = given(recipe.train)
    found: dict[str, int] = {}
    ratio = planned(other.recipe)[1] / planned(recipe)[1]
    names: tuple[budget.PlanStage, ...] = ("stage1", "stage2")
    for name in names:
        stage = getattr(given(train.pretrain), name)
        step = stage.rows_per_step * train.context
        known = budget.known(other.uri, name, given(other.recipe.train)) or stage.max_tokens or step
        found[name] = max(1, round(known * ratio / step)) * step
    return found


def plan_nets(run: Run, recipe: Recipe) -> tuple[CausalLM, CausalLM]:
    """The base that `run` has, and what `recipe` makes of it to be pre-trained, without memory."""
    base, grown = given(_net(run, BASE)), given(_net(run, BASE))
    own = given(recipe.train).expand
    if own is not None:
        expand.expand(grown, own.new_layers, own.trainable, untie=own.untie_embeddings, vocab_size=own.vocab_size)
    return base, update.sized(grown, given(given(recipe.train).pretrain).update)


def per_token(net: CausalLM, context: int) -> float:
    """FLOPs of a token in training, of the parameters that learn and those that are frozen.

    Where all learn it is `flops.per_token`."""
    products, pair = flops.of_step(net)
    return products + pair * context


def planned(recipe: Recipe) -> tuple[float, float]:
    """FLOPs per token of (the base, the model that is pre-trained), from the recipe alone. Raises ValueError as a plan does."""
    base, grown = plan_model.nets(recipe)[0], plan_model.updated(recipe)
    context = given(recipe.train).context
    return per_token(base, context), per_token(grown, context)


def _per_token(run: Run, stage: str) -> float:
    net, train = _net(run, stage), given(run.recipe.train)
    if net is None:
        return 0.0
    own = train.expand
    if own is not None and stage in (PRETRAIN_1, PRETRAIN_2):
        expand.set_trainable(net, own.new_layers, own.trainable)
    if stage in (PRETRAIN_1, PRETRAIN_2):
        net = update.sized(net, given(train.pretrain).update)
    times = 1.0
    if stage in (OFF_POLICY, *ROUNDS) and LOSSES[given(train.dpo).loss].reference:
        times += FORWARD
    own_context = lookup(run.recipe, f"train.{LONG}.context") if stage == LONG else None
    return times * per_token(net, own_context or train.context)


def _net(run: Run, stage: str) -> CausalLM | None:
    """The model that a stage has made, without memory; None where there is none, or of another kind than a language model."""
    folder = adopted.path(run.uri, stage, "model")
    if not storage.exists(storage.join(folder, "config.json")):
        return None
    config = bases.config_of(folder)
    return None if config is None else shapes.on_meta(config)


def _before(run: Run, final: str) -> list[str]:
    """`final` and all stages that it reads, directly or not, in order."""
    stages = {stage.name: stage for stage in run.stages}
    waiting, found = [final], set()
    while waiting:
        name = waiting.pop()
        if name in stages and name not in found:
            found.add(name)
            waiting += stages[name].inputs
    return [name for name in stages if name in found]


class Forecast(NamedTuple):
    """What the stages that an arm makes will take: None where nobody knows yet. `at_most`: bounds."""

    flops: float | None
    tokens: int | None
    at_most: bool


def forecast(run: Run, waiting: Collection[str]) -> Forecast:
    """Training of the stages that `run` is to make, from its recipe and what its mixture has planned. Raises ValueError for a
    base whose shape is not known here."""
    work, tokens, at_most = 0.0, 0, False
    if run.recipe.train is None:
        return Forecast(0.0, 0, False)
    train = run.recipe.train
    base, grown = planned(run.recipe)
    numbers = rates.numbers(run.recipe.extract.engine, {}, None, run.recipe.fetch.gap_bytes)
    for name in waiting:
        if plan := PLANS.get(name):
            if name == BASE and train.base.shape is None:
                continue
            known = budget.known(run.uri, plan, train)
            asked = budget.asked(train, plan)
            read = known if known is not None else getattr(asked, "most", None)
            at_most |= known is None
            if read is None:
                return Forecast(None, None, True)
        elif name in (REWARD, SFT_1, SFT_2, OFF_POLICY):
            read, at_most = round(alignment.size(run.recipe, name, numbers)[0]), True
        elif name == LONG:
            read = lookup(run.recipe, f"train.{LONG}.tokens")
        else:
            continue
        each = base if name in (BASE, CONTROL_1, CONTROL_2) else grown
        if name not in PLANS:
            longer = lookup(run.recipe, f"train.{LONG}.context") if name == LONG else train.context
            each = per_token(plan_model.nets(run.recipe)[1], longer)
        work, tokens = work + read * each, tokens + read
    return Forecast(work, tokens, at_most)
