"""What every shard stage shares: one part in, one part out, markers added up to a manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeVar

from cluster import storage
from cluster.shards import Counts, Kernel, Marker, Shard, finished, run_shard
from ray_jobs.run.job import Job
from ray_jobs.work.tasks import map_on_ray

BATCH_ROWS = 256  # of pages, so that a batch of large ones still fits in memory

Task = tuple[Callable[..., Kernel], tuple, Shard]
"""(what makes the kernel, its arguments, the part)."""
R = TypeVar("R")

_kernels: dict[str, Kernel] = {}


def shards_of(job: Job, stage: str) -> list[Shard]:
    """One shard for each part of the input stage, with the same name."""
    parts = storage.glob(job.input(stage, "part-*.parquet"))
    return [shard(job, part.rsplit("/", 1)[1].removesuffix(".parquet"), part) for part in parts]


def shard(job: Job, name: str, source: str) -> Shard:
    return Shard(name=name, input=source, output=job.path(), ledger=job.ledger, fingerprint=job.fingerprint)


def run_kernel(job: Job, stage: str, make: Callable[..., Kernel], *arguments, gpus: bool = False) -> dict:
    """Run the kernel `make(*arguments)` over the parts of `stage` as Ray tasks, one GPU each where `gpus`; it is made once per
    worker process."""
    markers = run_parts(job, stage, run_one, make, *arguments, gpus=gpus)
    return totals(markers, docs_in=job.manifest(stage)["docs_out"])


def run_parts(
    job: Job, stage: str, run: Callable[[Task], R], make: Callable[..., Kernel], *arguments, gpus: bool = False
) -> list[R]:
    """`run` of a task for each part of `stage`, such as `run_one`, or that and more about the part that it made."""
    shards = shards_of(job, stage)
    return map_on_ray(job, run, [(make, arguments, one) for one in shards], gpus=gpus, finished=finished(shards))


def run_one(task: Task) -> Marker:
    """The kernel of a task over its part."""
    make, arguments, one = task
    key = f"{one.output}:{one.fingerprint}"
    if key not in _kernels:
        _kernels.clear()
        _kernels[key] = make(*arguments)
    return run_shard(_kernels[key], one, BATCH_ROWS)


def totals(markers: Iterable[Counts], docs_in: int | None = None) -> dict:
    """Markers of all shards added up: documents and bytes per language, and how many broke each rule."""
    docs: Counter[str] = Counter()
    text_bytes: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    dropped = out = 0
    for marker in markers:
        docs.update(marker["docs_per_lang"])
        text_bytes.update(marker["bytes_per_lang"])
        rules.update(marker["rules"])
        dropped += marker["dropped"]
        out += marker["docs_out"]
    return {
        "docs_in": out + dropped if docs_in is None else docs_in,
        "docs_out": out,
        "dropped": dropped,
        "bytes": sum(text_bytes.values()),
        "docs_per_lang": dict(sorted(docs.items())),
        "bytes_per_lang": dict(sorted(text_bytes.items())),
        "rules": dict(sorted(rules.items())),
    }
