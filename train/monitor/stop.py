"""Asking a training process for a checkpoint: set an event, on any rank, from a signal handler or a thread."""

from __future__ import annotations

import threading

requested = threading.Event()
"""Stop, with a checkpoint."""

checkpoint_wanted = threading.Event()
"""Write a checkpoint soon and go on: the machine may be taken away. The loop clears it."""


class Stopped(Exception):
    """Raised by `train.loop.fit` on every rank at the end of the update in which a rank was asked to stop."""
