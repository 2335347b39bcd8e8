"""Where models run: whether a job asks Ray for GPUs, and which device a task or training worker has got."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cluster.engines import embedded, placement
from ray_jobs.run.job import Job

if TYPE_CHECKING:  # imported where a model is: the workers of curation, which map_on_ray starts too, hold none
    import torch

GPU = "PINISI_GPU"  # environment variable of a task or rank without Ray: its GPU's number among those that are visible
BATCH_TOKENS = {"cpu": 8192, "cuda": 65_536}  # of a batch that a model only reads, padding included


def wants_gpus(job: Job) -> bool:
    """Whether models run on GPUs: `train.device`, or, when that is auto, whether this machine or the cluster has one."""
    import torch

    device = job.recipe.train.device if job.recipe.train else "auto"  # models also rewrite a corpus without training
    if device != "auto" or torch.cuda.is_available():
        return device != "cpu"
    if not job.ray:
        return False
    embedded.start(job.address, job.recipe.cluster.cpus)  # a run that continues here has not been asked for Ray yet
    return placement.has_gpus()


def here() -> torch.device:
    """The GPU that Ray gave to this task or training worker, else the CPU: a GPU that is merely visible is not ours.

    Ray shows each training worker all GPUs of its node's workers (CUDA_VISIBLE_DEVICES), so that they can reach one another;
    which of them is its own `ray.get_gpu_ids` says. Raises ValueError when torch cannot use it.
    """
    import ray
    import torch

    own = [str(number) for number in ray.get_gpu_ids()] if ray.is_initialized() else []
    if not own and (number := os.environ.get(GPU)) is not None:  # without Ray
        return torch.device("cuda", int(number))
    if not own:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(
            f"Ray gave this worker GPU {own[0]}, but torch {torch.__version__} cannot use it; `pinisi doctor` on that node "
            "says why, train.device: cpu does without"
        )
    return torch.device("cuda", os.environ["CUDA_VISIBLE_DEVICES"].split(",").index(own[0]))


def dtype(precision: str, where: torch.device) -> torch.dtype:
    """What a model that is only read is loaded in: bf16 on a GPU, unless `train.precision` is fp32."""
    import torch

    return torch.float32 if where.type == "cpu" or precision == "fp32" else torch.bfloat16
