"""prune: masks of width on the base of stage 2 that leave the target shape, then training heals the sliced model.

Paper section 6.3: hidden width, query heads and FFN width; no layers, no dynamic data loading. Masks are learnt, or chosen by
activations on equally many rows of each language. Masks and healing are sharded as the recipe says. Where much is removed, the
model before pruning teaches the healing. In several rounds each begins with what the one before has healed. Held-out text of
each language is measured before, after the masks and after healing. A model of a longer context is pruned on rows of that length
behind its anchor, of the mixture of stage 2.

rounds/N     of all rounds but the last: model, and round.json, what its manifest would be
masks        of the last: learnt.json, what is known of the masks; it comes when the sliced model is there
sliced       the model that they leave
model        the Hugging Face folder
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, TypedDict

import torch

from cluster import storage
from mixture.long_weights import INSTRUCTIONS
from mixture.store.long_documents import SIGN
from mixture.tokenizer import anchor as anchors
from ray_jobs.config.given import given
from ray_jobs.config.training import Prune
from ray_jobs.run.graph import lengthened, pruned
from ray_jobs.run.job import Job
from ray_jobs.training import budget, data_order, watch
from ray_jobs.training import fit as training
from ray_jobs.training.tokenizer import load_tokenizer, tokenizer_of
from ray_jobs.work import device
from ray_jobs.work.trainer import launch
from train import loader, model
from train.batches import long_rows
from train.batches.decoder import CausalLM
from train.batches.parts import Batch, BatchFn, LossFn
from train.checkpoint import checkpoint
from train.distributed import data_parallel
from train.loop import LoopConfig, fit
from train.methods import activation_scores, distil, pretrain, slices
from train.methods.prune import Pruning, ThroughMasks
from train.methods.prune_target import Target
from train.monitor import damage
from train.monitor.heldout_text import Validation
from train.monitor.metrics import JsonLines

LEARNT = "learnt.json"  # in the folder of the masks: what the manifest says of them


class Long(TypedDict):
    """Rows of a longer context: the token that they begin with, and the mask."""

    anchor: int
    mask: str


class Settings(training.PackedSettings):
    model: str  # that is pruned
    teacher: str  # the model before the first round
    targets: list[dict[str, int]]  # fields of the Target of each round
    method: str
    calibration_rows: int
    mask_loop: dict[str, Any]  # fields of a LoopConfig, of a round
    long: Long | None  # of a longer context
    short: int  # the context of held-out text
    mask_lr: float
    warmup_steps: int  # of the masks
    distil: dict[str, float] | None  # weight and temperature of the teacher
    first_row: int  # of the round


def run(job: Job) -> dict:
    recipe, longer = given(job.train.prune), lengthened(job.recipe, job.stage.name)
    context = longer.context if longer else job.train.context
    tokens = math.ceil(budget.of_healing(job.run_uri, recipe, context) / recipe.rounds)
    heal_steps = training.steps_for(tokens, recipe.optimiser.rows_per_step, context)
    start = job.input(pruned(job.recipe), "model")
    config = slices.config_at(start)
    removed = slices.removed_share(config, recipe.target)
    taught = recipe.teaching(removed)
    settings: Settings = {
        **training.settings(job, training.loop_config(job, recipe.optimiser, heal_steps)),
        **data_order.settle(job, job.seed + 3, context - 1 if longer else None),  # the anchor is the first position
        "model": start,
        "teacher": start,
        "targets": [dataclasses.asdict(one) for one in recipe.targets(config)],
        "method": recipe.method,
        "calibration_rows": recipe.calibration_rows,
        "mask_loop": mask_loop(job, recipe, context),
        "long": {"anchor": anchors.anchor(load_tokenizer(tokenizer_of(job))), "mask": longer.mask} if longer else None,
        "short": job.train.context,
        "mask_lr": recipe.mask_lr,
        "warmup_steps": recipe.warmup_steps,
        "distil": taught.model_dump(include={"weight", "temperature"}) if taught else None,
        "first_row": 0,
    }
    result = launch(job, train_worker, settings, heal_steps)
    said = [f"prune: {one}" for one in damage.warnings(result["damage"], job.train.forgetting_alarm)]
    return {
        **result,
        "method": recipe.method,
        "removed_share": round(removed, 4),
        "healed_by": "the model before pruning" if taught else "the text",
        "context": context,
        "updates": recipe.rounds * (recipe.mask_updates(context) + heal_steps),
        "warnings": [*result["warnings"], *said],
    }


def mask_loop(job: Job, recipe: Prune, context: int) -> dict[str, Any]:
    """The loop that learns masks. Their hooks break the graphs that a compiler makes of a layer; and the loss rises as they
    close, by the penalty and of the model that is left, which a guard would take for a spike."""
    optimiser, steps = recipe.mask_optimiser or recipe.optimiser, recipe.mask_updates(context)
    return {**training.loop_config(job, optimiser, max(1, steps)), "compile": False, "guard": None}


def train_worker(settings: Settings) -> dict:
    """The rounds, of which the last writes into the stage's own folder."""
    done: list[dict] = []
    start, first_row = settings["model"], 0
    for number, target in enumerate(settings["targets"], 1):
        own: Settings = {**settings, "model": start, "targets": [target], "first_row": first_row}
        if number < len(settings["targets"]):
            own["out"] = storage.join(settings["out"], "rounds", str(number))
            own["metrics_uri"] = settings["metrics_uri"].replace(".jsonl", f"-round{number}.jsonl")
        record = storage.join(own["out"], "round.json")
        found = storage.read_json(record) if storage.exists(record) else _round(own)
        if number < len(settings["targets"]) and training.rank() == 0:
            storage.write_json(record, found)
        data_parallel.sum_over_ranks([0.0], torch.device("cpu"))  # no rank looks for a round before it is said
        done.append(found)
        start = storage.join(own["out"], "model")
        first_row += _mask_rows(settings) + settings["loop"]["steps"] * settings["loop"]["rows_per_step"]
    first, last = done[0]["damage"], done[-1]
    whole = damage.since({lang: one["before"] for lang, one in first.items()}, last["damage"])
    rounds_before = [{key: one[key] for key in ("parameters", "damage")} for one in done[:-1]]
    return {
        **last,
        "parameters_before": done[0]["parameters_before"],
        "damage": whole,
        **({"rounds": rounds_before} if rounds_before else {}),
    }


def _mask_rows(settings: Settings) -> int:
    """Rows that the masks of a round read, of those that the healing goes on with."""
    loop = settings["mask_loop"]
    return loop["steps"] * loop["rows_per_step"] if settings["method"] == "masks" else 0


def _round(settings: Settings) -> dict:
    """Masks and healing from the model of `settings` to its one target."""
    gc.collect()  # sharded models of the round before lie in cycles
    sliced, folder = storage.join(settings["out"], "sliced"), storage.join(settings["out"], "masks")
    said, batch_fn = storage.join(folder, LEARNT), _rows(settings)
    if not storage.exists(said):
        _choose(settings, folder, sliced)
        gc.collect()  # hooks hold the model that they are on
    for name in ("weights", "checkpoints"):
        checkpoint.clear(storage.join(folder, name))
    learnt = storage.read_json(said)
    net = training.started_from(sliced)
    parameters = model.parameters(net)
    skipped = settings["first_row"] + _mask_rows(settings)
    validation = _heldout(settings)
    summary = training.fit_and_save(
        net,
        lambda rows: batch_fn([row + skipped for row in rows]),
        _objective(settings),
        settings,
        pools=data_order.pool_names(settings),
        validation=validation,
    )
    found = damage.by_language(learnt.pop("bits_per_byte"), validation.start or {}, summary["bits_per_byte"])
    return {**summary, "parameters": parameters, **learnt, "damage": found}


def _rows(settings: Settings) -> BatchFn:
    """The rows of the mixture, behind the anchor where the context is longer."""
    rows, own = training.packed_rows(settings), settings["long"]
    return long_rows.batch_fn(rows, own["anchor"], own["mask"]) if own else rows


def _attended(settings: Settings) -> str:
    """The mask of attention of all rows."""
    return long_rows.attended(settings["long"]["mask"]) if settings["long"] else "intra_document"


def _objective(settings: Settings) -> LossFn[CausalLM]:
    if settings["distil"] is None:
        return functools.partial(pretrain.loss, mask=_attended(settings))
    config, here = LoopConfig(**settings["loop"]), device.here()
    teacher = training.started_from(settings["teacher"], dtype=device.dtype(config.precision, here))
    return distil.loss_fn(distil.frozen(teacher, config, here), **settings["distil"], mask=_attended(settings))


def _heldout(settings: Settings, tasks: bool = True) -> Validation:
    """Measured at the end in any case. What pruning costs is no forgetting: the damage says it."""
    own = settings["watch"]
    measured: watch.WatchSettings = {
        **own,
        "alarm": math.inf,
        "eval_every": own["eval_every"] or settings["loop"]["steps"] + settings["mask_loop"]["steps"],
        "tasks": own["tasks"] if tasks else [],
    }
    return given(watch.validation(measured, settings["short"], load_tokenizer(settings)))


def _choose(settings: Settings, folder: str, sliced: str) -> None:
    """Write the model that masks leave, and in `folder` what is known of them before it is healed."""
    by = {"masks": _learn, "activations": _score}[settings["method"]]
    target = Target(**settings["targets"][0])
    masks, learnt, source = by(settings, target, folder)
    if training.rank() == 0:
        with source() as files:
            slices.slice_checkpoint(files, masks.cpu(), target, sliced, settings["saved_context"])
        storage.write_json(storage.join(folder, LEARNT), learnt)
    data_parallel.sum_over_ranks([0.0], torch.device("cpu"))  # the others wait for what they will read


Chosen = tuple[slices.Masks, dict, Callable[[], AbstractContextManager[slices.Source]]]
"""Masks, what the manifest says of them (and `bits_per_byte` of the model before), and the weights that they are for."""


def _learn(settings: Settings, target: Target, folder: str) -> Chosen:
    """Masks that are learnt together with the weights."""
    net, skipped = training.start_model(settings), settings["first_row"]
    before = model.parameters(net)
    rows_of, config = _rows(settings), LoopConfig(**settings["mask_loop"])
    pruning = Pruning(net, target, settings["warmup_steps"], settings["seed"], device.here())
    metrics = JsonLines(settings["metrics_uri"].replace(".jsonl", "-masks.jsonl"))
    validation = ThroughMasks(pruning, _heldout(settings, tasks=False))
    with loader.ahead(lambda rows: rows_of([row + skipped for row in rows]), config) as batches:
        summary = fit(
            net,
            batches,
            pruning.loss_fn(functools.partial(pretrain.loss, mask=_attended(settings))),
            config,
            folder,
            device=device.here(),
            on_log=metrics,
            extra_params=pruning.extra_params(settings["mask_lr"]),
            after_step=pruning.after_step,
            validation=validation,
        )
    learnt = {
        "parameters_before": before,
        "mask_loss": summary["task_loss"],
        "bits_per_byte": validation.start,
        "ffn_open_by_layer": pruning.open_by_layer(),
    }
    weights = storage.join(folder, "weights")  # from their shards one process slices a tensor at a time
    slices.save_weights(net, weights, config.steps)
    return pruning.final(), learnt, lambda: slices.of_checkpoint(given(checkpoint.latest(weights)))


def _score(settings: Settings, target: Target, folder: str) -> Chosen:
    """Masks by how active units are on equally many rows of each language."""
    # a compiled layer would not call the hooks that count what is active
    config, here = dataclasses.replace(LoopConfig(**settings["loop"]), compile=False), device.here()
    net = training.start_model(settings)
    before = model.parameters(net)
    distil.frozen(net, config, here)
    precision = data_parallel.native_precision(here) if config.precision == "auto" else config.precision
    validation = _heldout(settings, tasks=False)
    validation.begin(net, precision)
    found = activation_scores.scores(net, _calibration(settings, config), precision, _attended(settings))
    learnt = {"parameters_before": before, "bits_per_byte": validation.start}
    return activation_scores.kept(found, target), learnt, lambda: slices.of_folder(settings["model"])


def _calibration(settings: Settings, config: LoopConfig) -> dict[str, Iterable[Batch]]:
    """Of each language this rank's batches, of as many rows as of any other: those of all its text, where the mixture has it."""
    pools: dict[str, str] = {}
    for name in data_order.pool_names(settings):
        pools.setdefault(name.split("/")[-1].split(SIGN)[0], name)  # all/… comes before top/…
    pools.pop(INSTRUCTIONS, None)
    rank, world = data_parallel.rank_world()
    each = math.ceil(settings["calibration_rows"] / len(pools) / world) * world

    def batches(name: str) -> Iterable[Batch]:
        schedule = [{"from_sample": 0, "weights": {name: 1.0}}]
        one: Settings = {**settings, "schedule": schedule}
        batch_fn = _rows(one)
        own = range(rank, each, world)
        return (batch_fn(list(own[i : i + config.micro_rows])) for i in range(0, len(own), config.micro_rows))

    return {lang: batches(name) for lang, name in sorted(pools.items())}
