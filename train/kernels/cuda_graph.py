"""A step as one CUDA graph: hundreds of small kernels that the host queues once and a GPU then repeats by itself.

A captured step must read and write tensors that keep their place, decide nothing by a value, and never wait for the device.
What it computes is the same as without a graph.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

log = logging.getLogger(__name__)

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""From a step to what repeats it; the step itself is recorded, not done."""

EAGER = 2
"""Steps that are done as they are before one is recorded: libraries take their memory and choose their algorithms in them."""


class Repeated:
    """`step` as often as this is called: the first `EAGER` times as it is, then recorded by `capture`; always as it is where
    `capture` is None."""

    def __init__(self, step: Callable[[], None], capture: Capture | None) -> None:
        self._step, self._capture, self._calls = step, capture, 0
        self._replay = step

    def __call__(self) -> None:
        if self._capture and self._calls == EAGER:
            self._replay = self._capture(self._step)
        self._calls += 1
        self._replay()


def for_device(device: torch.device) -> Capture | None:
    """What records a step on `device`; None on a CPU, where there is nothing to save."""
    return _captured if device.type == "cuda" else None


def _captured(step: Callable[[], None]) -> Callable[[], None]:
    """The graph of `step`; the step itself where it cannot be recorded, which changes nothing but the time."""
    torch.cuda.synchronize()  # nothing else may be under way while it is recorded
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        log.warning("a CUDA graph cannot be recorded here, so each kernel is queued: %s", str(error).splitlines()[0])
        return step
    return graph.replay
