"""The one training loop: pre-training, SFT, reward, DPO and pruning are each a batch function and a loss function.

Step s is made of rows s R .. (s + 1) R - 1 (R = `rows_per_step`); rank r of W takes every W-th of them from the r-th, in
micro-batches of `micro_rows`. So the rows of a step, and with them the learning-rate curve, do not depend on the world size.
With `context_parallel` n, a group of n ranks that share their rows counts as one here. With `exact` a rank takes neighbouring
rows, and the sums do not depend on the world size either (train/distributed/exact.py).
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
from typing import Generic, NamedTuple, Protocol, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cluster import storage
from train.batches.decoder import CausalLM, Decoder
from train.batches.parts import Batch, BatchFn, LossFn, Model, Model_contra, on_device
from train.checkpoint import checkpoint
from train.distributed import data_parallel, exact, weights
from train.kernels import adamw, attention, context_parallel, cross_entropy, fp8, layers
from train.loop_config import LoopConfig
from train.monitor import flops, stop
from train.monitor.averages import Averages
from train.monitor.forgetting import warnings
from train.monitor.guard import Guard, Limits
from train.monitor.throughput import Stopwatch

log = logging.getLogger(__name__)

MAX_SKIPS = 10
"""Updates skipped in a row for a loss or gradient that is not finite before the run stops."""


class HeldOut(Protocol[Model_contra]):
    """What is measured while training: `train.monitor.heldout_text.Validation` or `heldout_rows.LossValidation`.

    `start`: what was measured before the first update, plain data; None until `begin`."""

    start: dict | None

    def begin(self, model: Model_contra, precision: str) -> None: ...
    def due(self, step: int, steps: int) -> bool: ...
    def measure(self, model: Model_contra, precision: str) -> dict: ...


def noise_seed(seed: int, step: int, rank: int) -> int:
    """A hash of the three in 64 bits, as a CPU's generator looks at the lower 32 only."""
    return int(np.random.SeedSequence((seed % (1 << 64), step, rank)).generate_state(1, np.uint64)[0])


def fit(
    model: Model,
    batch_fn: BatchFn,
    loss_fn: LossFn[Model],
    config: LoopConfig,
    out_uri: str,
    *,
    device: torch.device | None = None,
    on_log: Callable[[dict], None] | None = None,
    count_fn: Callable[[Batch], Tensor] | None = None,
    extra_params: list[dict] | None = None,
    after_step: Callable[[int, Model], None] | None = None,
    languages: Sequence[str] = (),
    validation: HeldOut[Model] | None = None,
) -> dict:
    """Train `model` (fp32 weights) in place for `config.steps` updates; returns a summary. Call it on every rank.

    Continues from the newest complete checkpoint in `out_uri`/checkpoints; at the same world size on CPU, with
    `config.exact` at any, the result is bit-identical to a run that was never stopped.

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
    device = device or next(model.parameters()).device
    data = _checked_ranks(model, config)
    precision, compiled = place(model, config, device)
    named, groups = named_tensors(model, extra_params or [])
    checkpoints = storage.join(out_uri, "checkpoints")
    tree = exact.Sum(config.rows_per_step, config.micro_rows, *data) if config.exact else None
    with (
        exact.threads(config.exact_threads if config.exact and device.type == "cpu" else None),
        context_parallel.shared(model, config.context_parallel, device) as part,
        checkpoint.Writer(
            checkpoints,
            device,
            config.keep_checkpoints,
            background=config.async_checkpoints,
            on_error=config.checkpoint_errors,
        ) as writer,
    ):
        run = _Run(
            model=model,
            config=config,
            device=device,
            precision=precision,
            batch_fn=batch_fn,
            loss_fn=loss_fn,
            count_fn=count_fn,
            data=data,
            part=part,
            named=named,
            gradients=data_parallel.Gradients(
                model.parameters(), [p for group in groups for p in group["params"]], tree
            ),
            optimizer=adamw.adamw(
                model.named_parameters(),
                lr=config.lr,
                betas=(config.beta1, config.beta2),
                eps=config.eps,
                weight_decay=config.weight_decay,
                extra=groups,
                states=config.optimiser_states,
            ),
            averages=Averages(device, languages, config.exact),
            guard=Guard(Limits(**config.guard), checkpoints) if config.guard else None,
            validation=validation,
            writer=writer,
        )
        start = run.begin()
        while run.progress.step < config.steps:
            update = run.prepare()
            run.backward(update, check_count=run.progress.step == start)
            grad_norm, lr = run.optimise(update)
            if run.went_back(update, grad_norm):
                continue
            run.advance(update)
            if after_step:
                after_step(run.progress.step, model)
            if run.record(lr, grad_norm) and on_log and run.rank == 0:
                on_log(run.progress.record)
            run.keep(update)
    summary: dict = {"steps": config.steps, "tokens": run.progress.tokens, "skipped_steps": run.progress.skipped}
    summary |= {"resumed_from": start, "precision": precision, "compiled": compiled}
    summary |= {"checkpoint_seconds": writer.seconds, "failed_checkpoints": writer.failed}
    if run.guard:
        summary["rollbacks"] = run.guard.rollbacks
    return run.progress.record | summary


def _checked_ranks(model: nn.Module, config: LoopConfig) -> tuple[int, int]:
    """(rank, world) among those that read different rows. Raises ValueError for what the loop cannot train."""
    if any(p.dtype != torch.float32 for p in model.parameters()):
        raise ValueError("The loop trains fp32 weights: load the model in fp32, precision='bf16' gives bf16 products.")
    rank, world = data_parallel.data_rank_world(config.context_parallel)
    leaves = len(exact.leaves(config.rows_per_step, config.micro_rows))
    if config.exact and leaves < world and not rank:
        log.warning(
            "exact: an update has %d leaves of rows, so %d of %d ranks wait; lower micro_rows where it has more rows",
            leaves,
            world - leaves,
            world,
        )
    if (config.rows_per_step < world and not config.exact) or (
        config.parallel == "fsdp" and config.rows_per_step % world
    ):
        raise ValueError(f"rows_per_step {config.rows_per_step} cannot be shared by {world} ranks.")
    return rank, world


def place(model: nn.Module, config: LoopConfig, device: torch.device) -> tuple[str, bool]:
    """Bring `model` to `device`, with the kernels that `config` names: (precision, whether its layers are compiled)."""
    precision = data_parallel.native_precision(device) if config.precision == "auto" else config.precision
    if precision == "fp8":  # of products in decoder layers; all else is as with bf16
        fp8.convert(cast(CausalLM, model), device)
        precision = "bf16"
    data_parallel.choose_algorithms(config.deterministic or config.exact)
    attention.choose(model, config.attention, device, precision, config.context_parallel)
    cross_entropy.choose(model, config.cross_entropy, device)
    layers.checkpoint_activations(model, config.activation_checkpointing)
    compiled = config.compile and layers.compile_layers(model, device)
    if _sharded(config):
        data_parallel.shard(cast(Decoder, model), precision, device, config.shard_within)
    elif not weights.are_missing(model):
        model.to(device)
    weights.fill(model, device)
    return precision, compiled


def _sharded(config: LoopConfig) -> bool:
    return config.parallel == "fsdp" and dist.is_initialized()


class _Update(NamedTuple):
    """One update (from 0) before its first backward pass: this rank's micro-batches and their counts, and what all ranks say."""

    step: int
    left_out: bool
    calls: list[list[int]]  # the rows of the batches
    batches: list[Batch]
    counts: list[float]
    total: float  # what the loss is divided by; from here on of all ranks
    tokens: float
    attended: float
    stopping: bool
    saving: bool


@dataclass(kw_only=True)
class _Run(Generic[Model]):
    """What the phases of an update share: one method a phase, in the order in which `fit` calls them."""

    model: Model
    config: LoopConfig
    device: torch.device
    precision: str  # of autocast
    batch_fn: BatchFn
    loss_fn: LossFn[Model]
    count_fn: Callable[[Batch], Tensor] | None
    data: tuple[int, int]  # (rank, world) among those that read different rows
    part: context_parallel.Part | None
    named: dict[str, Tensor]
    gradients: data_parallel.Gradients
    optimizer: adamw.Optimizer
    averages: Averages
    guard: Guard | None
    validation: HeldOut[Model] | None
    writer: checkpoint.Writer

    def __post_init__(self) -> None:
        self.rank = data_parallel.rank_world()[0]
        self.progress = Progress()
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def begin(self) -> int:
        """Go on from the newest checkpoint or from nothing; returns the updates that are done."""
        resumed = self._restored()
        if self.validation and self.validation.start is None:
            self.validation.begin(self.model, self.precision)
        if self.guard and not resumed:
            self._save()  # there must be something to go back to
        self.stopwatch = Stopwatch(self.device, self.progress.tokens)
        self.model.train()
        return self.progress.step

    def prepare(self) -> _Update:
        """This rank's batches of the next update, and one sum over all ranks of what they must agree on."""
        step, config = self.progress.step, self.config
        left_out = self.guard is not None and self.guard.leaves_out(step)
        began = time.perf_counter()
        calls = [] if left_out else config.micro_batches(step, *self.data)
        batches = [self.batch_fn(rows) for rows in calls]
        if self.part:
            batches = [self.part.of(batch) for batch in batches]
        counts = [float(self.count_fn(batch) if self.count_fn else batch["count"]) for batch in batches]
        tokens = sum(batch["input_ids"].numel() for batch in batches if "input_ids" in batch)
        # each rank of a row counts all that it attends to
        attended = sum(flops.attended(batch) for batch in batches) / config.context_parallel
        self.stopwatch.data_seconds += time.perf_counter() - began
        asked = (stop.requested.is_set(), stop.checkpoint_wanted.is_set())
        mine = [sum(counts), tokens, attended, *asked, *self.writer.state()]
        totals = data_parallel.sum_over_ranks(mine, self.device)
        count, all_tokens, all_attended, stopping, saving, busy, failed = totals
        self.writer.settle(busy, failed)
        agreed = (max(count, 1.0), all_tokens, all_attended, bool(stopping), bool(saving))
        return _Update(step, left_out, calls, batches, counts, *agreed)

    def backward(self, update: _Update, check_count: bool) -> None:
        """Gradients of the loss of all ranks' rows: a sum, and the count that it has to be divided by."""
        # Seeded anew each step, so dropout and noise are the same after a resume; they differ between ranks, or between
        # micro-batches where these are the same on any rank.
        torch.manual_seed(noise_seed(self.config.seed, update.step, self.rank))
        self.gradients.zero()
        self.averages.begin_step()
        last = len(update.batches) - 1
        for i, (batch, count) in enumerate(zip(update.batches, update.counts, strict=True)):
            if self.config.exact:
                torch.manual_seed(noise_seed(self.config.seed, update.step, update.calls[i][0]))
            if self.config.shard_within and i in {0, last}:
                data_parallel.sum_over_groups(self.model, i == last)
            with self.autocast:
                here = on_device(batch, self.device) | {"step": torch.tensor(update.step)}
                parts = self.loss_fn(self.model, here)
            if check_count and float(parts.count) != count:
                raise ValueError(f"The batch counts {count:g}, but its loss function counts {float(parts.count):g}.")
            parts.loss_sum.backward()
            self.gradients.loss += parts.loss_sum.detach()
            self.averages.add(parts)
            self.gradients.added(i)
        if not update.left_out:
            self.gradients.reduce(update.total)

    def optimise(self, update: _Update) -> tuple[float, float]:
        """Clip and take the optimiser's step, or skip the update where a gradient is not finite: (gradient norm, rate)."""
        grad_norm = 0.0 if update.left_out else self.gradients.norm()
        lr = adamw.set_learning_rate(self.optimizer, update.step, self.config)
        progress = self.progress
        if update.left_out:
            progress.skipped += 1
        elif math.isfinite(grad_norm):
            clipped = self.config.clip and grad_norm > self.config.clip
            adamw.step(self.optimizer, self.gradients.divisor(self.config.clip / grad_norm if clipped else 1.0))
            self.averages.end_step()
            progress.skips_in_a_row = 0
        else:
            progress.skipped, progress.skips_in_a_row = progress.skipped + 1, progress.skips_in_a_row + 1
            log.warning("step %d: loss or gradient is not finite; the update is skipped", update.step + 1)
            if progress.skips_in_a_row == MAX_SKIPS:
                raise FloatingPointError(
                    f"The loss or its gradient was not finite in {MAX_SKIPS} updates in a row, up to {update.step + 1}; "
                    "lower the learning rate or look at the data of these steps."
                )
        return grad_norm, lr

    def went_back(self, update: _Update, grad_norm: float) -> bool:
        """Whether the guard has sent the run back to an earlier checkpoint."""
        guard, step = self.guard, update.step
        if not guard or update.left_out or not guard.due(loss := float(self.gradients.loss), grad_norm):
            return False
        self.writer.finish()
        note = guard.note(step, loss, grad_norm)
        if not (self._restored(note["from"] - 1) or self._restored(step)):
            raise FloatingPointError(f"The loss was {loss:g} at update {step + 1}, and no checkpoint is left.")
        guard.went_back(note, self.progress.step)
        self.stopwatch.restart(self.progress.tokens)
        return True

    def advance(self, update: _Update) -> None:
        self.progress.step = update.step + 1
        self.progress.tokens += int(update.tokens)
        self.progress.pairs += round(update.attended)

    def record(self, lr: float, grad_norm: float) -> bool:
        """Make the record of the updates since the last one, where one is due, and say whether it was."""
        progress, config, step = self.progress, self.config, self.progress.step
        validation = self.validation if self.validation and self.validation.due(step, config.steps) else None
        if step % config.log_every and step != config.steps and not validation:
            return False
        means = self.averages.means()
        progress.record = {
            "step": step,
            "loss": means.pop("loss"),
            "lr": lr,
            "grad_norm": grad_norm,
            "tokens": progress.tokens,
            "attended_per_token": progress.pairs / max(progress.tokens, 1),
            "skipped_steps": progress.skipped,
            **means,
            **self.stopwatch.fields(progress.tokens),
        }
        if validation:
            progress.record |= validation.measure(self.model, self.precision)
        self.stopwatch.restart(progress.tokens)
        for sentence in warnings(progress.record) if self.rank == 0 else ():
            log.warning("%s", sentence)
        return True

    def keep(self, update: _Update) -> None:
        """Write a checkpoint where one is due or asked for. Raises `stop.Stopped` where a rank was asked to stop."""
        step, every = self.progress.step, self.config.checkpoint_every
        healthy = every and not (self.guard and self.guard.bad)
        if healthy and (update.stopping or update.saving or step % every == 0):
            self._save()
            stop.checkpoint_wanted.clear()
        if update.stopping:
            self.writer.finish()
            raise stop.Stopped(f"stopped after update {step} of {self.config.steps}")

    def _restored(self, at_most: int | None = None) -> bool:
        """Go to the newest checkpoint of at most `at_most` updates; False without one."""
        newest = checkpoint.load_newest(self.writer.uri, adamw.state_tensors(self.optimizer, self.named), at_most)
        if newest is None:
            return False
        self.progress = Progress(**{field.name: newest.meta[field.name] for field in dataclasses.fields(Progress)})
        adamw.set_updates(self.optimizer, self.progress.step - self.progress.skipped)
        self.averages.restore(newest.meta["window"])
        if self.validation:  # a checkpoint has none where it was not measured then
            self.validation.start = newest.meta["validation"] or self.validation.start
        if self.guard:
            self.guard.restore(newest.meta["guard"])
        return True

    def _save(self) -> None:
        more: dict = {"window": self.averages.reduced(), "guard": self.guard.state() if self.guard else []}
        if config_of_model := getattr(self.model, "config", None):
            more["config"] = config_of_model.to_dict()  # so that train/export/convert.py needs nothing else
        more["validation"] = self.validation.start if self.validation else None
        tensors = adamw.state_tensors(self.optimizer, self.named)
        self.writer.save(self.progress.step, tensors, dataclasses.asdict(self.progress) | more)


@dataclass
class Progress:
    """What a checkpoint knows of a run besides its tensors: `step` updates are done; `pairs` are those of positions of which
    one attends to the other."""

    step: int = 0
    tokens: int = 0
    pairs: int = 0
    skipped: int = 0
    skips_in_a_row: int = 0
    record: dict = field(default_factory=dict)


def named_tensors(model: nn.Module, extra: list[dict]) -> tuple[dict[str, Tensor], list[dict]]:
    """What a checkpoint holds of the model and the extra parameters, by name; the extra groups in torch's form."""
    tied = dict(model.named_parameters(remove_duplicate=False))
    named: dict[str, Tensor] = {f"model/{name}": p for name, p in model.named_parameters()}
    named |= {f"buffer/{name}": b for name, b in model.state_dict().items() if name not in tied and b.ndim}
    groups = []
    for group in extra:
        named |= {f"extra/{name}": p for name, p in group["params"].items()}
        groups.append({**group, "params": list(group["params"].values())})
    return named, groups
