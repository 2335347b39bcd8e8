"""quality: one fastText classifier per language, curated sources against the crawl; its score feeds the stage-2 pool.

DCLM's settings (recipe: Sailor2 section 3.2). A language with too few examples on either side has no classifier: its
documents carry a null score, and its whole pool counts as high quality.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from functools import cache
from pathlib import Path

import pyarrow as pa

from cluster import storage
from cluster.shards import Kernel, ledger_rows
from curation import quality
from ray_jobs.errors import UserError
from ray_jobs.run import files
from ray_jobs.run.graph import DECONTAMINATE, DEDUP
from ray_jobs.run.job import Job
from ray_jobs.work.shards import run_kernel
from ray_jobs.work.tasks import map_on_ray

MARK = "_models.json"


def run(job: Job) -> dict:
    settings = job.recipe.quality
    stage = "decontaminate" if job.has(DECONTAMINATE) else DEDUP
    if not storage.exists(job.path(MARK)):
        examples = _examples(job, stage)
        ready = [
            lang
            for lang, (positives, negatives, _) in examples.items()
            if min(len(positives), len(negatives)) >= settings.min_examples
        ]
        limits = {"per_side": settings.per_side, "min_examples": settings.min_examples}
        trained = map_on_ray(
            job,
            _train,
            [(lang, *examples[lang], job.path("models", f"{lang}.bin"), limits) for lang in ready],
            "models",
        )
        storage.write_json(job.path(MARK), {lang: one for lang, one in zip(ready, trained, strict=True) if one})
    models = storage.read_json(job.path(MARK))
    result = run_kernel(job, stage, _kernel, {lang: job.path("models", f"{lang}.bin") for lang in models})
    return {**result, "classifiers": models, "warnings": warnings(models)}


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
