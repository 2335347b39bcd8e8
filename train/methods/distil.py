"""A model learns from a larger one on packed text: how a pruned model is healed (Minitron, arXiv 2407.14679).

loss = - sum over positions t, tokens v of  q(v | up to t) log p(v | up to t)  + what does not depend on p

with q the teacher's distribution and p the student's (train/kernels/distillation.py: temperature, and a weight of the text's
own tokens). The teacher is frozen, lies as the student does (sharded with FSDP), in the precision of the products, and
runs before the student, so that the two have no activations at a time.
"""

from __future__ import annotations

import dataclasses

import torch
from torch.distributed.fsdp import FSDPModule

from train.batches.decoder import CausalLM
from train.batches.labels import IGNORE
from train.batches.parts import Batch, LossFn, LossParts, RowLosses
from train.kernels import head
from train.kernels.distillation import Aim, distil
from train.loop import place
from train.loop_config import LoopConfig


def frozen(teacher: CausalLM, config: LoopConfig, device: torch.device) -> CausalLM:
    """`teacher`, with weights or still without, where a run of `config` has its model, without gradients."""
    teacher.requires_grad_(False).eval()
    precision = "bf16" if config.precision == "fp8" else config.precision
    place(teacher, dataclasses.replace(config, precision=precision, activation_checkpointing="none"), device)
    return teacher


def loss_fn(
    teacher: CausalLM, weight: float = 1.0, temperature: float = 1.0, mask: str = "intra_document"
) -> LossFn[CausalLM]:
    """The loss of `train.methods.pretrain`'s batches by a teacher of `frozen`, both under `mask`. Metrics: the two parts,
    `cross_entropy` (which the losses of rows are, too) and `divergence`."""

    def loss(model: CausalLM, batch: Batch) -> LossParts:
        inputs = {key: batch[key] for key in ("input_ids", "position_ids", "doc_ids")}
        how = {"mask": mask, "use_cache": False}
        with torch.no_grad():
            taught_BTE = head.scaled(teacher, teacher.model(**inputs, **how).last_hidden_state)
            if isinstance(teacher.model, FSDPModule):
                teacher.model.reshard()  # its embedding would stay gathered for a backward pass
        hidden_BTD = head.scaled(model, model.model(**inputs, **how).last_hidden_state)
        aim = Aim(weight, temperature, head.softcap(model), head.softcap(teacher))
        found = distil(hidden_BTD, model.lm_head.weight, taught_BTE, teacher.lm_head.weight, batch["labels"], aim)
        metrics = {"cross_entropy": found.cross_entropy_B.sum(), "divergence": found.divergence_B.sum()}
        rows = None
        if "pool" in batch:
            rows = RowLosses(batch["pool"], found.cross_entropy_B, (batch["labels"] != IGNORE).sum(-1))
        return LossParts(found.loss, found.count, metrics, rows)

    return loss
