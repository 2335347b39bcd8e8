"""filter/policy: each language's rules turn signals into keep or drop; every broken rule goes to the ledger."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from ray_jobs.config.curation import Filter
from ray_jobs.config.recipe import Recipe
from ray_jobs.run.graph import SIGNALS
from ray_jobs.run.job import Job
from ray_jobs.work.engine import run_shards
from ray_jobs.work.shards import shards_of, totals

if TYPE_CHECKING:
    from curation.policy.keys import Policy


PERPLEXITY_SLACK = 4
BOUNDS = "_bounds.json"  # language -> signal -> bound (min, max) -> number: what the report draws into its histograms


def run(job: Job) -> dict:
    from curation.policy import percentiles, policy

    langs, config = list(job.recipe.languages), job.recipe.filter
    lists = _lists(config)
    parts = [shard.input for shard in shards_of(job, SIGNALS)]
    own = own_names(job.recipe)
    rules = with_perplexity(config.policy, config.perplexity_models, langs)
    policies = policy.load_all(langs, rules, lists, own, config.language_files)
    numbers = thresholds(parts, policies, config)
    storage.write_json(job.path("_thresholds.json"), numbers)
    resolved = percentiles.resolve(policies, numbers)
    storage.write_json(job.path(BOUNDS), {lang: resolved[lang].rules for lang in langs})
    kernel = policy.policy_kernel(langs, rules, lists, numbers, own, config.language_files)
    markers = run_shards(job, kernel, shards_of(job, SIGNALS))
    bounds = {lang: _perplexity(rules, lang) for lang in langs}
    counts = totals(markers, docs_in=job.manifest(SIGNALS)["docs_out"])
    return {**counts, "thresholds": numbers, "perplexity": bounds}


def with_perplexity(policy: Mapping[str, dict], models: str | None, langs: list[str]) -> dict[str, dict]:
    """A recipe's `filter.policy` with a bound on perplexity for each language that has a model and none of its own.

    The bound is `PERPLEXITY_SLACK` times the 99th percentile of the model's held-out documents. Those are of the few sources
    that it was trained on: good text of other sources has up to four and a half times as much.
    """
    rules = dict(policy)
    if not models or "perplexity" in (policy.get("default") or {}):
        return rules
    for lang in langs:
        own = policy.get(lang) or {}
        about = storage.join(models, lang, "lm.json")
        if not isinstance(own, Mapping) or "perplexity" in own or not storage.exists(about):
            continue
        if worst := storage.read_json(about).get("heldout", {}).get("percentiles", {}).get("99"):
            rules[lang] = {**own, "perplexity": {"max": round(PERPLEXITY_SLACK * worst, 1)}}
    return rules


def _perplexity(rules: Mapping[str, dict], lang: str) -> object:
    bounds = {**(rules.get("default") or {}), **(rules.get(lang) or {})}.get("perplexity")
    return bounds or "no model of the language, so no bound: pinisi train lm makes one from good text"


def check(recipe: Recipe) -> None:
    """Raises ValueError for a language without a file, a wrong rule or signal of the user, and a percentile of nothing."""
    from curation.policy import policy

    config = recipe.filter
    langs, folder = list(recipe.languages), config.language_files
    _percentiles(policy.load_all(langs, config.policy, _lists(config), own_names(recipe), folder), config)


def policies(rules: Mapping[str, dict], recipe: Recipe) -> dict[str, Policy]:
    """Those of the recipe's languages under `rules`, of the shape of `filter.policy`. Raises ValueError for a wrong one."""
    from curation.policy import policy

    config, langs = recipe.filter, list(recipe.languages)
    every = with_perplexity(rules, config.perplexity_models, langs)
    return policy.load_all(langs, every, _lists(config), own_names(recipe), config.language_files)


def own_names(recipe: Recipe) -> tuple[str, ...]:
    """Names of the user's own signals, and of annotations. Raises ValueError for a function that cannot be used."""
    from curation.signals.own_signals import OwnSignals

    own = OwnSignals(recipe.filter.signals, os.getcwd()).names
    return (*own, *(name for one in recipe.annotations for name in one.columns))


def known_signals(recipe: Recipe) -> tuple[str, ...]:
    """All numbers that documents have behind filter/signals."""
    from curation.policy.signal_schema import SIGNALS as MEASURED

    return (*MEASURED, *own_names(recipe))


def _lists(config: Filter) -> dict:
    from curation.signals import word_lists

    return word_lists.read(config.word_lists) if config.word_lists else {}


def thresholds(parts: list[str], policies: Mapping[str, Policy], config: Filter) -> dict[str, dict]:
    """Numbers of the policies' percentiles (`curation.policy.percentiles.thresholds`) from the signals in `parts`.

    Raises ValueError when there is a percentile and `filter.reference` names no source.
    """
    from curation.policy import percentiles

    signals = _percentiles(policies, config)
    tables = _reference(parts, config.reference, signals) if signals else ()
    return percentiles.thresholds(tables, policies, config.reference_min_documents)


def _percentiles(policies: Mapping[str, Policy], config: Filter) -> list[str]:
    from curation.policy import percentiles

    signals = percentiles.wanted(policies)
    if signals and not config.reference:
        raise ValueError(f"{signals[0]} has a percentile; filter.reference must name the sources that it is of")
    return signals


def _reference(parts: list[str], sources: list[str], signals: list[str]) -> Iterator[pa.Table]:
    for part in parts:
        with storage.open_parquet(part) as parquet:
            table = parquet.read(["source", "lang", *signals])
        yield table.filter(pc.is_in(table["source"], pa.array(sources)))
