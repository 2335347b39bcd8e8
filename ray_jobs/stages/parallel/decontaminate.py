"""parallel/decontaminate: pairs of which a side holds a passage of an evaluation set leave."""

from __future__ import annotations

from curation.decontaminate import Lengths
from curation.parallel import quoted
from ray_jobs.run import files
from ray_jobs.run.graph import PARALLEL_DEDUP
from ray_jobs.run.job import Job
from ray_jobs.work.shards import run_kernel


def run(job: Job) -> dict:
    settings = job.recipe.decontaminate
    sets = files.named(settings.against, "decontaminate.against")
    lengths = Lengths(settings.words, settings.letters, settings.han)
    return run_kernel(job, PARALLEL_DEDUP, quoted.kernel, sets, settings.fields, lengths)
