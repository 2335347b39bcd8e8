"""Held-out text by its place in a row, before the first update and after the last of a stage that lengthens the context.

What a bucket of late positions costs in bits per byte, beside the first, says whether the model reads so far: a model that has
never been there becomes worse with each bucket. It does not say that it finds anything there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from train.batches.decoder import CausalLM
from train.monitor.heldout_text import Validation
from train.scores.evaluate import Heldout, score


@dataclass
class Positions:
    """`rows` of `evaluate.pack_by_position`, and what is measured `within` the ordinary context while training goes on."""

    rows: Heldout
    within: Validation | None = None
    before: dict | None = field(default=None, init=False)
    last: bool = field(default=False, init=False)  # whether what is due is the measurement after the last update

    @property
    def start(self) -> dict | None:
        """What was measured before the first update; None until all of it is, as `within` may be new after a resume."""
        if self.before is None or (self.within and self.within.start is None):
            return None
        return {"rows": self.before, "within": self.within and self.within.start}

    @start.setter
    def start(self, found: dict | None) -> None:
        self.before = found and found["rows"]
        if self.within:
            self.within.start = found and found["within"]

    def begin(self, model: CausalLM, precision: str = "fp32") -> None:
        """Measure the model that training starts from. Call it on every rank."""
        if self.within:
            self.within.begin(model, precision)
        if self.before is None:
            self.before = self._by_bucket(model, precision)

    def due(self, step: int, steps: int) -> bool:
        self.last = step == steps
        return self.last or (self.within is not None and self.within.due(step, steps))

    def measure(self, model: CausalLM, precision: str = "fp32") -> dict:
        """The fields of `Validation.measure`, and after the last update, bits per byte by "language first-last":
        `positions_before` and `positions_after`. Call it on every rank."""
        began = time.perf_counter()
        found = self.within.measure(model, precision) if self.within else {}
        if self.last:
            found |= {"positions_before": self.before, "positions_after": self._by_bucket(model, precision)}
        return found | {"validation_seconds": time.perf_counter() - began}

    def _by_bucket(self, model: CausalLM, precision: str) -> dict[str, float]:
        found = score(model, self.rows, precision)
        return {name: entry["bits_per_byte"] for name, entry in found.items() if entry["bytes"]}
