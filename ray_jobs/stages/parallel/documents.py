"""parallel/documents: the pairs that are left become documents to train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice

import pyarrow as pa

from cluster import storage
from cluster.shards import Batches, Marker, Shard, done, finished, ledger_rows, write_shard
from curation.parallel import documents
from ray_jobs.run.graph import PARALLEL_ALIGN, PARALLEL_DECONTAMINATE, PARALLEL_DEDUP, PARALLEL_DOCUMENTS
from ray_jobs.run.job import Job
from ray_jobs.work.shards import shards_of, totals
from ray_jobs.work.tasks import map_on_ray


def run(job: Job) -> dict:
    settings = job.recipe.parallel
    before = next(name for name in (PARALLEL_ALIGN, PARALLEL_DECONTAMINATE, PARALLEL_DEDUP) if job.has(name))
    shards = shards_of(job, before)
    writer = documents.Writer(settings.formats.model_dump(), settings.block, documents.templates(settings.templates))
    markers = map_on_ray(job, _write, [(one, writer) for one in shards], finished=finished(shards))
    counts = totals(markers)
    pairs = job.manifest(before)["docs_per_lang"]
    made: Counter[tuple[str, str]] = Counter()
    for one in shards:
        table = storage.read_table(one.part, ["format", "direction"])
        made.update(zip(table["format"].to_pylist(), table["direction"].to_pylist(), strict=True))
    return {
        **counts,
        "pairs": pairs,
        "formats": _sums((name, n) for (name, _), n in made.items()),
        "directions": _sums((name, n) for (_, name), n in made.items()),
        "warnings": [] if pairs or not shards else ["parallel: no pair is left; the ledger of its stages says why"],
    }


def _write(task: tuple[Shard, documents.Writer]) -> Marker:
    one, writer = task
    if marker := done(one):
        return marker

    def batches() -> Batches:
        yield pa.RecordBatch.from_pylist([], documents.DOCUMENT), ledger_rows(PARALLEL_DOCUMENTS, [])
        with storage.open_parquet(one.input) as parquet:
            rows = (row for batch in parquet.iter_batches(documents.BATCH_ROWS) for row in batch.to_pylist())
            made = writer.documents(rows)
            while some := list(islice(made, documents.BATCH_ROWS)):
                yield pa.RecordBatch.from_pylist(some, documents.DOCUMENT), ledger_rows(PARALLEL_DOCUMENTS, [])

    return write_shard(batches(), one)


def _sums(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for name, n in counts:
        found[name] += n
    return dict(sorted(found.items()))
