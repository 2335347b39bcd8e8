"""parallel/dedup: pairs of which a side was there before leave. What goes is decided for each pair of languages, then written
part by part."""

from __future__ import annotations

import pyarrow as pa

from cluster import storage
from cluster.shards import Batches, Marker, Shard, done, finished, input_ids, write_shard
from curation.parallel import repeats
from ray_jobs.run.graph import PARALLEL_PAIRS
from ray_jobs.run.job import Job
from ray_jobs.work.shards import shards_of, totals
from ray_jobs.work.tasks import map_on_ray


def run(job: Job) -> dict:
    shards = shards_of(job, PARALLEL_PAIRS)
    counts = job.manifest(PARALLEL_PAIRS)
    inputs = [one.input for one in shards]
    folder = job.path("_repeats")
    tasks = [
        (inputs, lang, job.recipe.parallel.duplicates, storage.join(folder, f"{lang}.parquet"))
        for lang in counts["docs_per_lang"]
    ]
    map_on_ray(job, _find, tasks, "pairs of languages")
    found = [task[-1] for task in tasks]
    markers = map_on_ray(job, _write, [(one, found) for one in shards], finished=finished(shards))
    return totals(markers, docs_in=counts["docs_out"])


def _find(task: tuple[list[str], str, float, str]) -> None:
    parts, lang, threshold, uri = task
    if not storage.exists(uri):
        storage.write_table(uri, repeats.found(parts, lang, threshold))


def _write(task: tuple[Shard, list[str]]) -> Marker:
    one, found = task
    if marker := done(one):
        return marker
    mine = [storage.read_table(uri).filter(pa.compute.field("part") == f"{one.name}.parquet") for uri in found]
    gone = pa.concat_tables([pa.Table.from_pylist([], repeats.REPEATS), *mine]).sort_by("row").combine_chunks()

    def batches() -> Batches:
        with storage.open_parquet(one.input) as parquet:
            yield repeats.without(pa.RecordBatch.from_pylist([], parquet.schema_arrow), 0, gone)
            begin = 0
            for batch in parquet.iter_batches(repeats.READ_ROWS):
                yield repeats.without(batch, begin, gone)
                begin += batch.num_rows

    return write_shard(batches(), one, input_ids(one))
