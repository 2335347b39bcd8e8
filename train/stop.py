"""Asking a training process to stop with a checkpoint: set `requested`, on any rank, from a signal handler or a thread."""

from __future__ import annotations

import threading

requested = threading.Event()


class Stopped(Exception):
    """Raised by `train.loop.fit` on every rank at the end of the update in which a rank was asked to stop."""
