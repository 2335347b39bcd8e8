"""What a training record averages over: losses, counts and metrics since the last record, of updates that were not skipped.

A loss function that knows which pool (language) each row is of returns the row losses too. They are summed per language,
and each sum is divided by the language's own count, so a rare language's loss is as exact as its tokens allow. Everything
is fp64 and on the model's device, so nothing waits for a GPU between records.

Axes: B rows of a micro-batch, L languages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import one_hot

from train.batches.parts import LossParts
from train.distributed import data_parallel

BY_LANGUAGE = "by_language"

GRID = 1 << 24
"""Of exact sums: values rounded to multiples of 1 / GRID have the same fp64 sum in any order, up to 2^53 / GRID = 5e8."""


class Averages:
    """`languages[p]` is the language of pool p; several pools may be of one. Without it there is no loss per language.

    `exact`: the means do not depend on which rank added what, and a rank may have added nothing."""

    def __init__(self, device: torch.device, languages: Sequence[str] = (), exact: bool = False) -> None:
        self._exact = exact
        self._device = device
        self._names = sorted(set(languages))
        self._language_of_pool = torch.tensor([self._names.index(name) for name in languages], device=device)
        self._sums: dict[str, Tensor] = {}
        self._step: dict[str, Tensor] = {}

    def begin_step(self) -> None:
        self._step = {}

    def add(self, parts: LossParts) -> None:
        values = {"loss": parts.loss_sum, "count": torch.as_tensor(parts.count), **parts.metrics}
        if parts.rows is not None and self._names:
            pool_B, loss_B, count_B = parts.rows
            member_LB = one_hot(self._language_of_pool[pool_B], len(self._names)).double().T
            values[BY_LANGUAGE] = member_LB @ torch.stack([loss_B.double(), count_B.double()], 1)
        for name, value in values.items():
            value = value.detach().double()
            if self._exact:
                value = (value * GRID).round() / GRID
            self._step[name] = self._step[name] + value if name in self._step else value

    def end_step(self) -> None:
        for name, value in self._step.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def reduced(self) -> dict[str, float | list]:
        """The sums over all ranks, plain data; rank 0 goes on with them and the others with zeros, as after a resume."""
        shapes = {name: value.shape for name, value in self._sums.items()}
        if self._exact and dist.is_initialized():
            of_first = [shapes]
            dist.broadcast_object_list(of_first, 0, device=self._device)
            shapes = of_first[0]
            self._sums = {name: self._sums.get(name, self._zeros(shape)) for name, shape in shapes.items()}
        flat = [x for value in self._sums.values() for x in value.flatten().tolist()]
        pieces = torch.tensor(data_parallel.sum_over_ranks(flat, self._device), dtype=torch.float64).split(
            [shape.numel() for shape in shapes.values()]
        )
        totals = {name: piece.view(shape).tolist() for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        self.restore(totals)
        return totals

    def restore(self, sums: dict[str, float | list]) -> None:
        mine = float(data_parallel.rank_world()[0] == 0)
        self._sums = {
            name: torch.tensor(value, dtype=torch.float64, device=self._device) * mine for name, value in sums.items()
        }

    def _zeros(self, shape: torch.Size) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self._device)

    def means(self) -> dict[str, float | dict]:
        """Every sum over all ranks divided by the count, and begin anew; loss is nan if all was skipped.

        `loss_by_language` has the languages that a row was of."""
        sums = self.reduced()
        self._sums = {}
        of_languages = sums.pop(BY_LANGUAGE, [])
        assert isinstance(of_languages, list)
        numbers = {name: value for name, value in sums.items() if isinstance(value, float)}  # that is all others
        count = max(numbers.pop("count", 0.0), 1.0)
        by_language = {name: loss / n for name, (loss, n) in zip(self._names, of_languages, strict=False) if n}
        means: dict[str, float | dict] = {"loss": math.nan}
        means |= {name: value / count for name, value in numbers.items()}
        return {**means, "loss_by_language": by_language} if by_language else means
