"""dpo/off_policy: existing preference pairs; dpo/on_policy, dpo/on_policy_2, …: pairs from the policy's own answers.

Sailor2 section 5.2. Which pairs those are says `ray_jobs/alignment/pairs.py`. Each round is a stage: its answers are sampled
from the model of the round before, which is also what it starts from and its reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from cluster import storage
from ray_jobs.alignment import chats, held_out, pairs
from ray_jobs.alignment.probe_records import SNAPSHOTS
from ray_jobs.run.graph import OFF_POLICY, rounds
from ray_jobs.run.job import Job
from ray_jobs.training import fit
from ray_jobs.training.tokenizer import load_tokenizer, tokenizer_of
from ray_jobs.work import device
from ray_jobs.work.trainer import launch
from train import model
from train.batches import examples
from train.batches.decoder import Decoder
from train.batches.parts import BatchFn, LossFn
from train.distributed import data_parallel, weights
from train.methods import dpo
from train.monitor.heldout_rows import LossValidation
from train.preference_losses.table import LOSSES


class Settings(fit.Settings):
    model: str  # that the round starts from, and its reference
    rows: str
    snapshot_every: int  # updates; 0: none
    eval_every: int
    eval_rows: int  # of each language
    objective: dict[str, Any]  # fields of an Objective


def run(job: Job) -> dict:
    recipe = job.dpo
    start = job.input(job.stage.inputs[0], "model")  # the SFT model, or that of the round before
    if job.stage.name == OFF_POLICY:
        rows, facts = pairs.off_policy(job)
        chats.write_rows(job.path("pairs.jsonl"), rows)
    else:
        number = rounds(job.recipe).index(job.stage.name)
        rows, facts = pairs.on_policy(job, start, seed=job.seed + number)
    if not rows:  # a policy whose answers are all alike, or all in the wrong language, has nothing to learn from
        tokenizer = load_tokenizer(tokenizer_of(job))
        model.save(model.load(start), tokenizer, job.path("model"), fit.saved_context(job))
        return {"pairs": 0, "note": "no pair was left, so the model is that of the round before", **facts}
    own = {name: getattr(recipe, name) for name in LOSSES[recipe.loss].numbers}
    settings: Settings = {
        **fit.settings(job, fit.loop_config(job, recipe.optimiser)),
        "model": start,
        "rows": job.path("pairs.jsonl"),
        "snapshot_every": recipe.watch.every if recipe.watch else 0,
        "eval_every": recipe.eval_every,
        "eval_rows": recipe.eval_rows_per_language,
        "objective": {"loss": recipe.loss, "beta": recipe.beta, **own},
    }
    result = launch(job, train_worker, settings)
    return {"pairs": len(rows), "per_language": chats.per_language(rows), **facts, **result}


def train_worker(settings: Settings) -> dict:
    tokenizer = load_tokenizer(settings)
    rows, unseen = held_out.split(chats.read_rows(settings["rows"]), settings["eval_every"], settings["eval_rows"])
    measured, _ = dpo.encode_pairs(tokenizer, unseen, settings["context"])
    encoded, not_fitting = dpo.encode_pairs(tokenizer, rows, settings["context"])
    objective = dpo.Objective(**settings["objective"])
    cached: np.ndarray | None = None
    measured_cached: np.ndarray | None = None
    if LOSSES[objective.loss].reference:
        cached, measured_cached = _reference(settings, encoded, measured)
    policy = fit.start_model(settings)
    steps = examples.steps(len(encoded.chosen), 1, settings["loop"]["rows_per_step"])
    settings["loop"] = fit.with_steps(settings["loop"], steps)
    batch_fn = dpo.batch_fn(encoded, cached, settings["seed"])
    loss_fn = dpo.loss_fn(objective)
    validation = _validation(measured, measured_cached, loss_fn, settings)
    snapshot = _snapshots(settings, tokenizer)
    summary = fit.fit_and_save(policy, batch_fn, loss_fn, settings, validation=validation, after_step=snapshot)
    return {**summary, "left_out": len(not_fitting)}


def _reference(settings: Settings, *of: dpo.Pairs) -> list[np.ndarray | None]:
    """Log-probabilities of pairs under the model that the round starts from, computed as the policy's are
    (train/kernels/precision.py). Matrices that FSDP would gather in bf16 are held so: 2 bytes a parameter, the same numbers."""
    loop, where = settings["loop"], device.here()
    precision = data_parallel.native_precision(where) if loop["precision"] == "auto" else loop["precision"]
    frozen = fit.start_model(settings)
    if precision == "bf16" and loop["parallel"] == "fsdp" and dist.is_initialized():
        for p in frozen.parameters():
            if p.ndim > 1:
                p.data = p.data.to(torch.bfloat16)
    weights.fill(frozen, where)
    frozen.to(where)
    return [dpo.reference_logprobs(frozen, pairs, settings["out"], precision) if pairs.chosen else None for pairs in of]


def _snapshots(settings: Settings, tokenizer) -> Callable[[int, Decoder], None] | None:
    """What `fit` calls after each update, on every rank: models on the way for dpo/watch; the last is the stage's own model."""
    every, steps = settings["snapshot_every"], settings["loop"]["steps"]

    def snapshot(step: int, net: Decoder) -> None:
        if step % every == 0 and step < steps:
            model.save(
                net, tokenizer, storage.join(settings["out"], SNAPSHOTS, f"{step:06d}"), settings["saved_context"]
            )

    return snapshot if every else None


def _validation(
    measured: dpo.Pairs, cached: np.ndarray | None, loss_fn: LossFn, settings: Settings
) -> LossValidation | None:
    """The held-out pairs; `cached`: their log-probabilities under the reference."""

    def rows_of(indices: list[int]) -> tuple[BatchFn, int]:
        some = dpo.Pairs(*([side[i] for i in indices] for side in measured))
        return dpo.batch_fn(some, None if cached is None else cached[:, indices], settings["seed"]), len(indices)

    metrics = {"accuracy": "validation_accuracy", "reward_margin": "validation_margin"}
    return held_out.validation([pair.lang for pair in measured.chosen], rows_of, loss_fn, settings, metrics)
