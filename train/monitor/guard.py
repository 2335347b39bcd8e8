"""The guard of a run: when the loss leaves its course, go back to the last good checkpoint and leave out what drove it away.

An update is bad when its loss or gradient norm (before clipping) is not finite, its loss above `spike` times the running median
of the good ones before it, or its norm above `norm_spike` times theirs: a norm often leaves its course before the loss. After
`patience` bad updates in a row the loop goes back to a checkpoint from before them and replays, leaving out the updates from
the one before the first bad one (whose gradient may have done it) to the last. This is what PaLM's authors did by hand (arXiv
2204.02311, section 5.1). The learning rate stays a function of the step, so leaving out rows changes nothing for the others.

What is left out is written to `rollbacks.json` beside the checkpoints before the run goes on, and what the medians are of is in
every checkpoint, so a run that is resumed decides as one that was not. While updates are bad no checkpoint is written.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from statistics import median

from cluster import storage
from train.checkpoint import checkpoint
from train.distributed import data_parallel

log = logging.getLogger(__name__)

HISTORY = 128
"""Updates that the medians are of."""

ENOUGH = 16
"""With fewer good updates than this only one that is not finite is bad."""


@dataclass(frozen=True)
class Limits:
    """`spike` of the loss and `norm_spike` of the gradient norm (None: only one that is not finite is bad): factors above 1;
    `patience`: bad updates in a row; `max_rollbacks` of the whole run."""

    spike: float = 3.0
    norm_spike: float | None = 10.0
    patience: int = 3
    max_rollbacks: int = 5

    def __post_init__(self) -> None:
        if not self.spike > 1:
            raise ValueError(f"guard.spike must be above 1, not {self.spike}.")
        if self.norm_spike is not None and not self.norm_spike > 1:
            raise ValueError(f"guard.norm_spike must be above 1, not {self.norm_spike}.")
        if self.patience < 1 or self.max_rollbacks < 1:
            raise ValueError("guard.patience and guard.max_rollbacks must be at least 1.")


class Guard:
    """Watches one run whose checkpoints lie at `uri`; every rank has one and sees the same losses and norms.

    `rollbacks` are those of the run so far: updates `from` to `to` (the first is 1) left out, after going `back_to` an update.
    """

    def __init__(self, limits: Limits, uri: str) -> None:
        self._limits = limits
        self._uri, self._ledger = uri, storage.join(uri, "rollbacks.json")
        found = storage.read_json(self._ledger) if storage.exists(self._ledger) else []
        assert isinstance(found, list)
        self.rollbacks = found
        self._good: list[tuple[float, float]] = []  # losses and norms
        self.bad = 0

    def leaves_out(self, step: int) -> bool:
        """Whether update `step` (from 0) is not to be made."""
        return any(r["from"] <= step + 1 <= r["to"] for r in self.rollbacks)

    def due(self, loss: float, grad_norm: float) -> bool:
        """Take notice of an update's loss (mean over all ranks) and gradient norm; True when it is time to go back."""
        if self._wrong(loss, grad_norm):
            self.bad += 1
        else:
            self._good = [*self._good, (loss, grad_norm)][-HISTORY:]
            self.bad = 0
        return self.bad >= self._limits.patience

    def note(self, step: int, loss: float, grad_norm: float) -> dict:
        """What is known when `due` after update `step` (from 0): the updates to leave out, and why. The checkpoint to go back
        to is the newest of at most `from` - 1 updates."""
        usual, usual_norm = self._usual() if self._good else (None, None)
        return {
            "from": max(step - self.bad, 0) + 1,
            "to": step + 1,
            "reason": self._wrong(loss, grad_norm),
            "loss": _finite(loss),
            "median": usual,
            "grad_norm": _finite(grad_norm),
            "grad_norm_median": usual_norm,
        }

    def _usual(self) -> tuple[float, float]:
        losses, norms = zip(*self._good, strict=True)
        return median(losses), median(norms)

    def _wrong(self, loss: float, grad_norm: float) -> str:
        """What is wrong with an update; empty for a good one."""
        if not math.isfinite(loss):
            return "the loss was not finite"
        if not math.isfinite(grad_norm):
            return "the gradient norm was not finite"
        if len(self._good) < ENOUGH:
            return ""
        usual, usual_norm = self._usual()
        if loss > usual + (self._limits.spike - 1) * abs(usual):
            return f"the loss was {loss:.4g} where {usual:.4g} was usual"
        if self._limits.norm_spike and grad_norm > self._limits.norm_spike * usual_norm > 0:
            return f"the gradient norm was {grad_norm:.4g} where {usual_norm:.4g} was usual"
        return ""

    def went_back(self, note: dict, back_to: int) -> None:
        """Note that the run went back to the checkpoint of update `back_to`. Call it on every rank.

        Raises FloatingPointError when that was once too often."""
        note = {**note, "from": max(note["from"], back_to + 1), "back_to": back_to}
        reason = f"{note['reason']} at update {note['to']}"
        left_out = f"updates {note['from']} to {note['to']}"
        if len(self.rollbacks) == self._limits.max_rollbacks:
            raise FloatingPointError(
                f"{reason}, after {len(self.rollbacks)} rollbacks; lower the learning rate or look at the data of {left_out}"
            )
        checkpoint.drop_after(self._uri, back_to)  # what follows makes them anew
        self.rollbacks = [*self.rollbacks, note]
        if data_parallel.rank_world()[0] == 0:
            storage.write_json(self._ledger, self.rollbacks)
            log.warning("%s: back to update %d, without %s", reason, back_to, left_out)

    def state(self) -> list[tuple[float, float]]:
        """What a checkpoint keeps."""
        return self._good

    def restore(self, state: list[list[float]]) -> None:
        self._good, self.bad = [(loss, norm) for loss, norm in state], 0


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON knows no nan
