"""Ray for a run: embedded in this process by default, or an existing cluster at an address."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

TRAIN_SLOT = "train_slot"  # a resource of the embedded Ray: training workers that wait for work hold one, and no CPU
OBJECT_STORE_BYTES = 512 << 20  # stages exchange data through storage, so little lies in the object store


def start(address: str | None = None, cpus: int | None = None) -> None:
    """Connect to the cluster at `address` (`auto`, `ray://…`), or start a private Ray of `cpus` cores (all by default).

    Nothing happens when this process has a Ray already. The private one listens on loopback, has its own temporary folder
    and ends with this process."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # the end of a short run is seen at the next poll
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault(
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1800"
    )  # a GPU node that must be rented boots meanwhile
    import ray

    if ray.is_initialized():
        return
    with _own_sigterm():
        _start(ray, address, cpus)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """`ray.init` replaces the handler of SIGTERM by one that ends the process at once; put the former back."""
    former = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and former not in (None, signal.SIG_DFL):
            signal.signal(signal.SIGTERM, former)


def _start(ray, address: str | None, cpus: int | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address:
        ray.init(address, **quiet)
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # loopback only; a cluster file turns tokens on
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # each is one more process to start for every training run, of no use on one machine
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    folder = tempfile.mkdtemp(prefix="pinisi-ray-")
    ray.init(
        "local",
        num_cpus=cpus or os.cpu_count(),
        resources={TRAIN_SLOT: 1024},
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _temp_dir=folder,
        _node_ip_address="127.0.0.1",
        **quiet,
    )
    import atexit

    def stop() -> None:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)


def cpus() -> int:
    """CPU cores of the Ray that this process is connected to."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))
