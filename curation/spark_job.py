"""Shard stages and deduplication on Spark. Spark moves keys (ids, hashes, lengths); texts stay with Python workers.

dedup, one pass over the texts for keys, one for lines, one to write (recipe sections 2.1 and 2.6):

1. keys of every document: normalised URL, length, MinHash band keys, and a sketch (the low byte of each minimum);
2. of the documents of one URL the longest stays (then the smallest doc_id);
3. the rest is ranked by (length falling, doc_id); band keys make edges to the first of each bucket, the estimate of the
   pair is checked against the threshold, components give the survivor: the smallest rank, so the longest document;
4. lines of the survivors are counted per bucket, and the frequent ones are cut when a part is written.

No decision looks at which part a document came from or at the order of parts: any split of a corpus gives the same.
Near-duplicates are sought within a language, whose name is part of each band key.
"""

from __future__ import annotations

import argparse
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from cluster import storage
from cluster.shards import Kernel, Shard, done, input_ids, run_shard, write_shard
from curation.components import connected_components, star_components
from curation.dedup import ACTIONS, KEYS, LINES, STAGE, DedupConfig, part_cleaned, part_keys, part_lines
from curation.minhash import jaccard_estimate

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Progress = Callable[[int], None]
"""Called with the number of shards that are done."""

Batches = Iterator[pa.RecordBatch]

POLL_SECONDS = 0.2
DROPS = ["part", "row", "rule", "value", "threshold", "detail"]


def run_shards(
    spark: SparkSession, kernel: Kernel, shards: list[Shard], progress: Progress | None = None
) -> list[dict]:
    """`cluster.shards.run_shard` of each shard on Spark, one task a shard; finished ones are skipped.

    Returns the markers in the order of `shards`. `kernel` must pickle; `progress` is called with the number done.
    """
    if not shards:
        return []
    finished = spark.sparkContext.accumulator(0)

    def run(shard: Shard) -> dict:
        marker = run_shard(kernel, shard)
        finished.add(1)
        return marker

    def job() -> list[dict]:
        return spark.sparkContext.parallelize(shards, len(shards)).map(run).collect()

    return _watched(spark, job, lambda: finished.value, progress)


def dedup(  # noqa: PLR0917
    spark: SparkSession,
    parts: list[str],
    out_uri: str,
    ledger_uri: str,
    config: DedupConfig,
    fingerprint: str,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Deduplicate the documents of the Parquet files `parts` into shards of the same names under `out_uri`.

    Parts have doc_id, text and, where known, url, crawl and lang. Documents without a url, or with an empty crawl (those
    of a source that is no crawl, whose url may name the whole book), skip step 2. The ledger gets for each dropped
    document its rule: `url_duplicate` (detail: the doc_id that stays; value and threshold: characters of this one and of
    that), `repeated_id` (the same record read twice), `near_duplicate` (detail: the survivor; value: estimated Jaccard
    with it) or `frequent_lines` (value: words left). A chain of near-duplicates may join a document to its survivor, so
    its value can lie under the threshold. Finished shards are kept. Returns counts of documents in, out and per rule.
    """
    if not parts:
        raise ValueError("dedup: there are no parts to deduplicate")
    names = [part.rsplit("/", 1)[-1].removesuffix(".parquet") for part in parts]
    if len(set(names)) != len(names):
        raise ValueError("dedup: two parts have the same file name, so one would overwrite the other")
    shards = [Shard(name, part, out_uri, ledger_uri, fingerprint) for name, part in zip(names, parts, strict=True)]
    if not all(done(shard) for shard in shards):
        _dedup(spark, shards, config, progress)
    elif progress:
        progress(len(shards))
    markers = [storage.read_json(shard.marker) for shard in shards]
    rules = Counter()
    for marker in markers:
        rules.update(marker["rules"])
    kept = sum(marker["docs_out"] for marker in markers)
    return {"docs_in": kept + rules.total(), "docs_out": kept, **dict(sorted(rules.items()))}


def _dedup(spark: SparkSession, shards: list[Shard], config: DedupConfig, progress: Progress | None) -> None:
    from pyspark import StorageLevel

    parts = [shard.input for shard in shards]
    keys = spark.range(0, len(parts), 1, len(parts)).mapInArrow(_keys(parts, config), _sql(KEYS))
    by_page = _by_page(keys).persist(StorageLevel.DISK_ONLY)
    ranked = _ranked(by_page).persist(StorageLevel.DISK_ONLY)
    drops = _page_drops(by_page).union(_near_drops(spark, ranked, config)).persist(StorageLevel.DISK_ONLY)
    n_buckets = max(1, -(-(by_page.count() - drops.count()) // config.line_bucket_documents))

    every_part = spark.createDataFrame(pa.table({"part": np.arange(len(parts), dtype=np.int32)}))
    actions = _actions(every_part, "part").union(_actions(drops, *DROPS))
    counted = _by_part(actions, len(parts)).mapInArrow(_lines(parts, n_buckets, config), _sql(LINES))
    actions = actions.union(_actions(_frequent(counted, config), "part", "bucket", "line"))
    written = spark.sparkContext.accumulator(0)
    write = _by_part(actions, len(parts)).mapInArrow(_write(shards, n_buckets, config, written), "part int")
    _watched(spark, write.collect, lambda: written.value, progress)
    for frame in (by_page, ranked, drops):
        frame.unpersist()


def _sql(schema: pa.Schema) -> str:
    names = {"int32": "int", "int64": "long", "double": "double", "string": "string", "binary": "binary"}
    return ", ".join(f"{f.name} {names.get(str(f.type), 'array<long>')}" for f in schema)


def _actions(frame: DataFrame, *given: str) -> DataFrame:
    """Rows of ACTIONS with the columns that `frame` has and nulls in the others."""
    from pyspark.sql import functions as F

    columns = [column.split() for column in _sql(ACTIONS).split(", ")]
    return frame.select(*(F.col(n) if n in given else F.lit(None).cast(kind).alias(n) for n, kind in columns))


def _by_part(actions: DataFrame, n_parts: int) -> DataFrame:
    """Partition p holds what is to be done in part p, and nothing else: one task a part."""
    return actions.repartitionById(n_parts, "part")


def _keys(parts: list[str], config: DedupConfig) -> Callable[[Batches], Batches]:
    def keys(batches: Batches) -> Batches:
        for batch in batches:
            for part in batch["id"].to_pylist():
                yield from part_keys(parts[part], part, config.minhash)

    return keys


def _by_page(keys: DataFrame) -> DataFrame:
    """Keys with `place` among the documents of the page (1 stays) and id and length of the one that stays."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    page = Window.partitionBy("page").orderBy(F.desc("length"), "doc_id", "part", "row")
    winner = F.first(F.struct("doc_id", "length")).over(page)
    return keys.withColumn("place", F.row_number().over(page)).withColumn("winner", winner)


def _page_drops(by_page: DataFrame) -> DataFrame:
    from pyspark.sql import functions as F

    same_record = F.col("doc_id") == F.col("winner.doc_id")
    return by_page.filter("place > 1").select(
        "part",
        "row",
        F.when(same_record, "repeated_id").otherwise("url_duplicate").alias("rule"),
        F.col("length").cast("double").alias("value"),
        F.col("winner.length").cast("double").alias("threshold"),
        F.col("winner.doc_id").alias("detail"),
    )


def _ranked(by_page: DataFrame) -> DataFrame:
    """One document a page with `id`, a number that rises as documents get shorter (then with their doc_id)."""
    from pyspark.sql import functions as F

    kept = by_page.filter("place = 1 and bands is not null").drop("place", "winner", "page")
    return kept.orderBy(F.desc("length"), "doc_id").withColumn("id", F.monotonically_increasing_id())


def _near_drops(spark: SparkSession, ranked: DataFrame, config: DedupConfig) -> DataFrame:
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    bucket = Window.partitionBy("key")
    banded = ranked.select("id", F.explode("bands").alias("key"))
    pairs = banded.select(F.min("id").over(bucket).alias("a"), F.col("id").alias("b")).filter("a < b").distinct()
    edges = _with_sketches(pairs, ranked).mapInArrow(_forest(config.threshold), "a long, b long").localCheckpoint()
    if edges.count() > config.max_driver_edges:
        labels = star_components(edges)
    else:
        table = edges.toArrow()
        ids, label = connected_components(table["a"].to_numpy(), table["b"].to_numpy())
        moved = ids != label
        labels = spark.createDataFrame(pa.table({"id": ids[moved], "label": label[moved]}), "id long, label long")
    survivors = labels.select(F.col("label").alias("a"), F.col("id").alias("b"))
    return _with_sketches(survivors, ranked).mapInArrow(
        _near_duplicates(config.threshold), _sql(pa.schema([ACTIONS.field(name) for name in DROPS]))
    )


def _with_sketches(pairs: DataFrame, ranked: DataFrame) -> DataFrame:
    """Pairs (a, b) with the sketches of both, the doc_id of `a` (detail), and where `b` is (part, row)."""
    from pyspark.sql import functions as F

    first = ranked.select(F.col("id").alias("a"), F.col("sketch").alias("sketch_a"), F.col("doc_id").alias("detail"))
    second = ranked.select(F.col("id").alias("b"), F.col("sketch").alias("sketch_b"), "part", "row")
    return pairs.join(first, "a").join(second, "b")


def _estimates(batch: pa.RecordBatch) -> np.ndarray:
    def sketches(name: str) -> np.ndarray:
        return np.frombuffer(b"".join(batch[name].to_pylist()), np.uint8).reshape(batch.num_rows, -1)

    return jaccard_estimate(sketches("sketch_a"), sketches("sketch_b"))


def _forest(threshold: float) -> Callable[[Batches], Batches]:
    """Pairs that reach the threshold, as a spanning forest of the partition: never more edges than documents."""

    def forest(batches: Batches) -> Batches:
        a, b = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for batch in batches:
            if batch.num_rows:
                near = _estimates(batch) >= threshold
                a.append(batch["a"].to_numpy()[near])
                b.append(batch["b"].to_numpy()[near])
        ids, labels = connected_components(np.concatenate(a), np.concatenate(b))
        moved = ids != labels
        yield pa.RecordBatch.from_pydict({"a": labels[moved], "b": ids[moved]})

    return forest


def _near_duplicates(threshold: float) -> Callable[[Batches], Batches]:
    def near_duplicates(batches: Batches) -> Batches:
        for batch in batches:
            if n := batch.num_rows:
                yield pa.RecordBatch.from_pydict(
                    {
                        "part": batch["part"],
                        "row": batch["row"],
                        "rule": pa.array(["near_duplicate"] * n),
                        "value": np.round(_estimates(batch), 4),
                        "threshold": np.full(n, threshold),
                        "detail": batch["detail"],
                    }
                )

    return near_duplicates


def _table(batches: Batches) -> pa.Table:
    return pa.Table.from_batches([batch.cast(ACTIONS) for batch in batches], ACTIONS)


def _lines(parts: list[str], n_buckets: int, config: DedupConfig) -> Callable[[Batches], Batches]:
    def count(batches: Batches) -> Batches:
        actions = _table(batches)
        if actions.num_rows:
            yield part_lines(parts[actions["part"][0].as_py()], actions, n_buckets, config)

    return count


def _frequent(counted: DataFrame, config: DedupConfig) -> DataFrame:
    """Lines over the limit in their bucket, once for each part that has them."""
    from pyspark.sql import functions as F

    total = counted.groupBy("bucket", "line").agg(F.sum("n").alias("n"), F.collect_list("part").alias("parts"))
    over = total.filter(F.col("n") > config.line_max_count)
    return over.select("bucket", "line", F.explode("parts").alias("part"))


def _write(shards: list[Shard], n_buckets: int, config: DedupConfig, written) -> Callable[[Batches], Batches]:
    def write(batches: Batches) -> Batches:
        actions = _table(batches)
        if actions.num_rows:
            shard = shards[actions["part"][0].as_py()]
            if not done(shard):
                write_shard(part_cleaned(shard.input, actions, n_buckets, config), shard, input_ids(shard))
            written.add(1)
            yield pa.RecordBatch.from_pydict({"part": actions["part"][:1].combine_chunks()})

    return write


def _watched(
    spark: SparkSession, job: Callable[[], list], finished: Callable[[], int], progress: Progress | None
) -> list:
    """Result of a Spark job, with `progress` called while it runs; Ctrl-C ends the job too."""
    group = uuid.uuid4().hex

    def run() -> list:
        spark.sparkContext.setJobGroup(group, STAGE, interruptOnCancel=True)
        return job()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        try:
            while wait([running], POLL_SECONDS).not_done:
                if progress:
                    progress(finished())
        except BaseException:
            spark.sparkContext.cancelJobGroup(group)
            raise
    if progress and not running.exception():
        progress(finished())
    return running.result()


def main(arguments: list[str] | None = None) -> None:
    """`spark-submit curation/spark_job.py --run-dir RUN --steps dedup`: settings come from RUN/<step>/_job.json."""
    parser = argparse.ArgumentParser(prog="spark_job.py", description="Steps of a Pinisi run on an existing Spark.")
    parser.add_argument("--run-dir", required=True, help="the run directory, any URI")
    parser.add_argument("--steps", nargs="+", choices=["dedup"], required=True)
    options = parser.parse_args(arguments)
    jobs = {}
    for step in options.steps:
        uri = storage.join(options.run_dir, step, "_job.json")
        if not storage.exists(uri):
            parser.error(f"{uri} is not there: `pinisi run` writes it when the stage before {step} is done")
        jobs[step] = storage.read_json(uri)
    from cluster.spark import session, stop

    spark = session("submit", app_name="pinisi")
    for step, job in jobs.items():
        config = DedupConfig(**job["config"])
        counts = dedup(spark, job["parts"], job["out"], job["ledger"], config, job["fingerprint"])
        print(json.dumps({"step": step, **counts}), flush=True)
    stop(spark)


if __name__ == "__main__":
    from curation.spark_job import main as main_of_module  # workers find functions of a module, not of __main__

    main_of_module()
