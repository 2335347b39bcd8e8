"""The numbers that a plan starts from, each with its source: measured on this project, taken from the paper, or assumed.

A measured rate comes from a finished run (`--from-run`), else from benchmarks/results, else from the copy here. Every number
can be set in the cluster file under `assume:`, by its name.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ray_jobs.run.fingerprint import ROOT
from ray_jobs.run.graph import EXTRACT, LANGUAGE, POLICY, QUALITY, SIGNALS, TOKENIZE
from ray_jobs.run.run import Run

RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Number:
    """A value, its unit, and where it is from; `good` and `bad` are what it may be for who pays, where that is far from sure."""

    value: float
    unit: str
    source: str
    good: float | None = None
    bad: float | None = None


ASSUMED = {
    "bytes_per_page": Number(30e3, "B", "assumed: 90 TB of WARC over 2.9 billion pages"),
    "html_ratio": Number(4.5, "", "assumed: gzip of a WARC record"),
    "language_gate": Number(0.85, "kept", "assumed: pages whose index language ours confirms"),
    "extract_kept": Number(0.97, "kept", "assumed: pages with any text"),
    "rules_kept": Number(0.69, "kept", "Sailor 1 (arXiv 2404.03608): cleaning removes about 31 %"),
    "url_kept": Number(0.50, "kept", "Sailor2 section 3.3: URL dedup removes about 50 % of tokens"),
    "near_kept": Number(0.89, "kept", "Sailor 1 (arXiv 2404.03608): deduplication removes about 11 %"),
    "lines_kept": Number(0.95, "kept", "Sailor2 section 3.3: frequent lines are about 5 % of tokens"),
    "bytes_per_token": Number(4.0, "B", "Sailor2 tables 2 and 3: disk bytes over tokens"),
    "bytes_per_document": Number(4000.0, "B", "assumed: text of a page"),
    "long_document_ratio": Number(
        2.0, "x", "assumed: mean length of the documents of at least train.long_context.long_tokens, over that number"
    ),
    "crawl_rate": Number(20.0, "MB/s/core", "assumed: download, digest, zstd"),
    "language_rate": Number(15.0, "MB/s/core", "assumed: lid.176 by line"),
    "policy_rate": Number(200.0, "MB/s/core", "assumed: comparisons, reading and writing Parquet"),
    "io_rate": Number(100.0, "MB/s/core", "assumed: one pass over texts in Parquet on object storage"),
    "quality_rate": Number(10.0, "MB/s/core", "assumed: fastText over all words"),
    "tokenize_rate": Number(
        1e6, "tokens/s/core", "assumed: a tenth of the kernel's speed, as texts are read and tokens written"
    ),
    "efficiency": Number(0.6, "", "assumed: share of CPU time that is work; the rest is start, storage, stragglers"),
    "shard_seconds": Number(600.0, "s", "assumed: a shard, which is what a lost node loses"),
    "shuffle_bytes_per_document": Number(
        600.0, "B", "25 band keys, a sketch of 256 B, an id, lengths (curation/dedup)"
    ),
    "mfu": Number(0.40, "", "assumed: 37 to 45 % are usual in bf16 with compile", 0.45, 0.34),
    "mfu_small": Number(
        0.35,
        "",
        "assumed, of models below 2 B parameters: 30 to 40 %; nanotron's Llama 1B on 8 H100 has 33,300 tokens/s/GPU, 30 %",
        0.40,
        0.30,
    ),
    "mfu_eager": Number(
        0.34,
        "",
        "assumed: without train.compile; torchtitan's Llama 3.1 8B on H100: 5,762 tokens/s, 6,667 compiled",
        0.38,
        0.28,
    ),
    "proxy_mfu": Number(
        0.27,
        "",
        "RegMix (arXiv 2407.01492): its 1M model, 98 MFLOP a token, 1.05 B tokens in about 20 minutes on an A100 of 312 TFLOP/s",
        0.27,
        0.13,
    ),
    "generate_rate": Number(2000.0, "tokens/s/GPU", "assumed: 80 answers at a time, 40 ms a token", 4000.0, 1000.0),
    "answer_rate": Number(25.0, "tokens/s/GPU", "assumed: one answer at a time, 40 ms a token", 50.0, 12.5),
    "request_latency": Number(
        0.05, "s", "assumed: S3 in its own region; AWS says tens of milliseconds, 100 to 200 to be safe", 0.03, 0.15
    ),
    "request_rate": Number(85e6, "B/s", "AWS: 85 to 90 MB/s of one request to S3"),
    "network_rate": Number(1e9, "B/s/node", "assumed: two thirds of 12.5 Gbit/s"),
    "stored_request_bytes": Number(8e6, "B", "assumed: of the run's files that one request writes or reads"),
    "checkpoint_seconds": Number(1800.0, "s", "assumed: between two checkpoints, which is what a lost gang loses"),
    "chat_tokens": Number(600.0, "tokens", "assumed: one conversation"),
    "chat_rows_stage1": Number(4_295_241, "rows", "Sailor2 table 22"),
    "chat_rows_stage2": Number(538_800, "rows", "Sailor2 table 22"),
    "preference_rows": Number(53_813, "pairs", "Sailor2 table 22"),
    "storage_months": Number(3.0, "months", "assumed: how long the run's files are kept"),
}
"""What is not measured by a benchmark of this project."""

MEASURED = {
    "extract_cascade": ("curation-extract.json", "cascade: speed on web pages", 396.0, "pages/s/core"),
    "extract_lines": ("curation-extract.json", "lines: speed on web pages", 911.0, "pages/s/core"),
    "extract_resiliparse": ("curation-extract.json", "resiliparse: speed on web pages", 1000.0, "pages/s/core"),
    "extract_trafilatura": ("curation-extract.json", "trafilatura: speed on web pages", 131.0, "pages/s/core"),
    "signals_rate": ("curation-signals.json", "filter/signals kernel, all languages", 23.8, "MB/s/core"),
    "minhash_rate": (
        "curation-minhash.json",
        "signatures + bands + components, 256 functions, 25x10",
        172.7,
        "MB/s/core",
    ),
}
"""Name -> (file of benchmarks/results, its metric, the value when the file is not there, unit)."""

CRAWL = {"0": (1.0, 1.0), "100 kB": (0.8369, 1.221), "500 kB": (0.4931, 4.622), "2 MB": (0.1088, 18.46)}
"""fetch.gap_bytes -> requests per record and bytes fetched per byte wanted, where 4 % of the pages are wanted (South-East
Asia); the values when benchmarks/results has none."""
GAPS = {"0": 0, "100 kB": 100_000, "500 kB": 500_000, "2 MB": 2_000_000}

SEA_TOKENS = {
    **{"vi": 475e9, "id": 325e9, "th": 61e9, "ms": 11e9, "my": 6.5e9, "tl": 4.4e9, "km": 1.7e9},
    **{"ceb": 0.5e9, "lo": 0.5e9, "jv": 0.3e9, "war": 0.2e9, "su": 0.2e9, "ilo": 0.1e9},
}
"""Tokens of a language after cleaning and deduplication of 96 snapshots (Sailor2 tables 2 and 3)."""
SEA_SNAPSHOTS = 96

FROM_RUN = {  # name -> (stage, what is divided by seconds x CPUs, factor, unit)
    "extract": (EXTRACT, "docs_in", 1.0, "pages/s/core"),
    "language_rate": (LANGUAGE, "bytes", 1e-6, "MB/s/core"),
    "signals_rate": (SIGNALS, "bytes", 1e-6, "MB/s/core"),
    "policy_rate": (POLICY, "bytes", 1e-6, "MB/s/core"),
    "quality_rate": (QUALITY, "bytes", 1e-6, "MB/s/core"),
    "tokenize_rate": (TOKENIZE, "tokens", 1.0, "tokens/s/core"),
}
KEPT_IN_RUN = {"extract_kept": EXTRACT, "language_gate": LANGUAGE, "rules_kept": POLICY}


def numbers(
    engine: str, assume: Mapping[str, float], run: Run | None = None, gap_bytes: int = 500_000
) -> dict[str, Number]:
    """All numbers of a plan by name: `extract` is that of `engine`, those of the crawl are of `fetch.gap_bytes`.

    Raises ValueError for an unknown name in `assume`."""
    found = {**ASSUMED, **{name: _measured(*entry) for name, entry in MEASURED.items()}}
    gap = max((name for name, size in GAPS.items() if size <= gap_bytes), key=GAPS.__getitem__)
    crawled = (("requests_per_record", "requests per record"), ("fetched_per_wanted", "bytes fetched per byte wanted"))
    for (name, metric), copy in zip(crawled, CRAWL[gap], strict=True):
        found[name] = _measured("cluster-crawl.json", f"{metric}, 4 % wanted, gap {gap}", copy, "1")
    found["extract"] = found[f"extract_{engine}"]
    if run is not None:
        found |= _of_run(run)
    for name, value in assume.items():
        if name not in found:
            raise ValueError(f"assume.{name}: no such number; those of a plan are {', '.join(sorted(found))}")
        found[name] = Number(float(value), found[name].unit, f"cluster file, assume.{name}")
    return found


def case(n: Mapping[str, Number], bad: bool) -> dict[str, Number]:
    """The numbers as they are where all goes well for who pays, or badly."""
    better = {name: one.bad if bad else one.good for name, one in n.items()}
    return {name: one if (value := better[name]) is None else replace(one, value=value) for name, one in n.items()}


def _measured(file: str, metric: str, copy: float, unit: str) -> Number:
    path = RESULTS / file
    if path.is_file():
        results = json.loads(path.read_text())
        rows = [row["ours"] for row in results["rows"] if row["metric"] == metric and row["unit"] == unit]
        if rows:
            shown = "" if unit == "1" else unit
            return Number(
                statistics.median(rows), shown, f"measured: benchmarks/results/{file}, {metric}, {results['date']}"
            )
    return Number(copy, unit, f"measured: {file} (copy)")


def _of_run(run: Run) -> dict[str, Number]:
    import os

    cpus = run.recipe.cluster.cpus or os.cpu_count() or 1
    source = f"run {run.recipe.name} on {cpus} CPUs: %s"
    found = {}
    for name, (stage, key, factor, unit) in FROM_RUN.items():
        manifest = run.manifest(stage)
        if manifest and manifest.get(key) and manifest["seconds"]:
            value = manifest[key] * factor / manifest["seconds"] / cpus
            found[name] = Number(value, unit, source % f"{stage}/_manifest.json")
    for name, stage in KEPT_IN_RUN.items():
        manifest = run.manifest(stage)
        if manifest and manifest.get("docs_in"):
            kept = manifest["docs_out"] / manifest["docs_in"]
            found[name] = Number(kept, "kept", source % f"{stage}/_manifest.json")
    tokenized = run.manifest(TOKENIZE)
    if tokenized and tokenized.get("tokens"):
        found["bytes_per_token"] = Number(
            tokenized["bytes"] / tokenized["tokens"], "B", source % "tokenize/_manifest.json"
        )
        found["bytes_per_document"] = Number(
            tokenized["bytes"] / max(1, tokenized["docs_in"]), "B", source % "tokenize/_manifest.json"
        )
    return found
