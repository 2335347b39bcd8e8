"""filter/signals: mask personal data, normalise the text and measure every signal of every document; nothing is dropped here.

So a policy can be changed, tried and explained without reading the texts again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from cluster.shards import Kernel, Marker, Shard, finished, run_shard
from curation.annotations.beside import Beside
from ray_jobs.config.curation import Filter
from ray_jobs.config.recipe import Recipe
from ray_jobs.run.graph import ANNOTATE, LANGUAGE
from ray_jobs.run.job import Job
from ray_jobs.work.engine import on_engine
from ray_jobs.work.shards import BATCH_ROWS, shards_of, totals

if TYPE_CHECKING:
    from curation.signals.word_order import Order

ORDER_PARTS = 16


def run(job: Job) -> dict:
    from curation.signals import word_lists
    from curation.signals.measure import Measure
    from curation.signals.own_signals import OwnSignals
    from curation.text import icu_dictionary

    settings = job.recipe.filter
    lists = word_lists.read(settings.word_lists) if settings.word_lists else None
    models = settings.perplexity_models
    own = OwnSignals(settings.signals, os.getcwd())
    shards = shards_of(job, LANGUAGE)
    languages = list(job.recipe.languages)
    orders = learnt_orders([shard.input for shard in shards], languages, settings.language_files)
    kernel = Measure(
        languages,
        lists,
        masked=kinds(settings),
        perplexity_models=models,
        own=own,
        orders=orders,
        folder=settings.language_files,
    )
    job.progress.start(len(shards), "shards", finished(shards))
    with on_engine(job) as engine:
        annotations = job.input(ANNOTATE) if job.has(ANNOTATE) else None
        markers = engine.run(_measured(kernel, annotations), shards, job.progress.set)
    result = totals(markers, docs_in=job.manifest(LANGUAGE)["docs_out"])
    return {
        **result,
        "masked": added(marker["masked"] for marker in markers),
        "word_order": {lang: _of_order(orders.get(lang)) for lang in languages},
        "words_cut_by": icu_dictionary.source() or "nothing: in scripts without spaces letters count as words",
    }


def learnt_orders(parts: list[str], languages: list[str], folder: str | None = None) -> dict[str, Order]:
    """What the signal `word_order` is measured by, by language, from documents of at most `ORDER_PARTS` of the parts."""
    from curation.policy.policy import load
    from curation.signals.edit import normalise
    from curation.signals.word_order import Sample

    policies = {lang: load(lang, folder=folder) for lang in languages}
    sample = Sample()
    step = max(1, len(parts) // ORDER_PARTS)
    for part in parts[::step][:ORDER_PARTS]:
        with storage.open_parquet(part) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=["lang", "text", "url", "source"]):
                wanted = [lang for lang in languages if sample.wants(lang)]
                if not wanted:
                    break
                some = batch.filter(pc.is_in(batch["lang"], pa.array(wanted)))  # editing takes time
                sample.add(normalise(some, policies))
    found = sample.learn()
    return {lang: found[lang] for lang in languages if lang in found}


def _of_order(order: Order | None) -> dict[str, object] | str:
    if order is None:
        return "not learnt, so without a bound: too few documents, or too few words that recur"
    return {"documents": order.documents, "words": order.words, "usual": round(order.usual, 4)}


def check(recipe: Recipe) -> None:
    """Raises ValueError for perplexity models that cannot be used."""
    if recipe.filter.perplexity_models:
        from curation.lm import kenlm_files
        from curation.lm.perplexity import PerplexityColumn

        kenlm_files.check(PerplexityColumn(recipe.filter.perplexity_models).kenlm)


def kinds(settings: Filter) -> tuple[str, ...]:
    """The kinds of personal data to mask: `true` means all."""
    from curation.signals.pii_patterns import KINDS

    return KINDS if settings.mask_pii is True else tuple(settings.mask_pii or ())


class Measured(Marker):
    masked: dict[str, dict[str, int]]  # language -> kind -> places


def _measured(kernel: Kernel, annotations: str | None) -> Callable[[Shard], Measured]:
    """What is done to a shard; with `annotations`, a folder that has them by part, these become columns too."""

    def measure(shard: Shard) -> Measured:
        own = Beside(kernel, storage.join(annotations, f"{shard.name}.parquet")) if annotations else kernel
        return {**run_shard(own, shard), "masked": masked(shard.part)}

    return measure


def masked(part: str) -> dict[str, dict[str, int]]:
    """How many of each kind were masked in a part, by language; kinds and languages of which there are none are left out."""
    with storage.open_parquet(part) as parquet:
        if "pii" not in parquet.schema_arrow.names:
            return {}
        table = parquet.read(["lang", "pii"])
    counts = table["pii"].combine_chunks().flatten() if table.num_rows else []
    columns = dict(zip((field.name for field in table.schema.field("pii").type), counts, strict=False))
    by_lang = pa.table({"lang": table["lang"], **columns}).group_by("lang").aggregate([(k, "sum") for k in columns])
    return {
        lang: found
        for row in by_lang.filter(pc.is_valid(by_lang["lang"])).to_pylist()
        if (found := {kind: row[f"{kind}_sum"] for kind in columns if row[f"{kind}_sum"]}) and (lang := row["lang"])
    }


def added(parts: Iterable[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """The counts of all parts, by language and kind in order of their names."""
    total: dict[str, Counter] = {}
    for part in parts:
        for lang, found in part.items():
            total.setdefault(lang, Counter()).update(found)
    return {lang: dict(sorted(total[lang].items())) for lang in sorted(total)}
