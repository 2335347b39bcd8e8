"""annotate: what others say of our documents (`annotations`), found by id, URL or text; filter/signals makes columns of it.

A document that nobody annotated stays, with unknown values."""

from __future__ import annotations

from ray_jobs.run import annotation_choice
from ray_jobs.run.graph import LANGUAGE
from ray_jobs.run.job import Job
from ray_jobs.work.engine import on_engine
from ray_jobs.work.shards import shards_of


def run(job: Job) -> dict:
    from curation.annotations.join import annotate

    chosen = annotation_choice.chosen(job.recipe)
    shards = shards_of(job, LANGUAGE)
    documents = job.manifest(LANGUAGE)["docs_out"]
    job.progress.start(len(shards), "shards")
    with on_engine(job) as engine:
        found = annotate(engine, shards, chosen, job.progress.set)
    joined = [
        {"path": one.path, "key": one.key, "columns": dict(one.types), "files": len(one.files), **counts}
        for one, counts in zip(chosen, found, strict=True)
    ]
    nothing = [
        f"annotate: no document has a row of {one['path']} by its {one['key']}; look at both "
        "(docs/curation.md#annotations-of-others)"
        for one in joined
        if documents and not one["matched"]
    ]
    return {"docs_in": documents, "docs_out": documents, "dropped": 0, "annotations": joined, "warnings": nothing}
