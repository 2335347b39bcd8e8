"""Validation while training: loss and bits per byte per language of held-out text, and the forgetting alarm.

    change(language) = bits per byte now - bits per byte before the first update
    alarm            = change of a replay language above `alarm`                (it warns; the run goes on)

Replay (English and Chinese in Sailor2, section 4.3) is there so that the base's languages are not forgotten; this shows
whether it does so in time to change the mixture. What was measured before the first update is kept in the checkpoints, so a
resumed run writes the same records, and measuring draws no random number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from train.batches.decoder import CausalLM
from train.scores.evaluate import Heldout, score


@dataclass
class Validation:
    """Held-out text, and when to measure it: every `every` updates and after the last.

    `also(model, precision)` gives further fields of a record. `start`: bits per byte per language before the first update,
    None until `begin`.
    """

    heldout: Heldout
    every: int
    replay: tuple[str, ...] = ()
    alarm: float = math.inf
    also: Callable[[CausalLM, str], dict] | None = None
    start: dict | None = None

    def begin(self, model: CausalLM, precision: str = "fp32") -> None:
        """Measure the model that training starts from. Call it on every rank."""
        self.start = {lang: entry["bits_per_byte"] for lang, entry in score(model, self.heldout, precision).items()}

    def due(self, step: int, steps: int) -> bool:
        return step % self.every == 0 or step == steps

    def measure(self, model: CausalLM, precision: str = "fp32") -> dict:
        """Fields of a training record, each {language: value}. Call it on every rank.

        `validation_loss` (nats per token), `bits_per_byte`, `bits_per_byte_change` since the start, `forgetting` (the changes
        above the alarm; left out when there are none); and `validation_seconds`, a number.
        """
        assert self.start is not None, "measure comes after begin"
        began = time.perf_counter()
        found = {lang: entry for lang, entry in score(model, self.heldout, precision).items() if entry["tokens"]}
        change = {lang: entry["bits_per_byte"] - self.start[lang] for lang, entry in found.items()}
        forgetting = {lang: change[lang] for lang in self.replay if lang in change and change[lang] > self.alarm}
        return {
            "validation_loss": {lang: e["bits"] * math.log(2) / e["tokens"] for lang, e in found.items()},
            "bits_per_byte": {lang: e["bits_per_byte"] for lang, e in found.items()},
            "bits_per_byte_change": change,
            **({"forgetting": forgetting} if forgetting else {}),
            "validation_seconds": time.perf_counter() - began,
            **(self.also(model, precision) if self.also else {}),
        }
