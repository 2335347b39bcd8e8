"""Run a function on the workers of a Ray Train group and follow its metrics.

The function gets one settings dict and finds torch.distributed initialised. It resumes by itself from its newest complete
checkpoint on storage, so a restarted worker group (FailureConfig) and a restarted run continue in the same way; what Ray
remembers of checkpoints is not used (`report()` can lose the last one when a worker dies at once).
"""

from __future__ import annotations

import importlib
import os
import threading
import uuid
from collections.abc import Callable

from cluster import embedded, storage
from ray_jobs.run import Job

POLL_SECONDS = 1.0


def launch(job: Job, function: Callable[[dict], dict], settings: dict, steps: int = 0) -> dict:
    """`function(settings)` on every worker; returns what rank 0 returned. `steps` is the length of the progress bar.

    Raises what the worker group failed with after its retries."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    embedded.start(job.address, job.recipe.cluster.cpus)
    import torch

    gpus = torch.cuda.is_available()
    result_uri = job.path(f"_result-{uuid.uuid4().hex[:8]}.json")
    ray_folder = storage.join(job.run_uri, "_ray", job.stage.name.replace("/", "-"))
    metrics_uri = storage.join(job.metrics, f"{job.stage.name.replace('/', '-')}.jsonl")
    # by name: else Ray's controller, which only hands it on, would import transformers first, 3 s for every stage
    name = f"{function.__module__}:{function.__qualname__}"
    config = {**settings, "metrics_uri": metrics_uri, "_function": name, "_result_uri": result_uri}
    workers = min(job.recipe.train.workers, embedded.cpus())
    trainer = TorchTrainer(
        _worker,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus,
            resources_per_worker=None if gpus else {"CPU": embedded.cpus() // workers},
        ),
        run_config=RunConfig(
            name=uuid.uuid4().hex[:8],
            storage_path=ray_folder if not storage.is_local(ray_folder) else os.path.abspath(storage.local(ray_folder)),
            failure_config=FailureConfig(max_failures=3),
        ),
    )
    job.progress.start(steps, "steps")
    ended = threading.Event()
    follower = threading.Thread(target=_follow, args=(job, metrics_uri, ended), daemon=True)
    follower.start()
    try:
        trainer.fit()
    finally:
        ended.set()
        follower.join()
        storage.remove(ray_folder)
    result = storage.read_json(result_uri)
    storage.remove(result_uri)
    if "error" in result:
        raise ValueError(result["error"])
    return result


def _worker(config: dict) -> None:
    import ray.train
    import torch

    context = ray.train.get_context()
    module, name = config.pop("_function").split(":")
    function, result_uri = getattr(importlib.import_module(module), name), config.pop("_result_uri")
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
    try:
        result = function(config)
    except (ValueError, FloatingPointError) as error:  # trying again would give the same
        result = {"error": str(error)}
    if context.get_world_rank() == 0:
        storage.write_json(result_uri, result)


def _follow(job: Job, metrics_uri: str, ended: threading.Event) -> None:
    from train.metrics import read

    while not ended.wait(POLL_SECONDS):
        records = read(metrics_uri)
        if records:
            job.progress.set(records[-1]["step"])
