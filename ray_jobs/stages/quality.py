"""quality: one fastText classifier per language, curated sources against the crawl; its score feeds the stage-2 pool.

DCLM's settings (recipe: Sailor2 section 3.2). A language with too few examples on either side has no classifier: its
documents carry a null score, and its whole pool counts as high quality. `quality.pooled` trains one classifier for all. Engine
`encoder` scores with an encoder that is trained already (`curation.encoder`), `signal` takes a number that is there, such as the
score of others.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from cluster.shards import Kernel, ledger_rows
from curation import quality
from ray_jobs.config.recipe import Recipe
from ray_jobs.errors import UserError
from ray_jobs.run import files
from ray_jobs.run.graph import DECONTAMINATE, DEDUP
from ray_jobs.run.job import Job
from ray_jobs.work import device
from ray_jobs.work.shards import run_kernel
from ray_jobs.work.tasks import map_on_ray

MARK = "_models.json"
POOLED = "all"


def run(job: Job) -> dict:
    settings = job.recipe.quality
    stage = "decontaminate" if job.has(DECONTAMINATE) else DEDUP
    if settings.engine != "fasttext":
        make, arguments = scoring(job.recipe, {})
        return run_kernel(job, stage, make, *arguments, gpus=wants_gpus(job))
    if not storage.exists(job.path(MARK)):
        examples = _examples(job, stage)
        ready = [
            lang
            for lang, (positives, negatives, _) in examples.items()
            if min(len(positives), len(negatives)) >= settings.min_examples
        ]
        limits = {"per_side": settings.per_side, "min_examples": settings.min_examples}
        if settings.pooled:
            [found] = map_on_ray(
                job, _train_pooled, [(examples, job.path("models", f"{POOLED}.bin"), limits)], "models"
            )
        else:
            trained = map_on_ray(
                job,
                _train,
                [(lang, *examples[lang], job.path("models", f"{lang}.bin"), limits) for lang in ready],
                "models",
            )
            found = {lang: one for lang, one in zip(ready, trained, strict=True) if one}
        storage.write_json(job.path(MARK), found)
    found = storage.read_json(job.path(MARK))
    make, arguments = scoring(job.recipe, models(job.recipe, job.path(), found))
    result = run_kernel(job, stage, make, *arguments)
    return {**result, "classifiers": found, "warnings": warnings(found)}


def models(recipe: Recipe, folder: str, langs: Iterable[str]) -> dict[str, str]:
    """Language -> its classifier, of those that the stage has trained into its `folder`."""
    return {lang: storage.join(folder, "models", f"{POOLED if recipe.quality.pooled else lang}.bin") for lang in langs}


def scoring(recipe: Recipe, models: dict[str, str]) -> tuple[Callable[..., Kernel], tuple]:
    """What makes the kernel of the recipe's engine in a worker, and its arguments. `models`: those of fastText."""
    own = recipe.quality
    if own.engine == "signal":
        return _of_signal, (own.signal,)
    if own.engine == "encoder":
        precision = recipe.train.precision if recipe.train else "auto"
        return _of_encoder, (files.location(own.model), own.label, precision)
    return _kernel, (models,)


def wants_gpus(job: Job) -> bool:
    """Whether the kernel of `scoring` is faster on a GPU, and there are some."""
    return job.recipe.quality.engine == "encoder" and device.wants_gpus(job)


def warnings(classifiers: dict[str, dict]) -> list[str]:
    """One sentence for each classifier that good native texts do not please."""
    return [
        f"quality: the {lang} classifier puts only {report['above_median']:.0%} of {report['native']:,} good native texts "
        f"(quality.native) above the median negative, so it tells sources apart rather than quality; choose other positives"
        for lang, report in classifiers.items()
        if report.get("shortcut")
    ]


def _examples(job: Job, stage: str) -> dict[str, tuple[list[str], list[str], list[str]]]:
    """Per language at most `per_side` positive, negative and native texts: those that people judged, then those with the smallest
    ids, which are hashes."""
    settings = job.recipe.quality
    groups = (settings.positives, settings.negatives, settings.native)
    sides = {name: index for index, names in enumerate(groups) for name in names}
    rows: dict[tuple[str, int], list[tuple[str, str]]] = defaultdict(list)
    for number, row in enumerate(files.rows(settings.labels) if settings.labels else []):
        if (
            not isinstance(row.get("lang"), str)
            or not isinstance(row.get("text"), str)
            or row.get("good") not in (True, False)
        ):
            raise UserError(
                f"quality.labels: row {number + 1} of {settings.labels} must have `lang`, `text`, and `good` true or false"
            )
        rows[row["lang"], 0 if row["good"] else 1].append(("", row["text"]))
    for part in storage.glob(job.input(stage, "part-*.parquet")) if sides else []:
        table = storage.read_table(part, ["doc_id", "lang", "source", "text"])
        for row in table.to_pylist():
            if row["source"] in sides:
                rows[row["lang"], sides[row["source"]]].append((row["doc_id"], row["text"]))
        for key, values in rows.items():
            rows[key] = sorted(values)[: settings.per_side]

    def texts(lang: str, side: int) -> list[str]:
        return [text for _, text in rows.get((lang, side), [])]

    return {lang: (texts(lang, 0), texts(lang, 1), texts(lang, 2)) for lang in sorted({lang for lang, _ in rows})}


def _train(task: tuple[str, list[str], list[str], list[str], str, dict]) -> dict | None:
    """The report of one language's classifier; None when too few examples are left without repeats."""
    lang, positives, negatives, native, uri, limits = task
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.bin")
        report = quality.train(positives, negatives, lang, path, native=native, **limits)
        if report is not None:
            storage.write_bytes(uri, Path(path).read_bytes())
    return report


def _train_pooled(task: tuple[dict[str, tuple[list[str], list[str], list[str]]], str, dict]) -> dict[str, dict]:
    """The report of each language about the one classifier of all."""
    examples, uri, limits = task
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.bin")
        reports = quality.train_pooled(examples, path, per_side=limits["per_side"])
        if reports:
            storage.write_bytes(uri, Path(path).read_bytes())
    return reports


def _of_encoder(model: str, label: str, precision: str) -> Kernel:
    """Scores of an encoder, on the GPU that this worker has, else on the CPU."""
    from curation import encoder

    where = device.here()
    place = storage.localize(model) if storage.exists(model) else model
    classifier = encoder.open_model(place, label, where, device.dtype(precision, where))

    def score(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        texts, langs = batch["text"].to_pylist(), batch["lang"].to_pylist()
        scores: list[float | None] = [None] * len(texts)
        for lang in sorted(lang for lang in set(langs) if lang and classifier.scores_languages(lang)):
            rows = [i for i, value in enumerate(langs) if value == lang]
            for row, value in zip(rows, classifier.score([texts[i] for i in rows], lang), strict=True):
                scores[row] = float(value)
        return batch.append_column("quality", pa.array(scores, pa.float32())), ledger_rows("quality", [])

    return score


def _of_signal(signal: str) -> Kernel:
    """The score is a column that is there; unknown where that is, is no finite number, or is not there."""

    def score(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        there = signal in batch.schema.names
        values = batch[signal].cast(pa.float32(), safe=False) if there else pa.nulls(batch.num_rows, pa.float32())
        finite = pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float32()))
        return batch.append_column("quality", finite), ledger_rows("quality", [])

    return score


def _kernel(models: dict[str, str]) -> Kernel:
    load = cache(lambda lang: quality.load(storage.localize(models[lang])))

    def score(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        texts, langs = batch["text"].to_pylist(), batch["lang"].to_pylist()
        scores: list[float | None] = [None] * len(texts)
        for lang in sorted(set(langs) & set(models)):
            rows = [i for i, value in enumerate(langs) if value == lang]
            for row, value in zip(rows, quality.score(load(lang), [texts[i] for i in rows], lang), strict=True):
                scores[row] = float(value)
        return batch.append_column("quality", pa.array(scores, pa.float32())), ledger_rows("quality", [])

    return score
