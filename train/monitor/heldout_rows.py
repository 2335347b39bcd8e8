"""Validation of SFT, reward models and DPO: the stage's own loss and metrics on held-out rows, per language, while it trains.

    validation_loss(language) = sum of the losses of its held-out rows / their count     (assistant tokens, or pairs)

A loss that rises again, or an accuracy that stands still while that of training goes on, is the moment to have stopped. What
was measured before the first update is kept in the checkpoints, so a resumed run writes the same records. The loop treats it
as it treats `train.monitor.heldout_text.Validation`; measuring draws no random number and gives no gradient.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic

import torch

from train.batches.parts import Batch, BatchFn, LossFn, Model, on_device
from train.distributed import data_parallel
from train.kernels import context_parallel


@dataclass
class LossValidation(Generic[Model]):
    """Held-out rows, and when to measure them: every `every` updates and after the last.

    `batches`: (language, micro-batch of rows of that language alone), as `batches` makes them. `metrics`: which sums of
    `loss_fn` become which fields. `start`: {field: {language: value}} before the first update, None until `begin`.
    """

    batches: list[tuple[str, Batch]]
    loss_fn: LossFn[Model]
    every: int
    metrics: Mapping[str, str] = field(default_factory=dict)
    start: dict | None = None

    def begin(self, model: Model, precision: str = "fp32") -> None:
        """Measure the model that training starts from. Call it on every rank."""
        self.start = self._means(model, precision)

    def due(self, step: int, steps: int) -> bool:
        return step % self.every == 0 or step == steps

    def measure(self, model: Model, precision: str = "fp32") -> dict:
        """Fields of a training record, each {language: value}. Call it on every rank.

        `validation_loss` (nats per assistant token or per pair), `validation_loss_change` since the start, a field for each
        of `metrics`; and `validation_seconds`, a number.
        """
        assert self.start is not None, "measure comes after begin"
        began = time.perf_counter()
        found = self._means(model, precision)
        before = self.start["validation_loss"]
        change = {lang: loss - before[lang] for lang, loss in found["validation_loss"].items() if lang in before}
        return found | {"validation_loss_change": change, "validation_seconds": time.perf_counter() - began}

    @torch.no_grad()
    def _means(self, model: Model, precision: str) -> dict[str, dict[str, float]]:
        languages = sorted({language for language, _ in self.batches})
        # loss, count, metrics; by batch, so that the sum over batches has one order, whichever rank has measured them
        sums = torch.zeros(len(self.batches), 2 + len(self.metrics), dtype=torch.float64)
        part = context_parallel.of(model)
        rank, world = data_parallel.data_rank_world(part.n if part else 1)
        device = next(model.parameters()).device
        training = model.training
        model.eval()
        for first in range(0, len(self.batches), world):
            mine = first + rank < len(self.batches)
            # all ranks go through the model equally often, as FSDP needs
            _, batch = self.batches[first + rank if mine else 0]
            batch = part.of(batch) if part else batch
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                parts = self.loss_fn(model, on_device(batch, device))
            if mine:
                values = (parts.loss_sum, parts.count, *(parts.metrics[name] for name in self.metrics))
                sums[first + rank] = torch.tensor([float(value) for value in values], dtype=torch.float64)
        model.train(training)
        sums = torch.tensor(data_parallel.sum_over_ranks(sums.flatten().tolist(), device), dtype=torch.float64).view_as(
            sums
        )
        of_language = [[i for i, (of_batch, _) in enumerate(self.batches) if of_batch == one] for one in languages]
        totals = [sums[rows].sum(0).tolist() for rows in of_language]
        found = {
            language: (loss, count, more) for language, (loss, count, *more) in zip(languages, totals, strict=True)
        }
        fields = {"validation_loss": {language: loss / count for language, (loss, count, _) in found.items()}}
        for i, name in enumerate(self.metrics.values()):
            fields[name] = {language: more[i] / count for language, (_, count, more) in found.items()}
        return fields


def batches(language: str, batch_fn: BatchFn, rows: int, micro_rows: int) -> list[tuple[str, Batch]]:
    """The first `rows` rows of `batch_fn`, all of one language, for `LossValidation`."""
    numbers = range(rows)
    return [(language, batch_fn(list(numbers[i : i + micro_rows]))) for i in range(0, rows, micro_rows)]
