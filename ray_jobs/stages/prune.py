"""prune: learned width masks on the base of stage 2 until the target shape is met, then training heals the sliced model.

Paper section 6.3: hidden width, query heads and FFN width; no layers, no dynamic data loading.
"""

from __future__ import annotations

from typing import Any

from cluster import storage
from ray_jobs.config.given import given
from ray_jobs.run.graph import PRETRAIN_2
from ray_jobs.run.job import Job
from ray_jobs.training import budget, data_order
from ray_jobs.training import fit as training
from ray_jobs.work import device
from ray_jobs.work.trainer import launch
from train import loader, model
from train.checkpoint import checkpoint
from train.loop import BatchFn, LoopConfig, fit
from train.methods import pretrain
from train.methods.prune import Pruning
from train.methods.prune_target import Target
from train.monitor.metrics import JsonLines

WHOLE = {"parallel": "replicate", "shard_within": None}
"""How masks are trained: they are of whole weights, so each worker holds the model."""


class Settings(training.PackedSettings):
    model: str
    target: dict[str, int]  # fields of a Target
    mask_loop: dict[str, Any]  # fields of a LoopConfig
    mask_lr: float
    warmup_steps: int  # of the masks


def run(job: Job) -> dict:
    recipe = given(job.train.prune)
    context = job.train.context
    tokens = budget.of_healing(job.run_uri, recipe, context)
    heal_steps = training.steps_for(tokens, recipe.optimiser.rows_per_step, context)
    settings: Settings = {
        **training.settings(job, training.loop_config(job, recipe.optimiser, heal_steps)),
        **data_order.settle(job, job.seed + 3),
        "model": job.input(PRETRAIN_2, "model"),
        "target": {key: getattr(recipe, key) for key in ("hidden_size", "num_attention_heads", "intermediate_size")},
        "mask_loop": {
            **training.loop_config(job, recipe.optimiser, recipe.mask_steps),
            "parallel": "replicate",
            "shard_within": None,
        },
        "mask_lr": recipe.mask_lr,
        "warmup_steps": recipe.warmup_steps,
    }
    return launch(job, train_worker, settings, heal_steps)


def train_worker(settings: Settings) -> dict:
    sliced = storage.join(settings["out"], "sliced")
    batch_fn = training.packed_rows(settings)
    learnt = {}
    if not storage.exists(storage.join(sliced, "config.json")):
        learnt = _learn_masks(settings, batch_fn, sliced)
    net = model.load(sliced)
    skipped = settings["mask_loop"]["steps"] * settings["mask_loop"]["rows_per_step"]  # rows that the masks have seen
    pools = data_order.pool_names(settings)
    summary = training.fit_and_save(
        net,
        lambda rows: batch_fn([row + skipped for row in rows]),
        pretrain.loss,
        settings,
        pools=pools,
        validation=training.heldout_text(settings),
    )
    return {**summary, "parameters": model.parameters(net), **learnt}


def _learn_masks(settings: Settings, batch_fn: BatchFn, sliced: str) -> dict:
    net = model.load(settings["model"]).to(device.here())  # the masks are made where it lies
    before = model.parameters(net)
    pruning = Pruning(net, Target(**settings["target"]), settings["warmup_steps"], settings["seed"])
    masks = storage.join(settings["out"], "masks")
    metrics = JsonLines(settings["metrics_uri"].replace(".jsonl", "-masks.jsonl"))
    config = LoopConfig(**settings["mask_loop"])
    with loader.ahead(batch_fn, config) as batches:
        summary = fit(
            net,
            batches,
            pruning.loss_fn(pretrain.loss),
            config,
            masks,
            on_log=metrics,
            extra_params=pruning.extra_params(settings["mask_lr"]),
            after_step=pruning.after_step,
        )
    model.save(pruning.sliced(), None, sliced, settings["context"])
    checkpoint.clear(storage.join(masks, "checkpoints"))
    return {"parameters_before": before, "mask_loss": summary["loss"]}
