"""Text edits, words and all signals on one core: speed per script, and what the default policies keep of real good text.

    python benchmarks/curation_signals.py            # PINISI_SAMPLE_DIR names the folder with text/

Prints two tables and writes benchmarks/results/curation-signals.json. Speeds are UTF-8 bytes per second of CPU time of one
thread, best of three, compilation left out, on the `document` and `paragraph` rows of text/<lang>.jsonl.gz. No other program
is measured in this run; none measures all of these signals.
"""

from __future__ import annotations

import gzip
import json
import os
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
from table import row, write

from curation.policy.policy import apply, languages, load_all
from curation.policy.signal_schema import MEASURED
from curation.signals.edit import normalise
from curation.signals.text_signals import Meter, signals_kernel
from curation.signals.word_lists import document_words
from curation.text.units import text_buffers
from curation.text.words import alphabet

BATCH_ROWS = 1024
TARGET = 24.0  # MB/s/core
BOUNDS = "the bounds and word lists were made with these texts in sight"
GROUPS = {
    "Latin": ["ceb", "en", "id", "ilo", "jv", "ms", "su", "tl", "vi", "war"],
    "Thai": ["th"],
    "Lao": ["lo"],
    "Khmer": ["km"],
    "Burmese": ["my"],
    "Han": ["zh"],
}


def main() -> None:
    folder = os.environ.get("PINISI_SAMPLE_DIR")
    if not folder or not Path(folder, "text").is_dir():
        raise SystemExit("set PINISI_SAMPLE_DIR to a folder with text/<lang>.jsonl.gz")
    langs = [lang for lang in languages() if Path(folder, "text", f"{lang}.jsonl.gz").exists()]
    batches = {lang: read(Path(folder, "text", f"{lang}.jsonl.gz"), lang) for lang in langs}
    write("curation-signals", [*speed(batches), *kept(batches)], tuned_on="nothing")


def read(path: Path, lang: str) -> list[pa.RecordBatch]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        documents = [row for row in map(json.loads, file) if row["kind"] in ("document", "paragraph")]
    columns = {"doc_id": "id", "url": "url", "text": "text"}
    table = pa.table({name: pa.array([d[key] for d in documents], pa.string()) for name, key in columns.items()})
    return table.append_column("lang", pa.array([lang] * len(documents))).combine_chunks().to_batches(BATCH_ROWS)


def seconds(work, batches: list[pa.RecordBatch]) -> float:
    """CPU seconds of one thread over all batches, best of three after a warm-up."""
    work(batches[0].slice(0, 2))
    best = float("inf")
    for _ in range(3):
        start = time.thread_time()
        for batch in batches:
            work(batch)
        best = min(best, time.thread_time() - start)
    return best


def speed(by_lang: dict[str, list[pa.RecordBatch]]) -> list[dict]:
    langs = list(by_lang)
    policies = load_all(langs)
    meter = Meter(policies)
    kernel = signals_kernel(langs)
    rows = []
    groups = {name: [b for lang in group for b in by_lang.get(lang, [])] for name, group in GROUPS.items()}
    groups["all languages"] = [b for batches in by_lang.values() for b in batches]
    print(f"{'MB/s/core':<16}{'MB':>8}{'edit':>8}{'clusters':>10}{'words':>8}{'signals':>9}{'kernel':>8}")
    for name, batches in groups.items():
        if not batches:
            continue
        megabytes = sum(n_bytes(batch) for batch in batches) / 1e6
        edit = megabytes / seconds(lambda batch: normalise(batch, policies), batches)
        clusters, words = (
            megabytes / seconds(lambda batch, by=by: document_words(*text_buffers(batch["text"]), by), batches)
            for by in (alphabet(False), alphabet())
        )
        measure = megabytes / seconds(meter.columns, batches)
        both = megabytes / seconds(kernel, batches)
        print(
            f"{name:<16}{megabytes:>8.1f}{edit:>8.0f}{clusters:>10.0f}{words:>8.0f}{measure:>9.1f}{both:>8.1f}",
            flush=True,
        )
        rows.append(row(f"text edits, {name}", "MB/s/core", edit))
        rows.append(row(f"distinct words by cluster, {name}", "MB/s/core", clusters))
        rows.append(row(f"distinct words by dictionary, {name}", "MB/s/core", words))
        rows.append(row(f"{len(MEASURED)} signals, {name}", "MB/s/core", measure, target=TARGET))
        rows.append(row(f"filter/signals kernel, {name}", "MB/s/core", both, target=TARGET))
    return rows


def n_bytes(batch: pa.RecordBatch) -> int:
    return sum(len(text.encode()) for text in batch["text"].to_pylist())


def kept(by_lang: dict[str, list[pa.RecordBatch]]) -> list[dict]:
    policies = load_all(list(by_lang))
    kernel = signals_kernel(list(by_lang))
    rows = []
    print(f"\n{'lang':<6}{'docs':>6}{'kept %':>8}{'bytes %':>9}  rules broken by how many documents")
    for lang, batches in by_lang.items():
        docs = docs_kept = size = size_kept = 0
        rules: Counter[str] = Counter()
        for batch in batches:
            measured, _ = kernel(batch)
            keep, ledger = apply(measured, policies)
            docs, docs_kept = docs + len(keep), docs_kept + keep.true_count
            size += sum(measured["n_bytes"].to_pylist())
            size_kept += sum(measured.filter(keep)["n_bytes"].to_pylist())
            rules.update(ledger["rule"].to_pylist())
        share, share_bytes = 100 * docs_kept / docs, 100 * size_kept / size
        why = ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items(), key=lambda r: (-r[1], r[0])))
        print(f"{lang:<6}{docs:>6}{share:>8.1f}{share_bytes:>9.1f}  {why}")
        rows.append(row(f"documents kept by the default policy, {lang}", "%", share, tuned_on=BOUNDS))
        rows.append(row(f"bytes kept by the default policy, {lang}", "%", share_bytes, tuned_on=BOUNDS))
    return rows


if __name__ == "__main__":
    main()
