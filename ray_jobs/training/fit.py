"""What the training jobs share: loop settings from the recipe, packed rows from token stores, and saving the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from cluster import storage
from mixture.order.sampler import rows
from mixture.store.long_documents import SIGN
from ray_jobs.config.optimiser import Optimiser
from ray_jobs.run.graph import lengthened
from ray_jobs.run.job import Job
from ray_jobs.training import data_order, watch
from ray_jobs.training.tokenizer import TokenizerSetting, load_tokenizer, tokenizer_of
from ray_jobs.work import device
from train import loader, model
from train.bases.rotation import Rotation
from train.batches.decoder import CausalLM, Decoder
from train.batches.parts import BatchFn, LossFn
from train.checkpoint import checkpoint
from train.loop import HeldOut, LoopConfig, fit
from train.monitor.forgetting import warnings
from train.monitor.heldout_text import Validation

SPLIT = ("base", "pretrain", "control", "long_context", "sft")  # stages whose loss is a sum over tokens of packed rows
Model = TypeVar("Model", bound=Decoder)

LOG_RECORDS = 60  # about so many points per loss curve


class Settings(TokenizerSetting):
    """What every training worker needs."""

    loop: dict[str, Any]  # fields of a LoopConfig; its steps may come later (`with_steps`)
    out: str
    context: int
    saved_context: int  # what the saved model is said to be trained for
    seed: int
    watch: watch.WatchSettings
    metrics_uri: str


class StartSettings(Settings):
    model: str  # that a stage starts from


class PackedSettings(Settings):
    """The same of a stage that reads the mixture: with the order of its rows (`data_order.OrderOfPools`)."""

    pools: str
    sample_seed: int
    rows_per_step: int
    schedule: list[dict]
    removed: list[dict]


def loop_config(job: Job, optimiser: Optimiser, steps: int | None = None) -> dict[str, Any]:
    """The fields of a `LoopConfig` as plain data; `steps` may be set later by `with_steps`, when the rows are known."""
    train, kind = job.train, job.stage.name.split("/")[0]
    beyond_varlen = train.attention == "varlen" and kind == "dpo"  # the answers of a pair share their prompt
    loop = {
        **optimiser.model_dump(),
        "seed": job.seed,
        # a reference's log-probabilities, and what scores answers, are of bf16 products
        "precision": "bf16" if train.precision == "fp8" and kind not in SPLIT else train.precision,
        "parallel": train.parallel,
        "shard_within": train.shard_within,
        "optimiser_states": train.optimiser_states,
        "attention": "auto" if beyond_varlen else train.attention,
        "cross_entropy": train.cross_entropy,
        "activation_checkpointing": train.activation_checkpointing,
        "compile": train.compile,
        "deterministic": train.deterministic,
        "exact": train.exact,
        "exact_threads": train.exact_threads,
        "async_checkpoints": train.checkpoints.asynchronous,
        "keep_checkpoints": train.checkpoints.keep,
        "checkpoint_errors": train.checkpoints.on_error,
        "guard": train.guard and train.guard.model_dump(),
        "context_parallel": train.context_parallel if kind in SPLIT else 1,
    }
    return with_steps(loop, steps) if steps else loop


def with_steps(loop: dict[str, Any], steps: int) -> dict[str, Any]:
    """`loop` for `steps` updates."""
    warmup = min(loop["warmup_steps"], steps)
    return {**loop, "steps": steps, "warmup_steps": warmup, "log_every": max(1, steps // LOG_RECORDS)}


def steps_for(tokens: int, rows_per_step: int, context: int) -> int:
    """Updates that read at least `tokens`."""
    return max(1, math.ceil(tokens / (rows_per_step * context)))


def settings(job: Job, loop: dict[str, Any]) -> Settings:
    """The settings of the stage of `job` that all stages have."""
    return {
        "loop": loop,
        "out": job.path(),
        "context": job.train.context,
        "saved_context": saved_context(job),
        **tokenizer_of(job),
        "seed": job.seed,
        "watch": watch.settings(job),
        "metrics_uri": job.metrics_uri,
    }


def saved_context(job: Job) -> int:
    """The positions that the model of this stage is for: those of the longest rows that it, or what it is made of, has read."""
    own = lengthened(job.recipe, job.stage.name)
    return own.context if own else job.train.context


def packed_rows(settings: data_order.OrderOfPools) -> BatchFn:
    """Row numbers to packed rows as `data_order.settle` has said in `settings`: row i is sample i, at any world size."""
    sampler = data_order.sampler(settings, settings["pools"])

    def batch(numbers: list[int]) -> dict[str, torch.Tensor]:
        arrays = rows(sampler, numbers)
        # Counted by numpy: torch would start threads of its own in each thread of the loader.
        count = torch.tensor(int(np.count_nonzero(arrays["labels"] >= 0)))
        return {name: torch.from_numpy(value) for name, value in arrays.items()} | {"count": count}

    return batch


def heldout_text(settings: Settings) -> Validation | None:
    """What a stage that reads the mixture is measured by while it trains."""
    return watch.validation(settings["watch"], settings["context"], load_tokenizer(settings))


def start_model(settings: StartSettings, rotation: Rotation | None = None) -> CausalLM:
    """The model that a stage starts from, with another `rotation` where one is given. Of several workers one reads the weights,
    a tensor at a time, when the model lies where it is trained (train/distributed/weights.py); so no node holds a copy for each
    of its workers."""
    return started_from(settings["model"], rotation)


def started_from(folder: str, rotation: Rotation | None = None, dtype: torch.dtype = torch.float32) -> CausalLM:
    """The same of the model in a folder (URI)."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        return model.on_meta(folder, dtype, rotation)
    return model.load(folder, dtype, rotation)


def fit_and_save(
    net: Model,
    batch_fn: BatchFn,
    loss_fn: LossFn[Model],
    settings: Settings,
    *,
    pools: Sequence[str] = (),
    validation: HeldOut[Model] | None = None,
    after_step: Callable[[int, Model], None] | None = None,
    finish: Callable[[Model], None] | None = None,
) -> dict:
    """Train, save the Hugging Face folder `<out>/model`, drop the checkpoints. Returns the loop's summary.

    `finish` makes of the trained model, on every rank, the one that is saved.

    `pools` are those of a stage that reads the mixture: its loss is told by language."""
    config, to = LoopConfig(**settings["loop"]), device.here()
    tokenizer, context = load_tokenizer(settings), settings["context"]
    languages = [pool.split("/")[-1].split(SIGN)[0] for pool in pools]
    curves, loop = settings["metrics_uri"], settings["loop"]
    with (
        watch.reporting(net, settings["watch"], metrics_uri=curves, context=context, config=loop, device=to) as on_log,
        loader.ahead(batch_fn, config) as batches,
    ):
        summary = fit(
            net,
            batches,
            loss_fn,
            config,
            settings["out"],
            device=to,
            on_log=on_log,
            after_step=after_step,
            languages=languages,
            validation=validation,
        )
    if finish:
        finish(net)
    model.save(net, tokenizer, storage.join(settings["out"], "model"), settings["saved_context"])
    checkpoint.clear(storage.join(settings["out"], "checkpoints"))
    stage = curves.rsplit("/", 1)[-1].removesuffix(".jsonl")
    return {**summary, "warnings": [f"{stage}: {said}" for said in warnings(summary)]}


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
