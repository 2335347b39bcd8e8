"""parallel/pairs: read every source of parallel text into pairs, one part per file, and drop those that are no translations."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from cluster.shards import Batches, Marker, Shard, done, finished, ledger_rows, write_shard
from curation.lid.identify import ModelName, identify
from curation.parallel.clean import Bounds, cleaner
from curation.parallel.read import read
from curation.parallel.schema import PAIR, STAGE, Origin
from curation.schema import Limits
from ray_jobs.config.parallel import ParallelSource
from ray_jobs.config.recipe import Recipe
from ray_jobs.run import files, identifier
from ray_jobs.run.graph import PARALLEL_PAIRS
from ray_jobs.run.job import Job
from ray_jobs.run.locate import Keys
from ray_jobs.work.shards import shard, totals
from ray_jobs.work.tasks import map_on_ray

Task = tuple[str, ParallelSource, list[str], Limits, str | ModelName, Bounds, Shard]


def run(job: Job) -> dict:
    check(job.recipe)
    settings, crawl = job.recipe.parallel, job.recipe.crawl
    limits = Limits(max_record_bytes=crawl.max_record_bytes, max_line_bytes=crawl.max_line_bytes)
    bounds = Bounds(settings.max_length_ratio, settings.max_similarity, dict(settings.min_score), settings.min_letters)
    found = [(source, uris) for source in settings.sources for uris in files.of_parallel(source)]
    tasks = [
        (
            job.run_uri,
            source,
            uris,
            limits,
            identifier.of(job.recipe),
            bounds,
            shard(job, f"part-{number:05d}", uris[0]),
        )
        for number, (source, uris) in enumerate(found)
    ]
    markers = map_on_ray(job, _read, tasks, "files", finished=finished([task[-1] for task in tasks]))
    _remove_others(job, {task[-1].name for task in tasks})
    return {**totals(markers), "files": len(tasks)}


def check(recipe: Recipe) -> None:
    """Raises ValueError for a language that the identifier does not know."""
    identify(identifier.of(recipe), sorted({lang for source in recipe.parallel.sources for lang in source.langs}))


def _read(task: Task) -> Marker:
    run_uri, source, uris, limits, model, bounds, one = task
    if marker := done(one):
        return marker
    origin = Origin(source.name, files.within(source, uris[0]), source.langs, source.licence, limits)
    clean = cleaner(model, bounds)

    def batches() -> Batches:
        yield pa.RecordBatch.from_pylist([], PAIR), ledger_rows(STAGE, [])  # the schema, should the file hold nothing
        keys = Keys()
        for pairs, unread in read(source.kind, uris, origin, source.places):
            if source.share < 1.0:
                pairs = pairs.filter(pc.less(pairs["doc_id"], format(int(source.share * 16**8), "08x")))
            kept, unfit = clean(pairs)
            keys.add(pairs)
            keys.add(unread.append_column("source_id", unread["url"]))  # the place in the file, which is no URL
            yield kept, pa.concat_batches([unread, unfit])
        keys.write(run_uri, f"{one.name}.parquet", PARALLEL_PAIRS)

    return write_shard(batches(), one)


def _remove_others(job: Job, parts: set[str]) -> None:
    """Remove what an earlier start of the stage left of files that are no more."""
    for folder in (job.path(), job.path("_keys"), job.ledger):
        for uri in storage.glob(storage.join(folder, "*.parquet")):
            if uri.rsplit("/", 1)[1].removesuffix(".parquet") not in parts:
                storage.remove(uri)
