"""A few items of tasks with options, asked again and again while a model trains.

    task_accuracy   share of items whose right option is the most likely one, by the task's own score
    task_loss       - ln of the right option's share of the probability of all options (per byte where the task counts so):
                    it moves long before the accuracy of so few items does

Each is {"TASK/LANGUAGE": value}. Measuring draws no random number and gives no gradient.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from train.batches.decoder import CausalLM
from train.distributed import data_parallel
from train.tasks import options
from train.tasks.options import Question
from train.tasks.task import Item, Task


@dataclass
class Suite:
    """`questions` are those of `items`, of which `cells` says the task and the language."""

    cells: Sequence[tuple[Task, str]]
    items: Sequence[Item]
    questions: Sequence[Question]
    tokens_per_row: int

    def __post_init__(self) -> None:
        self.rows = options.rows(self.questions, tokens_per_row=self.tokens_per_row)

    def measure(self, model: CausalLM, precision: str = "fp32") -> dict:
        """Fields of a training record, and `task_seconds`. Call it on every rank: each reads its share of the rows."""
        began = time.perf_counter()
        found: dict[str, list[tuple[float, float]]] = {}
        for (task, lang), item, logp in zip(self.cells, self.items, self._logprobs(model, precision), strict=True):
            scores = (
                logp / [len(option.strip().encode()) for option in item.options] if task.score == "per_byte" else logp
            )
            gold = item.gold
            assert isinstance(gold, int)  # of options
            loss = float(np.logaddexp.reduce(scores) - scores[gold])
            found.setdefault(f"{task.name}/{lang}", []).append((float(np.argmax(scores) == gold), loss))
        return {
            "task_accuracy": {name: float(np.mean([right for right, _ in of])) for name, of in found.items()},
            "task_loss": {name: float(np.mean([loss for _, loss in of])) for name, of in found.items()},
            "task_seconds": time.perf_counter() - began,
        }

    def _logprobs(self, model: CausalLM, precision: str) -> list[np.ndarray]:
        """Log p of the options of each question, in nats; the same on every rank."""
        rank, world = data_parallel.rank_world()
        device = next(model.parameters()).device
        training = model.training
        model.eval()
        sums = [np.zeros(row.n_owners) for row in self.rows]
        for first in range(0, len(self.rows), world):
            mine = first + rank < len(self.rows)
            number = first + rank if mine else 0  # all ranks go through the model equally often, as FSDP needs
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                scored = options.sums(model, self.rows[number])
            if mine:
                sums[number] = scored
        model.train(training)
        whole = np.array(data_parallel.sum_over_ranks(np.concatenate(sums).tolist(), device))
        out = [np.zeros(0)] * len(self.questions)
        for row, scored in zip(
            self.rows, np.split(whole, np.cumsum([row.n_owners for row in self.rows])[:-1]), strict=True
        ):
            for i, start in options.starts(row, self.questions):
                out[i] = scored[start : start + len(self.questions[i].options)]
        return out
