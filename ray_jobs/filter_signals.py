"""filter/signals: normalise the text and measure every signal of every document; nothing is dropped here.

So a policy can be changed, tried and explained without reading the texts again.
"""

from __future__ import annotations

from ray_jobs.engine import run_shards
from ray_jobs.run import Job
from ray_jobs.shard_stage import shards_of, totals


def run(job: Job) -> dict:
    from curation import icu_dictionary, word_lists
    from curation.signals import signals_kernel

    folder = job.recipe.filter.word_lists
    kernel = signals_kernel(list(job.recipe.languages), word_lists.read(folder) if folder else None)
    markers = run_shards(job, kernel, shards_of(job, "language"))
    result = totals(markers, docs_in=job.manifest("language")["docs_out"])
    return {
        **result,
        "words_cut_by": icu_dictionary.source() or "nothing: in scripts without spaces letters count as words",
    }
