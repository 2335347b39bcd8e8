"""AdamW and learning-rate schedules.

Weight decay acts on matrices (embeddings and head included) and not on norms and biases, as in Megatron-LM, the trainer of
Sailor2. A schedule is a pure function of the step, so a resumed or resized run has the same curve.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from train.kernels.adamw_8bit import BYTES, AdamW8bit, divided

STATES = {"fp32": 8.0, "8bit": BYTES}
"""How Adam's moments are kept, and their bytes a parameter (with "8bit" of matrices; the few vectors keep 8)."""

Optimizer = torch.optim.AdamW | AdamW8bit

SCHEDULES = ("constant", "cosine", "linear", "wsd")


def learning_rate(
    step: int,
    *,
    lr: float,
    steps: int,
    schedule: str = "constant",
    warmup_steps: int = 0,
    min_lr: float = 0.0,
    decay_steps: int = 0,
) -> float:
    """The learning rate of update `step` (0 .. steps - 1).

    Warm-up: lr (step + 1) / warmup_steps. Then, with progress p = (step - start) / decay from 0 to 1:
    constant: lr; cosine: min_lr + (lr - min_lr) (1 + cos πp) / 2; linear: min_lr + (lr - min_lr) (1 - p);
    wsd (warm-up, stable, decay): lr until the last `decay_steps`, then linear. Cosine and linear start where warm-up ends.
    The floor would be reached at update `steps`, one after the last, so no update is spent at a rate of 0 (as torchtitan).
    """
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    if schedule == "constant":
        return lr
    decay = decay_steps if schedule == "wsd" else steps - warmup_steps
    start = steps - decay
    if step < start:
        return lr
    p = min((step - start) / max(decay, 1), 1.0)
    shape = (1 + math.cos(math.pi * p)) / 2 if schedule == "cosine" else 1 - p
    return min_lr + (lr - min_lr) * shape


def adamw(
    parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    extra: list[dict] | None = None,
    states: str = "fp32",
) -> Optimizer:
    """Fused AdamW over the named parameters that require a gradient, in two groups: with and without weight decay.

    `extra` is a list of more groups in torch's form ({"params": [...], "lr": …, "maximize": …}); they get no weight decay
    unless they ask for it. `states` "8bit" keeps the moments of the first group, the matrices, in 2 bytes a parameter.
    """
    trainable = [p for _, p in parameters if p.requires_grad]
    if not trainable:
        raise ValueError("The model has no trainable parameter.")
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
        *({"weight_decay": 0.0} | group for group in extra or []),
    ]
    matrices = bool(groups[0]["params"])
    groups = [group for group in groups if group["params"]]
    if states == "8bit":
        optimizer: Optimizer = AdamW8bit(groups, quantised=int(matrices), lr=lr, betas=betas, eps=eps)
    else:
        optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
        for p in group["params"]:
            if p in optimizer.state:
                continue
            # torch does this at the first update; a checkpoint is loaded before it
            optimizer.state[p] = {
                "step": torch.zeros((), dtype=torch.float32, device=p.device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }
    return optimizer


def step(optimizer: Optimizer, divisor: float = 1.0) -> None:
    """One update by the gradients divided by `divisor`, which costs no pass over them: each is divided as it is read."""
    if isinstance(optimizer, AdamW8bit):
        optimizer.step(divisor)
    else:
        divided(optimizer, divisor)


def set_learning_rate(optimizer: Optimizer, step: int, config) -> float:
    """Set every group's rate for update `step` of a `LoopConfig`; returns the model's.

    A group with a rate of its own follows the same curve, unless it says `constant_lr`.
    """
    lr = learning_rate(
        step,
        lr=config.lr,
        steps=config.steps,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        min_lr=config.min_lr,
        decay_steps=config.decay_steps,
    )
    for group in optimizer.param_groups:
        if not group.get("constant_lr"):
            group["lr"] = group["initial_lr"] * lr / config.lr
    return lr


def state_tensors(optimizer: Optimizer, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """The named tensors and Adam's two moments of those that are optimised: what a checkpoint saves and fills."""
    tensors = {name: tensor.detach() for name, tensor in named.items()}
    for name, tensor in named.items():
        state = optimizer.state.get(tensor, {})
        tensors |= {f"{part}/{name}": value for part, value in state.items() if part != "step"}
    return tensors


def set_updates(optimizer: Optimizer, updates: int) -> None:
    """Tell Adam's bias correction that `updates` updates have been made."""
    for state in optimizer.state.values():
        state["step"].fill_(updates)
