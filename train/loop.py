"""The one training loop: pre-training, SFT, reward, DPO and pruning are each a batch function and a loss function.

Step s is made of rows s R .. (s + 1) R - 1 (R = `rows_per_step`); rank r of W takes every W-th of them from the r-th, in
micro-batches of `micro_rows`. So the rows of a step, and with them the learning-rate curve, do not depend on the world size.
With `context_parallel` n, a group of n ranks that share their rows counts as one here.
The loss of a step is the sum over all its rows divided by their global count, known before the first backward pass because
the batches of a step are built first. Gradients of replicated parameters live in one flat fp32 buffer that is summed over
ranks in one call; with `parallel="fsdp"` parameters and gradients are sharded by FSDP2 instead.

Runs under Ray Train, under torchrun (torch.distributed initialised by the caller) and in one plain process.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cluster import storage
from train.batches.parts import Batch, BatchFn, LossFn, micro_batches
from train.checkpoint import checkpoint
from train.distributed import data_parallel
from train.kernels import adamw, attention, context_parallel, layers, liger
from train.loop_config import LoopConfig
from train.monitor import flops, stop
from train.monitor.averages import Window
from train.monitor.forgetting import warnings
from train.monitor.guard import Guard, Limits
from train.monitor.heldout_text import Validation
from train.monitor.throughput import Stopwatch

if TYPE_CHECKING:
    from train.monitor.heldout_rows import LossValidation

log = logging.getLogger(__name__)

MAX_SKIPS = 10
"""Updates skipped in a row for a loss or gradient that is not finite before the run stops."""


def noise_seed(seed: int, step: int, rank: int) -> int:
    """A hash of the three in 64 bits, as a CPU's generator looks at the lower 32 only."""
    return int(np.random.SeedSequence((seed % (1 << 64), step, rank)).generate_state(1, np.uint64)[0])


def on_device(batch: Batch, device: torch.device) -> Batch:
    """`batch` on `device`, without waiting for what a GPU still has to do: it copies from page-locked memory only so."""
    if device.type == "cuda":
        batch = {name: value.pin_memory() for name, value in batch.items()}
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def fit(
    model: nn.Module,
    batch_fn: BatchFn,
    loss_fn: LossFn,
    config: LoopConfig,
    out_uri: str,
    *,
    device: torch.device | None = None,
    on_log: Callable[[dict], None] | None = None,
    count_fn: Callable[[Batch], Tensor] | None = None,
    extra_params: list[dict] | None = None,
    after_step: Callable[[int, nn.Module], None] | None = None,
    languages: Sequence[str] = (),
    validation: Validation | LossValidation | None = None,
) -> dict:
    """Train `model` (fp32 weights) in place for `config.steps` updates; returns a summary. Call it on every rank.

    Continues from the newest complete checkpoint in `out_uri`/checkpoints; at the same world size on CPU the result is
    bit-identical to a run that was never stopped.

    - `device` is where it is trained; left out, where the model is.
    - `on_log(record)` on rank 0 every `log_every` steps and at the last one: step (1-based: updates done), loss (mean since
      the last record), lr, grad_norm (before clipping), tokens (seen so far), attended_per_token (mean number of positions
      that a position attends to), skipped_steps, the metrics, and the fields of `train.monitor.throughput.Stopwatch`. A resumed
      run repeats the records after its checkpoint.
    - `count_fn(batch)` replaces `batch["count"]`.
    - `extra_params`: parameters that are not the model's, as optimiser groups {"params": {name: Parameter}, "lr": …, and
      optionally "maximize": True, "weight_decay", "betas", "constant_lr": True (else the lr follows the schedule)}. They are
      kept in the checkpoint, and left out of the gradient norm and of clipping.
    - `after_step(step, model)` after every update, `step` counted from 1.
    - `languages[p]` is the language of pool p of `LossParts.rows`: records get `loss_by_language`.
    - `validation` is measured before the first update and whenever it is due, which adds its fields to a record.

    Raises FloatingPointError after `MAX_SKIPS` updates in a row with a loss or gradient that is not finite, and
    `train.monitor.stop.Stopped` when a rank is asked to stop; the updates until then are in a checkpoint (unless there are none).
    """
    rank = data_parallel.rank_world()[0]
    if any(p.dtype != torch.float32 for p in model.parameters()):
        raise ValueError("The loop trains fp32 weights: load the model in fp32, precision='bf16' gives bf16 products.")
    data = data_parallel.data_rank_world(config.context_parallel)
    if config.rows_per_step < data[1] or (config.parallel == "fsdp" and config.rows_per_step % data[1]):
        raise ValueError(f"rows_per_step {config.rows_per_step} cannot be shared by {data[1]} ranks.")
    device = device or next(model.parameters()).device
    precision = data_parallel.native_precision(device) if config.precision == "auto" else config.precision
    fsdp = config.parallel == "fsdp" and dist.is_initialized()
    data_parallel.choose_algorithms(config.deterministic)
    attention.choose(model, config.attention, device, precision, config.context_parallel)
    if config.cross_entropy == "liger":
        liger.require(device)
        model.cross_entropy = "liger"
    layers.checkpoint_activations(model, config.activation_checkpointing)
    compiled = config.compile and layers.compile_layers(model, device)
    if fsdp:
        data_parallel.shard(model, precision, device)
    else:
        model.to(device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16" and not fsdp)
    named, groups = named_tensors(model, extra_params or [])
    gradients = data_parallel.Gradients(model.parameters(), [p for group in groups for p in group["params"]])
    optimizer = adamw.adamw(
        model.named_parameters(),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        extra=groups,
        states=config.optimiser_states,
    )
    window = Window(device, languages)
    checkpoints = storage.join(out_uri, "checkpoints")
    progress, start = Progress(), 0
    guard = Guard(Limits(**config.guard), checkpoints) if config.guard else None

    def restore(at_most: int | None = None) -> bool:
        nonlocal progress
        newest = checkpoint.load_newest(checkpoints, adamw.state_tensors(optimizer, named), at_most)
        if newest is None:
            return False
        progress = Progress(**{field.name: newest.meta[field.name] for field in dataclasses.fields(Progress)})
        adamw.set_updates(optimizer, progress.step - progress.skipped)
        window.restore(newest.meta["window"])
        if validation:
            validation.start = newest.meta["validation"] or validation.start  # none where it was not measured then
        if guard:
            guard.restore(newest.meta["guard"])
        return True

    def save() -> None:
        more = {"window": window.reduced(), "guard": guard.state() if guard else []}
        if config_of_model := getattr(model, "config", None):
            more["config"] = config_of_model.to_dict()  # so that train/export/convert.py needs nothing else
        more["validation"] = validation.start if validation else None
        writer.save(progress.step, adamw.state_tensors(optimizer, named), dataclasses.asdict(progress) | more)

    with (
        context_parallel.shared(model, config.context_parallel, device) as part,
        checkpoint.Writer(
            checkpoints,
            device,
            config.keep_checkpoints,
            background=config.async_checkpoints,
            on_error=config.checkpoint_errors,
        ) as writer,
    ):
        resumed = restore()
        start = progress.step
        outside = "fp32" if fsdp else precision  # FSDP casts by itself
        if validation and validation.start is None:
            validation.begin(model, outside)
        if guard and not resumed:
            save()  # there must be something to go back to
        watch = Stopwatch(device, progress.tokens)
        model.train()
        while progress.step < config.steps:
            step = progress.step
            left_out = guard is not None and guard.leaves_out(step)
            data_began = time.perf_counter()
            calls = [] if left_out else micro_batches(step, config.rows_per_step, config.micro_rows, *data)
            batches = [batch_fn(rows) for rows in calls]
            if part:
                batches = [part.of(batch) for batch in batches]
            counts = [float(count_fn(batch) if count_fn else batch["count"]) for batch in batches]
            tokens = sum(batch["input_ids"].numel() for batch in batches if "input_ids" in batch)
            pairs = sum(flops.attended(batch) for batch in batches)
            pairs /= config.context_parallel  # each rank of a row counts all of its pairs
            watch.data_seconds += time.perf_counter() - data_began
            asked = (stop.requested.is_set(), stop.checkpoint_wanted.is_set())
            totals = data_parallel.sum_over_ranks([sum(counts), tokens, pairs, *asked, *writer.state()], device)
            count, tokens, pairs, stopping, saving, *writing = totals
            writer.settle(*writing)
            count = max(count, 1.0)

            # Seeded anew each step, so dropout and noise are the same after a resume; they differ between ranks.
            torch.manual_seed(noise_seed(config.seed, step, rank))
            gradients.zero()
            window.begin_step()
            for batch, local_count in zip(batches, counts, strict=True):
                with autocast:
                    parts = loss_fn(model, on_device(batch, device) | {"step": torch.tensor(step)})
                if step == start and float(parts.count) != local_count:
                    raise ValueError(
                        f"The batch counts {local_count:g}, but its loss function counts {float(parts.count):g}."
                    )
                parts.loss_sum.backward()
                gradients.loss += parts.loss_sum.detach()
                window.add(parts)
            gradients.reduce(count)

            grad_norm = 0.0 if left_out else gradients.norm()
            lr = adamw.set_learning_rate(optimizer, step, config)
            if left_out:
                progress.skipped += 1
            elif math.isfinite(grad_norm):
                if config.clip and grad_norm > config.clip:
                    gradients.scale(config.clip / grad_norm)
                optimizer.step()
                window.end_step()
                progress.skips_in_a_row = 0
            else:
                progress.skipped, progress.skips_in_a_row = progress.skipped + 1, progress.skips_in_a_row + 1
                log.warning("step %d: loss or gradient is not finite; the update is skipped", step + 1)
                if progress.skips_in_a_row == MAX_SKIPS:
                    raise FloatingPointError(
                        f"The loss or its gradient was not finite in {MAX_SKIPS} updates in a row, up to {step + 1}; "
                        "lower the learning rate or look at the data of these steps."
                    )
            if guard and not left_out and guard.due(loss := float(gradients.loss), grad_norm):
                writer.finish()
                note = guard.note(step, loss, grad_norm)
                if not (restore(note["from"] - 1) or restore(step)):
                    raise FloatingPointError(f"The loss was {loss:g} at update {step + 1}, and no checkpoint is left.")
                guard.went_back(note, progress.step)
                watch.restart(progress.tokens)
                continue
            progress.step, progress.tokens = step + 1, progress.tokens + int(tokens)
            progress.pairs += round(pairs)
            if after_step:
                after_step(step + 1, model)

            validating = validation is not None and validation.due(step + 1, config.steps)
            if (step + 1) % config.log_every == 0 or step + 1 == config.steps or validating:
                means = window.means()
                progress.record = {
                    "step": step + 1,
                    "loss": means.pop("loss"),
                    "lr": lr,
                    "grad_norm": grad_norm,
                    "tokens": progress.tokens,
                    "attended_per_token": progress.pairs / max(progress.tokens, 1),
                    "skipped_steps": progress.skipped,
                    **means,
                    **watch.fields(progress.tokens),
                }
                if validating:
                    progress.record |= validation.measure(model, outside)
                watch.restart(progress.tokens)
                for sentence in warnings(progress.record) if rank == 0 else ():
                    log.warning("%s", sentence)
                if on_log and rank == 0:
                    on_log(progress.record)
            healthy = config.checkpoint_every and not (guard and guard.bad)
            if healthy and (stopping or saving or progress.step % config.checkpoint_every == 0):
                save()
                stop.checkpoint_wanted.clear()
            if stopping:
                writer.finish()
                raise stop.Stopped(f"stopped after update {step + 1} of {config.steps}")
    summary = {"steps": config.steps, "tokens": progress.tokens, "skipped_steps": progress.skipped}
    summary |= {"resumed_from": start, "precision": precision, "compiled": compiled}
    summary |= {"checkpoint_seconds": writer.seconds, "failed_checkpoints": writer.failed}
    if guard:
        summary["rollbacks"] = guard.rollbacks
    return progress.record | summary


@dataclass
class Progress:
    """What a checkpoint knows of a run besides its tensors: `step` updates are done."""

    step: int = 0
    tokens: int = 0
    pairs: int = 0
    skipped: int = 0
    skips_in_a_row: int = 0
    record: dict = field(default_factory=dict)


def named_tensors(model: nn.Module, extra: list[dict]) -> tuple[dict[str, Tensor], list[dict]]:
    """What a checkpoint holds of the model and the extra parameters, by name; the extra groups in torch's form."""
    tied = dict(model.named_parameters(remove_duplicate=False))
    named = {f"model/{name}": p for name, p in model.named_parameters()}
    named |= {f"buffer/{name}": b for name, b in model.state_dict().items() if name not in tied and b.ndim}
    groups = []
    for group in extra:
        named |= {f"extra/{name}": p for name, p in group["params"].items()}
        groups.append({**group, "params": list(group["params"].values())})
    return named, groups
