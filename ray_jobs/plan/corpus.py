"""How many documents and bytes each curation stage of a recipe will see, and what CPU time that takes.

For Common Crawl the funnel is computed from its end: the tokens that the paper had of a language after cleaning 96
snapshots, in proportion to the snapshots asked for. Files are counted by their size.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster import storage
from ray_jobs.config.curation import Source
from ray_jobs.config.recipe import Recipe
from ray_jobs.plan.rates import SEA_SNAPSHOTS, SEA_TOKENS, Number
from ray_jobs.run.graph import CRAWL, DEDUP, EXTRACT, LANGUAGE, POLICY, QUALITY, SIGNALS, TOKENIZE

COMPRESSED = 0.30  # zstd Parquet of text


@dataclass(frozen=True)
class Step:
    """A curation stage: what goes in, what it costs in core-seconds of pure work, what it leaves on storage."""

    name: str
    documents: float
    text_bytes: float
    core_seconds: float
    stored_bytes: float
    source: str
    documents_from: str
    shuffle_bytes: float = 0.0
    limits: Mapping[str, float] = field(
        default_factory=dict
    )  # what it is held up by -> seconds, whatever the number of nodes
    requests: float = 0.0  # to outside, each of `request_seconds`
    request_seconds: float = 0.0
    crossing_bytes: float = 0.0  # that come from outside


@dataclass(frozen=True)
class Corpus:
    """`fetched_bytes` come from outside; `tokens` are left at the end."""

    steps: list[Step]
    fetched_bytes: float
    tokens: float
    why: str


NONE = Corpus([], 0.0, 0.0, "no sources: a finished model is aligned")


def plan(recipe: Recipe, n: Mapping[str, Number]) -> Corpus:
    """The curation stages of `recipe` by the numbers `n`. Raises ValueError when its sources say nothing about their size."""
    tokens, why = _tokens(recipe, n)
    v = {name: number.value for name, number in n.items()}
    kept = tokens * v["bytes_per_token"]
    after_rules = kept / (v["url_kept"] * v["near_kept"] * v["lines_kept"])
    extracted = after_rules / v["rules_kept"]
    documents_in = extracted / v["bytes_per_document"]
    pages = documents_in / (v["language_gate"] * v["extract_kept"])
    fetched = pages * v["bytes_per_page"]
    documents_kept = documents_in * v["rules_kept"] * v["url_kept"] * v["near_kept"]
    mb = 1e6
    crawled = any(source.type == "commoncrawl" for source in recipe.sources)
    requests = pages * v["requests_per_record"]
    crossing = fetched * v["fetched_per_wanted"] if crawled else fetched  # with what lies between wanted records
    each = v["request_latency"] + crossing / requests / v["request_rate"]  # seconds of a request
    by_rate = {
        "requests / fetch.requests_per_second": requests / recipe.fetch.requests_per_second,
        "bytes / fetch.bytes_per_second": crossing / recipe.fetch.bytes_per_second,
        f"requests x {1000 * each:.0f} ms (request_latency, request_rate) / fetch.concurrency": (
            requests * each / recipe.fetch.concurrency
        ),
    }
    ratio = f"{n['extract'].value:,.0f} {n['extract'].unit}; {n['extract'].source}"
    pages_from = "tokens x bytes_per_token / bytes_per_document, up the funnel by *_kept and language_gate"
    gated = "pages x extract_kept x language_gate"
    minhash = after_rules / mb / v["minhash_rate"] + 3 * after_rules / mb / v["io_rate"]
    dedup_rates = f"{_of(n, 'minhash_rate')}; three passes at {_of(n, 'io_rate')}"
    crawl_rate = f"{_of(n, 'crawl_rate')}; not faster than fetch.requests_per_second and fetch.bytes_per_second"
    documents_ruled, kept_from = documents_in * v["rules_kept"], "documents of dedup x url_kept x near_kept"

    def by_bytes(name: str, rate: str, left: float) -> Step:  # a stage over the extracted texts
        seconds = extracted / mb / v[rate]
        return Step(name, documents_in, extracted, seconds, left * COMPRESSED, _of(n, rate), gated)

    steps = [
        Step(CRAWL, pages, fetched, fetched / mb / v["crawl_rate"], fetched, crawl_rate, pages_from),
        Step(
            EXTRACT,
            pages,
            fetched * v["html_ratio"],
            pages / v["extract"],
            extracted * COMPRESSED,
            ratio,
            "pages of crawl",
        ),
        by_bytes(LANGUAGE, "language_rate", extracted),
        by_bytes(SIGNALS, "signals_rate", extracted),
        by_bytes(POLICY, "policy_rate", after_rules),
        Step(
            DEDUP,
            documents_ruled,
            after_rules,
            minhash,
            kept * COMPRESSED,
            dedup_rates,
            "documents of filter/policy x rules_kept",
            shuffle_bytes=documents_ruled * v["shuffle_bytes_per_document"],
        ),
        Step(
            QUALITY,
            documents_kept,
            kept,
            kept / mb / v["quality_rate"],
            kept * COMPRESSED,
            _of(n, "quality_rate"),
            kept_from,
        ),
        Step(
            TOKENIZE,
            documents_kept,
            kept,
            tokens / v["tokenize_rate"],
            8 * tokens,
            _of(n, "tokenize_rate"),
            kept_from,
        ),
    ]
    if crawled and not storage.is_local(recipe.fetch.base):
        steps[0] = dataclasses.replace(
            steps[0], limits=by_rate, requests=requests, request_seconds=each, crossing_bytes=crossing
        )
    return Corpus(steps, crossing, tokens, why)


def _of(n: Mapping[str, Number], name: str) -> str:
    return f"{n[name].value:,.0f} {n[name].unit}; {n[name].source}"


def _tokens(recipe: Recipe, n: Mapping[str, Number]) -> tuple[float, str]:
    tokens, why = 0.0, []
    crawled = [source for source in recipe.sources if source.type == "commoncrawl"]
    if crawled:
        count = sum(_snapshots(source) for source in crawled)
        chosen = {lang for source in crawled for lang in source.select.languages or recipe.languages}
        share = sum(source.share * _snapshots(source) for source in crawled) / count
        tokens += sum(SEA_TOKENS.get(lang, 0.0) for lang in chosen) * count / SEA_SNAPSHOTS * share
        why.append(
            f"{count} snapshots of {SEA_SNAPSHOTS} x tokens of {len(chosen & set(SEA_TOKENS))} languages, Sailor2 tables 2 and 3"
        )
        if most := sum(source.max_records or 0 for source in crawled):
            limit = most * n["bytes_per_document"].value / n["bytes_per_token"].value
            tokens = min(tokens, limit)
            why.append("cut by sources.max_records")
    size = sum(_bytes(source) * source.share for source in recipe.sources if source.type not in ("commoncrawl", "hf"))
    if size:
        funnel = ("extract_kept", "language_gate", "rules_kept", "url_kept", "near_kept", "lines_kept")
        after = math.prod(n[name].value for name in funnel)
        text = size / n["bytes_per_page"].value * n["bytes_per_document"].value
        tokens += text * after / n["bytes_per_token"].value
        why.append(f"{size / 1e9:,.1f} GB of files counted")
    if not tokens:
        raise ValueError(
            "sources: no file is there to be counted, and none of them is of type commoncrawl; a plan needs one of these"
        )
    return tokens, "; ".join(why)


def _snapshots(source: Source) -> int:
    from curation.commoncrawl import layout

    return len(layout.snapshots(source.snapshots))


def _bytes(source: Source) -> int:
    return sum(storage.size(uri) for uri in storage.glob(source.path))
