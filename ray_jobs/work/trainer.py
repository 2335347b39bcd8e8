"""Run functions on the workers of a Ray Train group and follow their metrics.

A function gets one settings dict and finds torch.distributed initialised. It resumes by itself from its newest complete
checkpoint on storage, so a restarted worker group (FailureConfig) and a restarted run continue in the same way; what Ray
remembers of checkpoints is not used (`report()` can lose the last one when a worker dies at once).

On the embedded Ray the group stays warm between stages: its workers wait for the next command, because starting a group
(seven processes, torch and transformers in each worker) takes longer than most training runs of the demo. Waiting workers
hold no CPU there. On a cluster, and where it holds GPUs, a group ends with its stage, so that others have them.

Ctrl-C and SIGTERM (`ray job stop`) let the workers finish their update and write a checkpoint, however far the next one is.
So does the notice that a node will be taken away; there they go on until it is. With `train.min_workers` the group then goes on
with the nodes that are left, and grows again when there are more: the rows of a step are the same for any number of workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import math
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict, TypeVar, cast

from cluster import storage
from cluster.engines import embedded, placement
from ray_jobs.run.job import Job
from ray_jobs.work import alone, device

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle
    from ray.train.v2.torch.torch_trainer import TorchTrainer

POLL_SECONDS = 0.3  # between two looks at the metrics
WATCH_SECONDS = 1.0
NODE_SECONDS = 5.0
ELASTIC_START_SECONDS = 30
STOP_SECONDS = 600.0  # for an update and its checkpoint; whoever sent the signal may have less patience

_warm: list[_Group] = []

S = TypeVar("S")


class Command(TypedDict):
    """What the workers of a group run next."""

    function: str  # module:function
    settings: object
    result_uri: str


def launch(job: Job, function: Callable[[S], dict], settings: S, steps: int = 0) -> dict:
    """`function(settings)` on every worker; returns what rank 0 returned. `steps` is the length of the progress bar until the
    first record says it.

    Raises ValueError for what the function raises as one, KeyboardInterrupt when it was stopped, and what the group failed
    with after its retries."""
    if not job.ray:
        return alone.launch(job, function, settings, device.wants_gpus(job), _follower(job, steps))
    embedded.start(job.address, job.recipe.cluster.cpus)
    group = _warm.pop() if _warm else _Group(job)
    result_uri = job.path(f"_result-{uuid.uuid4().hex[:8]}.json")
    command: Command = {
        "function": f"{function.__module__}:{function.__qualname__}",
        "settings": settings,
        "result_uri": result_uri,
    }
    group.run(command, _follower(job, steps))
    if job.address is None and not group.gpus:  # a GPU is wanted by the tasks that come between
        _warm.append(group)
    else:
        group.end()
    result = storage.read_json(result_uri)
    storage.remove(result_uri)
    if "error" in result:
        raise ValueError(result["error"])
    if "stopped" in result:
        raise KeyboardInterrupt(result["stopped"])
    return result


class _Mailbox:
    """An actor with the command that the workers shall run next. Commands are numbered from 1; None ends the group. Who calls
    `after` or `until` is answered when it is so, and not asked to come again."""

    def __init__(self) -> None:
        self.number, self.taken, self.done, self.stop = 0, 0, 0, False
        self.command: Command | None = None
        self.changed = asyncio.Condition()

    async def request_stop(self) -> bool:
        """Whether a worker has the command, and so something to write first: without nodes for the group nobody has."""
        self.stop = True
        return self.taken == self.number

    async def stop_requested(self) -> bool:
        return self.stop

    async def post(self, command: Command | None) -> None:
        async with self.changed:
            self.number, self.command = self.number + 1, command
            self.changed.notify_all()

    async def after(self, number: int) -> tuple[int, Command | None]:
        """The newest command, once it is a later one than `number`."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.number > number)
        self.taken = self.number
        return self.number, self.command

    async def finish(self, number: int) -> None:
        async with self.changed:
            self.done = number
            self.changed.notify_all()

    async def finished(self) -> int:
        return self.done

    async def until(self, number: int) -> None:
        """Returns once command `number` is finished."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.done >= number)


class _Group:
    """A Ray Train worker group that runs commands one after another; `fit` waits in a thread of this process."""

    def __init__(self, job: Job):
        import ray
        from ray.train.torch import TorchConfig
        from ray.train.v2.api.config import (  # those of ray.train, with their types
            FailureConfig,
            RunConfig,
            ScalingConfig,
        )

        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}  # another node may be lost
        self.mailbox = cast("ActorHandle", ray.remote(num_cpus=0, label_selector=here)(_Mailbox).remote())
        self.posted = 0
        self.fault: BaseException | None = None
        folder = storage.join(job.run_uri, "_ray")
        self.gpus = gpus = device.wants_gpus(job)
        workers = job.train.workers
        fewest = job.train.min_workers if job.address is not None else None  # here nothing is ever missing
        if fewest is not None:  # Ray may count on a node that was just lost: then it must soon give up and count again
            os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(ELASTIC_START_SECONDS)
        # with `exact` as many at any number of workers
        threads = job.train.exact_threads if job.train.exact else placement.cpus_per_worker(workers, gpus)
        per_worker = None if gpus else {"CPU": threads} if job.address else {"CPU": 0, embedded.TRAIN_SLOT: 1}
        self.folder = folder
        trainer = _trainer(private=job.address is None)(
            _worker,
            train_loop_config={"mailbox": self.mailbox, "threads": threads},
            # gloo beside NCCL: checkpoints gather what lies in the memory of the CPU
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=workers if fewest is None else (fewest, workers),
                elastic_resize_monitor_interval_s=job.train.resize_seconds,
                use_gpu=gpus,
                resources_per_worker=per_worker,
                label_selector=placement.GPU if gpus else placement.CPU,
            ),
            run_config=RunConfig(
                name=uuid.uuid4().hex[:8],
                storage_path=folder,
                failure_config=FailureConfig(max_failures=job.train.max_failures),
            ),
        )
        self.thread = threading.Thread(target=self._fit, args=(trainer,), daemon=True)
        self.thread.start()

    def _fit(self, trainer) -> None:
        try:
            trainer.fit()
        except BaseException as error:  # raised again by `run`, in the thread that waits for the result
            self.fault = error

    def run(self, command: Command, follow: Callable[[], None]) -> None:
        """Run one command to its end, calling `follow` now and then. Raises what the group failed with."""
        import ray

        ray.get(self.mailbox.post.remote(command))
        self.posted += 1
        try:
            self._wait(follow)
        except KeyboardInterrupt:
            if ray.get(self.mailbox.request_stop.remote()):
                print("stopping after a checkpoint; once more Ctrl-C stops at once", file=sys.stderr, flush=True)
                self._wait(lambda: None, STOP_SECONDS)
            raise

    def _wait(self, follow: Callable[[], None], seconds: float = math.inf) -> None:
        import ray

        deadline = time.monotonic() + seconds
        finished: ObjectRef[None] = self.mailbox.until.remote(self.posted)
        while not ray.wait([finished], timeout=POLL_SECONDS)[0]:
            if time.monotonic() > deadline:
                return
            if not self.thread.is_alive():
                raise self.fault or RuntimeError("the worker group ended before its work was done")
            follow()
        ray.get(finished)  # raises where the mailbox was lost
        follow()

    def end(self) -> None:
        import ray

        ray.get(self.mailbox.post.remote(None))
        self.thread.join()
        storage.remove(self.folder)


def _trainer(private: bool) -> type[TorchTrainer]:
    """Ray Train's trainer without three of its actors, each a process that takes two CPU seconds to start. One shares out data
    sets, of which we give it none. On a `private` Ray one would ask an autoscaler, and one outlive a controller that dies.

    A version of Ray in which these methods have other names starts all three."""
    from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
    from ray.train.v2.torch.torch_trainer import TorchTrainer

    unwanted = {"DatasetsCallback", "PlacementGroupCleanerCallback"} if private else {"DatasetsCallback"}

    class Fixed(FixedScalingPolicy):
        def after_controller_start(self, train_run_context) -> None:
            pass

        def _maybe_send_resource_request(self) -> None:
            pass

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list:
            every = super()._create_default_callbacks()
            return [one for one in every if type(one).__name__ not in unwanted]

        def _initialize_and_run_controller(self, **own):
            if private:
                own["scaling_policy"] = Fixed(own["scaling_policy"].scaling_config)
            return super()._initialize_and_run_controller(**own)

    return Trainer


def stop() -> None:
    """End the warm group, if there is one, and what a run without Ray has started."""
    alone.stop()
    while _warm:
        _warm.pop().end()


def _worker(config: dict) -> None:
    import ray
    import ray.train
    import torch

    from train.monitor import stop

    mailbox, rank = config["mailbox"], ray.train.get_context().get_world_rank()
    threading.Thread(target=_watch, args=(mailbox, stop.requested), daemon=True).start()
    threading.Thread(target=_watch_node, args=(stop.checkpoint_wanted,), daemon=True).start()
    if torch.cuda.is_available() and (own := device.here()).type == "cuda":
        torch.cuda.set_device(own)
    else:
        torch.set_num_threads(config["threads"])
    number = ray.get(mailbox.finished.remote())  # a restarted group runs the unfinished command again
    while True:
        number, command = ray.get(mailbox.after.remote(number))
        if command is None:
            return
        module, name = command["function"].split(":")
        try:
            result = getattr(importlib.import_module(module), name)(command["settings"])
        except (ValueError, FloatingPointError) as error:  # trying again would give the same
            result = {"error": str(error)}
        except stop.Stopped as stopped:
            result = {"stopped": str(stopped)}
        gc.collect()
        if rank == 0:
            storage.write_json(command["result_uri"], result)
            ray.get(mailbox.finish.remote(number))


def _watch(mailbox, requested: threading.Event) -> None:
    """Set `requested` when the mailbox says so. A lost mailbox ends the group anyway."""
    import ray

    with contextlib.suppress(ray.exceptions.RayError):
        while not ray.get(mailbox.stop_requested.remote()):
            time.sleep(WATCH_SECONDS)
        requested.set()


def _watch_node(wanted: threading.Event) -> None:
    """Set `wanted` once when this node is about to be taken away (a spot notice, a drain).

    `ray.train.get_preemption_info` says it too, but makes all workers wait for one another."""
    import ray
    from ray._private.state import state

    own = ray.get_runtime_context().get_node_id()
    with contextlib.suppress(ray.exceptions.RayError):
        while own not in state.get_draining_nodes():
            time.sleep(NODE_SECONDS)
        wanted.set()


def _follower(job: Job, steps: int) -> Callable[[], None]:
    """What brings the newest record to the progress bar. Training goes on from its newest checkpoint, and what the records say
    of later steps is of a process that is gone. The rate counts from the first new record: the first update compiles."""
    from train.checkpoint import checkpoint
    from train.monitor import metrics

    newest = checkpoint.latest(job.path("checkpoints"))
    job.progress.start(steps, "steps", newest.step if newest else 0)
    last = metrics.read(job.metrics_uri)[-1:]
    began = False

    def follow() -> None:
        nonlocal last, began
        with contextlib.suppress(OSError):
            if (found := metrics.read(job.metrics_uri)[-1:]) in ([], last):
                return
            last = found
            if began:
                job.progress.set(found[0]["step"])
            else:
                began = True
                job.progress.count_from(found[0].get("steps", steps), found[0]["step"])

    return follow
