"""Ray for a run: embedded in this process by default, or an existing cluster at an address (`join`).

Ray runs whatever code it is sent. So each embedded Ray has a random token, without which its servers answer nobody, and they
listen on loopback alone. The token is in the environment of this process and of Ray's, which only the same user and root can
read, and nowhere else: in no file and on no command line.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cluster.engines import join

TRAIN_SLOT = "train_slot"  # a resource of the embedded Ray: training workers that wait for work hold one, and no CPU
PREFIX = "pinisi-ray-"
LOCK = "lock"  # held in a private folder for as long as the process lives that made it
MAX_FOLDER = 36 if sys.platform == "darwin" else 40
"""Bytes of the path of a private folder: its sockets lie 66 deeper, and the path of one has at most 103 (macOS) or 107."""
OBJECT_STORE_BYTES = 512 << 20  # stages exchange data through storage, so little lies in the object store

_started = ExitStack()  # what `stop` undoes


def start(address: str | None = None, cpus: int | None = None, say: Callable[[str], None] = print) -> None:
    """Join the cluster at `address` (`auto`, `HOST:PORT`, `ray://…`), or start a private Ray of `cpus` cores (all by default).

    Nothing happens when this process has a Ray already. Which cluster was joined is told to `say`. The private one has its own
    token, whatever this environment says of others, its own temporary folder below `RAY_TMPDIR` (else `TMPDIR`), and ends with
    `stop` or this process. Raises ValueError for a cluster that cannot be joined, and for a folder that cannot be written.
    """
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
    _started.close()  # of a Ray that was ended by `ray.shutdown`
    with _own_sigterm():
        if address:
            join.join(address, say)
        else:
            _start(ray, cpus)


def running() -> bool:
    """Whether this process has a Ray."""
    import ray

    return bool(ray.is_initialized())


def stop() -> None:
    """End what `start` began; this process is then as before, free to join a cluster or to start another Ray."""
    import ray

    ray.shutdown()
    _started.close()


@contextmanager
def environment(**variables: str | None) -> Iterator[None]:
    """Set variables of this process (None: unset them), have Ray read those of its token anew, and put all back at the end."""
    former = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(former)


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    join.read_token_anew()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """`ray.init` replaces the handler of SIGTERM by one that ends the process at once; put the former back."""
    former = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and former not in (None, signal.SIG_DFL):
            signal.signal(signal.SIGTERM, former)


def _start(ray, cpus: int | None) -> None:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_urlsafe(32)}
    # of no use on one machine; the last two are one more process each to start for every training run
    unwanted = ("RAY_USAGE_STATS_ENABLED", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "RAY_TRAIN_METRICS_ENABLED")
    with ExitStack() as stack:
        stack.enter_context(_on_loopback())
        stack.enter_context(environment(**{name: os.environ.get(name, "0") for name in unwanted}))
        # with the last, Kubernetes would be asked whether it knows our token
        stack.enter_context(environment(**token, RAY_ENABLE_K8S_TOKEN_AUTH=None))
        private = _private_folder(stack)
        stack.callback(ray.shutdown)
        with _few_processes():
            ray.init(
                "local",
                num_cpus=cpus or os.cpu_count(),
                resources={TRAIN_SLOT: 1024},
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=os.path.join(private, "r"),
                _node_ip_address="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        _started.push(stack.pop_all())
    atexit.register(stop)


@contextmanager
def _few_processes() -> Iterator[None]:
    """Within, `ray.init` starts none of three programs that are of no use here, and waits for none of them: the dashboard's,
    which without a dashboard only counts usage (off); one that rents nodes; one that brings us the logs of workers (off).

    They are 2.9 of the 7.6 CPU seconds that a Ray of two cores takes to start. No argument of `ray.init` leaves them out; a
    version of Ray in which these methods have other names starts all three."""
    from ray._private.node import Node

    names = {"start_api_server", "start_monitor", "start_log_monitor"}
    former = {name: value for name, value in vars(Node).items() if name in names}
    for name in former:
        setattr(Node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, value in former.items():
            setattr(Node, name, value)


def temporary() -> Path:
    """The folder below which the embedded Ray keeps its session and spills objects. Raises ValueError for one that cannot be
    written."""
    variable = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    folder = Path(os.path.abspath(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise ValueError(
            f"{variable}: {folder} cannot be written ({error.strerror}); set it to a folder of yours"
        ) from None


def _private_folder(stack: ExitStack) -> str:
    """A folder of mode 700 for one Ray, which opens its own to all users. Where its path would be too long for sockets, a short
    one leads to it."""
    folder = _locked(temporary(), stack)
    if len(os.fsencode(folder)) <= MAX_FOLDER:
        return folder
    (Path(folder) / "r").mkdir()
    short = _locked(Path("/tmp"), stack)
    os.symlink(Path(folder) / "r", Path(short) / "r")
    return short


def _locked(base: Path, stack: ExitStack) -> str:
    """A new folder in `base` that goes with `stack`; those of killed processes, whose locks are free, go now."""
    for left in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # of another user, or just gone
            if _free(left / LOCK):
                shutil.rmtree(left, ignore_errors=True)
    made = tempfile.mkdtemp(prefix="pinisi-new-", dir=base)  # it gets its name when its lock is held
    lock = os.open(os.path.join(made, LOCK), os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder = made.replace("pinisi-new-", PREFIX)
    os.rename(made, folder)
    stack.callback(os.close, lock)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _free(lock: Path) -> bool:
    """Whether nobody holds a lock that is there."""
    number = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(number)
    return True


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray's servers listen on loopback, as on macOS by default; on Linux Ray replaces 127.0.0.1 by an address of the machine.

    So do training workers for one another (gloo), but PyTorch's store, where they meet, cannot be told to."""
    from ray._private import ray_constants

    former = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # here it was read when Ray was imported; its processes read the variable
    try:
        loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
        with environment(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", GLOO_SOCKET_IFNAME=loopback):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = former


def cpus() -> int:
    """CPU cores of the Ray that this process is connected to."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))
