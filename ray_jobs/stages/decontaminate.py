"""decontaminate: documents that hold a passage of an evaluation set leave, so that the evaluation measures no memory."""

from __future__ import annotations

from collections import Counter

from cluster import storage
from curation import decontaminate
from ray_jobs.run import files
from ray_jobs.run.graph import DEDUP
from ray_jobs.run.job import Job
from ray_jobs.work.shards import run_kernel


def run(job: Job) -> dict:
    settings = job.recipe.decontaminate
    sets = files.named(settings.against, "decontaminate.against")
    lengths = decontaminate.Lengths(settings.words, settings.letters, settings.han)
    index = decontaminate.build(sets, settings.fields, lengths)  # a wrong row is told before anything is read
    result = run_kernel(job, DEDUP, decontaminate.decontaminate_kernel, sets, settings.fields, lengths)
    return {**result, "items": len(index.items), "items_too_short": index.too_short, "documents_per_set": _per_set(job)}


def _per_set(job: Job) -> dict[str, int]:
    """How many documents each evaluation file condemned, counted under the item that was found first."""
    found: Counter[str] = Counter()
    for part in storage.glob(storage.join(job.ledger, "part-*.parquet")):
        details = storage.read_table(part, ["detail"])["detail"].to_pylist()
        found.update(detail.split(" ", 1)[0] for detail in details)
    return dict(sorted(found.items()))
