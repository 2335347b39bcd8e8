"""A run without Ray: tasks in processes of this machine, training on the ranks that torchrun has started.

Tasks run in processes that stay for the next ones. Each has one CPU or one GPU, as a task of Ray has, so the results are equal.
A share of a stage is every n-th of its items; the tasks of an array of a scheduler take one each, and whoever runs the stage as a
whole afterwards finds their work done.

Under torchrun every rank is started as the run. Rank 0 does the run; the others wait at torchrun's store for what they shall
train together, and for each training they make a process group, which ends with it: between trainings rank 0 works alone.
Anyone who reaches the node can write to that store. So a command lies in the run's folder, where only its user writes, and the
store has the name of its file.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import itertools
import multiprocessing
import os
import pickle
import re
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from cluster import storage
from cluster.engines import embedded
from cluster.engines.exchange import Progress
from cluster.engines.in_process import Local
from ray_jobs.errors import UserError
from ray_jobs.run.job import Job, Share, ShareDone
from ray_jobs.work.device import GPU

if TYPE_CHECKING:
    from torch.distributed import TCPStore

FOLLOW_SECONDS = 1.0
WAIT = timedelta(days=1)  # of a rank at the store, again and again
END = "end"  # at the store instead of a command
COMMANDS = "_ranks"  # below the run
SEEN_SECONDS = 60.0  # until a node sees a file of another
RANKED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID")

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")

_pools: dict[bool, Executor] = {}
_numbers = itertools.count()  # of what the other ranks are told


def run(
    job: Job,
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    gpus: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[R]:
    """`[function(item) for item in items]`; the first error is raised. Of a share only its own items are done.

    Raises ShareDone after the items of a share."""
    chosen = of_share(items, job.share)
    results = _run(_pool(job, gpus), function, chosen, progress or job.progress.set) if chosen else []
    if job.share:
        raise ShareDone
    return results


def of_share(items: Sequence[T], share: Share | None) -> Sequence[T]:
    """Every `share.of`-th item, from number `share.number` on."""
    return items[share.number :: share.of] if share else items


class Alone(Local):
    """`cluster.engines.in_process`, with its tasks over shards in several processes."""

    def __init__(self, job: Job):
        super().__init__()
        self.job = job

    def run(self, function: Callable[[T], R], arguments: Sequence[T], progress: Progress | None = None) -> list[R]:
        return run(self.job, function, arguments, progress=progress)


def _run(pool: Executor, function: Callable[[T], R], items: Sequence[T], progress: Callable[[int], None]) -> list[R]:
    from ray import cloudpickle

    code = cloudpickle.dumps(function)  # also a closure
    waiting = [pool.submit(_call, code, cloudpickle.dumps(item)) for item in items]
    try:
        for done, one in enumerate(as_completed(waiting), 1):
            one.result()
            progress(done)
    except BaseException:
        stop()
        raise
    return [one.result() for one in waiting]


def _call(code: bytes, item: bytes) -> Any:
    return pickle.loads(code)(pickle.loads(item))


def _pool(job: Job, gpus: bool) -> Executor:
    if gpus not in _pools:
        spawn = multiprocessing.get_context("spawn")  # threads and GPUs do not survive a fork
        numbers = spawn.Queue()
        count = _visible_gpus() if gpus else cpus(job)
        for number in range(count):
            numbers.put(number)
        own = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        with embedded.environment(**own, **dict.fromkeys(RANKED)):
            pool = ProcessPoolExecutor(count, spawn, _settle, (numbers if gpus else None,))
            for one in [pool.submit(os.getpid) for _ in range(count)]:  # all start now, with this environment
                one.result()
        if not _pools:
            atexit.register(stop)
        _pools[gpus] = pool
    return _pools[gpus]


def _settle(numbers: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us ends us
    if numbers is not None:
        os.environ[GPU] = str(numbers.get())


def _close(pool: Executor) -> None:
    """End the pool now; what its processes are at is lost."""
    processes = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()


def _visible_gpus() -> int:
    """Raises ValueError when there is none."""
    import torch

    if not (count := torch.cuda.device_count()):
        raise ValueError("train.device is gpu, but torch sees no GPU here; `pinisi doctor` on this node says why")
    return count


def cpus(job: Job) -> int:
    """CPUs of this process: `cluster.cpus`, else what Slurm or the system lets it have."""
    mine = job.recipe.cluster.cpus or int(os.environ.get("SLURM_CPUS_PER_TASK", "0"))
    return mine or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


class Command(TypedDict):
    """What all ranks do next."""

    function: str  # module:function
    settings: Any
    threads: int
    gpus: bool


def leads() -> bool:
    """Whether this process does the run: without torchrun, or as its rank 0."""
    return os.environ.get("RANK", "0") == "0"


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def launch(job: Job, function: Callable[[S], dict], settings: S, gpus: bool, follow: Callable[[], None]) -> dict:
    """`function(settings)` on every rank; returns what rank 0 returned. `follow` is called now and then meanwhile.

    Raises ValueError for what the function raises as one, KeyboardInterrupt when it was stopped."""
    if job.share:
        raise ValueError(f"{job.stage.name} trains as a whole; run it without --share")
    train = job.train
    if world() != train.workers and (world() > 1 or train.workers > 1):
        raise ValueError(
            f"train.workers is {train.workers}, but torchrun has started {world()}; give --set train.workers={world()}"
        )
    if gpus:
        _visible_gpus()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    threads = train.exact_threads if train.exact else max(1, cpus(job) // here)
    command: Command = {
        "function": f"{function.__module__}:{function.__qualname__}",
        "settings": settings,
        "threads": threads,
        "gpus": gpus,
    }
    number = _tell(_written(job.run_uri, command)) if world() > 1 else next(_numbers)
    over = threading.Event()
    following = threading.Thread(target=_follow, args=(follow, over), daemon=True)
    following.start()
    try:
        with _stopping() as asked:
            result = _train(command, number)
    finally:
        over.set()
        following.join()
        if world() > 1:
            storage.remove(storage.join(job.run_uri, COMMANDS))
    if "error" in result:
        raise ValueError(result["error"])
    if "stopped" in result:
        raise KeyboardInterrupt(result["stopped"])
    if asked.is_set():
        raise KeyboardInterrupt("stopped after the last update")
    return result


def serve(run_uri: Callable[[], str]) -> None:
    """The part of every rank but 0: do what it is told until the run ends. `run_uri` is asked when rank 0 knows it too.

    Raises UserError for a run that this node does not see, and for what rank 0 has not written."""
    from train.monitor import stop as stopping

    signal.signal(signal.SIGTERM, lambda *_: stopping.requested.set())
    store, number = _store(), 0
    while True:
        key = f"pinisi/{number}"
        with contextlib.suppress(Exception):  # nothing to do for a day
            store.wait([key], WAIT)
        if not store.check([key]):
            continue
        if (told := store.get(key)) == END.encode():
            return
        _train(_read(run_uri(), told), number)
        number += 1


def stop() -> None:
    """End the processes of tasks, and the other ranks."""
    for pool in _pools.values():
        _close(pool)
    _pools.clear()


def dismiss() -> None:
    """Let the other ranks end: the run has."""
    if world() > 1 and leads():
        _tell(END)


def _tell(text: str) -> int:
    """Its number. All ranks are told it."""
    number = next(_numbers)
    _store().set(f"pinisi/{number}", text)
    return number


def _written(run_uri: str, command: Command) -> str:
    """The name of a file for the other ranks, which on a disk only this user may read."""
    name = secrets.token_hex(16)
    uri, data = storage.join(run_uri, COMMANDS, name), pickle.dumps(command)
    if storage.is_local(uri):
        path = storage.local(uri)
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
    else:
        storage.write_bytes(uri, data)
    return name


def _read(run_uri: str, told: bytes) -> Command:
    """The command of this run in the file that rank 0 has named. Raises UserError."""
    if not re.fullmatch(rb"[0-9a-f]{32}", told):
        raise UserError(
            f"{run_uri}: torchrun's store holds what rank 0 never writes; keep others off these nodes' ports"
        )
    uri = storage.join(run_uri, COMMANDS, told.decode())
    end = time.monotonic() + SEEN_SECONDS
    while True:
        try:
            return pickle.loads(storage.read_bytes(uri))
        except FileNotFoundError:
            if time.monotonic() > end:
                raise UserError(
                    f"{uri}: rank 0 has written this file, and this node does not see it; give a --run-dir that all nodes share"
                ) from None
        time.sleep(0.1)


def _store() -> TCPStore:
    """A connection to the store of torchrun on the first node."""
    from torch.distributed import TCPStore

    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False)


def _train(command: Command, number: int) -> dict:
    """One training on this rank, in a process group of its own."""
    import torch
    import torch.distributed as dist

    from train.monitor import stop as stopping

    if command["gpus"]:
        os.environ[GPU] = os.environ.get("LOCAL_RANK", "0")
        torch.cuda.set_device(int(os.environ[GPU]))
    threads = torch.get_num_threads()
    torch.set_num_threads(command["threads"])
    if world() > 1:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if command["gpus"] else "gloo",
            store=dist.PrefixStore(f"training/{number}", _store()),
            rank=int(os.environ["RANK"]),
            world_size=world(),
        )
    module, name = command["function"].split(":")
    try:
        result: dict = getattr(importlib.import_module(module), name)(command["settings"])
    except (ValueError, FloatingPointError) as error:  # trying again would give the same
        result = {"error": str(error)}
    except stopping.Stopped as stopped:
        result = {"stopped": str(stopped)}
    stopping.requested.clear()
    if world() > 1:
        dist.destroy_process_group()
    gc.collect()
    if command["gpus"]:
        torch.cuda.empty_cache()  # what comes between has the memory
    os.environ.pop(GPU, None)
    torch.set_num_threads(threads)
    return result


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """While ranks train together a signal is a wish that the loop meets after its update, with a checkpoint. Gives whether there
    was one, for after the last update no loop asks."""
    from train.monitor import stop as stopping

    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        stopping.requested.set()

    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in former:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        stopping.requested.clear()  # no wish of this training stops the next


def _follow(follow: Callable[[], None], over: threading.Event) -> None:
    while not over.wait(FOLLOW_SECONDS):
        follow()
