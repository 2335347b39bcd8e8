"""How near training is to what the hardware can do: the fields `mfu`, `mfu_6n`, `mfu_doc`, `teraflops` of a record.

MFU is the model's own operations per second over the peak of all devices. A CPU has no peak in `flops.PEAK`: there, and for
a GPU that is not in the table, only `teraflops` is known unless the recipe gives `train.peak_tflops`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import torch

from train.batches.decoder import Decoder
from train.monitor import flops

UTILISATION = ("teraflops", "mfu", "mfu_6n", "mfu_doc")

MEASURED = (
    *("tokens_per_second", "seconds", "data_seconds", "data_wait", "memory_bytes", "validation_seconds"),
    *UTILISATION,
)
"""Fields of a record that differ from run to run; all others are the same in a run that was killed and resumed."""


def device_peak(device: torch.device) -> float | None:
    """Peak bf16 operations per second of the device, None where it is not known."""
    return flops.peak(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def utilisation(model: Decoder, context: int, workers: int, peak: float | None) -> Callable[[dict], dict]:
    """A function from a record of the loop to its utilisation: `teraflops` per worker as `mfu_doc` counts them, and, where
    the `peak` (operations per second) of a worker's device is known, its share in the three ways of `train.monitor.flops`."""
    shape, vocabulary = flops.shape_of(model), model.config.vocab_size if hasattr(model, "lm_head") else 0
    palm = flops.per_token(shape, vocabulary, context)
    six_n = 6.0 * flops.matmul_parameters(shape, vocabulary)
    per_token, per_pair = flops.of_step(model)

    def of(record: dict) -> dict:
        rate = record["tokens_per_second"] / workers
        exact = rate * (per_token + per_pair * record["attended_per_token"])
        fields = {"teraflops": exact / 1e12}
        if peak:
            fields |= {"mfu": rate * palm / peak, "mfu_6n": rate * six_n / peak, "mfu_doc": exact / peak}
        return fields

    return of


def memory_bytes(device: torch.device) -> int:
    """Most that this process has had allocated on its GPU; without one, what it holds in memory now."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


class Stopwatch:
    """Time and tokens of a run since it began here, and since its last record."""

    def __init__(self, device: torch.device, tokens: int) -> None:
        self._device, self._began = device, time.perf_counter()
        self.data_seconds = 0.0
        self.restart(tokens)

    def restart(self, tokens: int) -> None:
        """A new record begins now; `tokens` have been seen so far."""
        self._since = (time.perf_counter(), tokens, self.data_seconds)

    def fields(self, tokens: int) -> dict:
        """`tokens_per_second` and `data_wait` (share of the time spent waiting for batches) since the last record, `seconds`
        and `data_seconds` since the run began here, `memory_bytes` of this process."""
        now = time.perf_counter()
        began, tokens_before, data_before = self._since
        return {
            "tokens_per_second": (tokens - tokens_before) / (now - began),
            "seconds": now - self._began,
            "data_seconds": self.data_seconds,
            "data_wait": (self.data_seconds - data_before) / (now - began),
            "memory_bytes": memory_bytes(self._device),
        }
