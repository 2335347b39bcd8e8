"""The settings of one run of the training loop (train/loop.py), and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass

from train.batches import parts
from train.distributed import exact
from train.kernels import adamw, attention, layers
from train.kernels.cross_entropy import KERNELS


@dataclass(frozen=True)
class LoopConfig:
    """One run. `steps`, `warmup_steps` and `decay_steps` (of wsd) count updates; `micro_rows` rows fit in memory.

    `precision`: "fp32", "bf16" (fp32 weights, bf16 matrix products by autocast), "auto": bf16 where the hardware multiplies it
    natively, or "fp8": bf16 with fp8 products in the decoder layers (train/kernels/fp8.py). `parallel`: "replicate" or "fsdp".
    `checkpoint_every` = 0 writes no checkpoint; `async_checkpoints` writes them while training goes on; `checkpoint_errors`
    is what a full disk does: "stop" the run or "warn". `guard` has the fields of `train.guard.Limits`; None is no guard.
    `shard_within`: with "fsdp", groups of so many neighbouring ranks have the model between them; None is all of them.
    `context_parallel` neighbouring ranks share the positions of each row (train/kernels/context_parallel.py).
    `optimiser_states`: "fp32", or "8bit" for Adam's moments in 2 bytes a parameter (train/kernels/adamw_8bit.py).
    `attention`: "auto" or another of `train.attention.BACKENDS`; `cross_entropy`: another of
    `train.kernels.cross_entropy.KERNELS`, or "auto": "liger" (train/kernels/liger.py) on a GPU where it is installed.
    `activation_checkpointing`: "none", "selective" or "full"; `compile`: each decoder layer, where that works (both
    train/kernels/layers.py). `deterministic`: only algorithms that give the same bits each time, also on a GPU.
    `exact`: that too, and gradients are summed in a fixed tree (train/distributed/exact.py), by `exact_threads` threads of each
    rank on a CPU, so that weights have the same bits at any number of ranks.
    """

    steps: int
    rows_per_step: int
    micro_rows: int
    lr: float
    schedule: str = "constant"
    warmup_steps: int = 0
    min_lr: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 0
    keep_checkpoints: int = 2
    precision: str = "fp32"
    parallel: str = "replicate"
    decay_steps: int = 0
    async_checkpoints: bool = True
    checkpoint_errors: str = "stop"
    guard: dict | None = None
    optimiser_states: str = "fp32"
    attention: str = "auto"
    cross_entropy: str = "auto"
    activation_checkpointing: str = "none"
    compile: bool = False
    deterministic: bool = False
    exact: bool = False
    exact_threads: int = 1
    context_parallel: int = 1
    shard_within: int | None = None

    def __post_init__(self) -> None:
        counts = ("steps", "rows_per_step", "micro_rows", "log_every", "keep_checkpoints", "context_parallel")
        for name in (*counts, "exact_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not self.lr > 0:
            raise ValueError(f"lr must be above 0, not {self.lr}.")
        for name, allowed in (
            ("schedule", adamw.SCHEDULES),
            ("precision", ("fp32", "bf16", "auto", "fp8")),
            ("parallel", ("replicate", "fsdp")),
            ("checkpoint_errors", ("stop", "warn")),
            ("activation_checkpointing", layers.CHECKPOINTING),
            ("optimiser_states", adamw.STATES),
            ("attention", attention.BACKENDS),
            ("cross_entropy", KERNELS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}.")
        if self.shard_within is not None and (self.parallel != "fsdp" or self.shard_within < 1):
            raise ValueError('shard_within needs parallel "fsdp" and must be at least 1.')
        if self.guard and not self.checkpoint_every:
            raise ValueError("guard goes back to checkpoints, so checkpoint_every must be above 0.")
        if self.guard and self.keep_checkpoints < 2:
            raise ValueError("guard may need the checkpoint before the last, so keep_checkpoints must be at least 2.")
        if self.exact and (self.parallel == "fsdp" or self.context_parallel > 1):
            key, instead = ("context_parallel", "1") if self.context_parallel > 1 else ("parallel", "replicate")
            raise ValueError(
                f"exact sums whole gradients of whole rows, which {key} {getattr(self, key)} cuts among ranks; set {key} to "
                f"{instead}, or exact to False."
            )
        if self.exact and self.compile:
            raise ValueError(
                "exact wants the same kernels on each rank, and compile chooses them by what a rank has seen; set one."
            )
        if self.warmup_steps + self.decay_steps > self.steps:
            raise ValueError(f"warmup_steps + decay_steps must not exceed the {self.steps} steps of the run.")

    def micro_batches(self, step: int, rank: int, world: int) -> list[list[int]]:
        """The row numbers of each micro-batch that `rank` of `world`, as in `data_parallel.data_rank_world`, makes in update
        `step` (from 0)."""
        if not self.exact:
            return parts.micro_batches(step, self.rows_per_step, self.micro_rows, rank, world)
        found = exact.micro_batches(self.rows_per_step, self.micro_rows, rank, world)
        return [[step * self.rows_per_step + row for row in rows] for _, rows in found]
