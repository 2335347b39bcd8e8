"""Exact-substring deduplication on one core: speed, growth, memory, and what is cut, beside the naive answer.

    python benchmarks/curation_substring.py            # PINISI_SAMPLE_DIR names the folder with text/

Texts in memory; threshold 100 characters. The peer is the naive answer, a dictionary of all windows, which also says whether
ours is right. Prints a table and
writes benchmarks/results/curation-substring.json.
"""

from __future__ import annotations

import glob
import os
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from curation_minhash import cpu_seconds, read
from table import row, write

from cluster import storage
from cluster.engines.in_process import Local
from curation.dedup.cut import cut
from curation.dedup.schema import DedupConfig
from curation.dedup.steps import dedup
from curation.dedup.substring import anchors, copies

CHARACTERS = 100
NAIVE_BYTES = 6_000_000


def main() -> None:
    folder = os.environ.get("PINISI_SAMPLE_DIR")
    if not folder or not Path(folder, "text").is_dir():
        raise SystemExit("set PINISI_SAMPLE_DIR to a folder with text/<lang>.jsonl.gz")
    texts = {Path(path).name[:-9]: read(Path(path)) for path in sorted(glob.glob(f"{folder}/text/*.jsonl.gz"))}
    everything = [text for group in texts.values() for text in group]
    random.Random(0).shuffle(everything)
    write("curation-substring", [*speed(texts, everything), naive(everything), *chain(everything)], tuned_on="nothing")


def order_of(texts: list[str]) -> np.ndarray:
    """The place of each text: the longest first, then the one that comes first."""
    place = np.empty(len(texts), np.int64)
    place[np.lexsort((np.arange(len(texts)), -np.array([len(text) for text in texts])))] = np.arange(len(texts))
    return place


def deduplicate(text: pa.Array, order: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    row, start, stop, _ = copies(text, order, CHARACTERS)
    return cut(text, row, start, stop)


def speed(texts: dict[str, list[str]], everything: list[str]) -> list[dict]:
    rows = []
    warm = pa.array(everything[:20])
    deduplicate(warm, np.arange(20))
    size = sum(len(text.encode()) for text in everything) / 1e6
    array, order = pa.array(everything), order_of(everything)
    seconds = cpu_seconds(lambda: deduplicate(array, order))
    metric = f"exact substring, {CHARACTERS} characters, {len(everything)} documents of {len(texts)} languages"
    rows.append(row(metric, "MB/s/core", size / seconds, target=10))
    rows.append(row("anchors alone", "MB/s/core", size / cpu_seconds(lambda: anchors(array, CHARACTERS))))
    for lang in ("en", "id", "th", "km", "my", "zh"):
        part, place = pa.array(texts[lang]), order_of(texts[lang])
        mb = sum(len(text.encode()) for text in texts[lang]) / 1e6
        rows.append(
            row(f"exact substring, {lang}", "MB/s/core", mb / cpu_seconds(lambda a=part, o=place: deduplicate(a, o)))
        )
    out, removed = deduplicate(array, order)
    characters = sum(map(len, everything))
    rows.append(row("characters that are copies", "share", removed.sum() / characters))
    again, place = out.cast(pa.string()), order_of(out.to_pylist())
    rows.append(row("the same of the result", "share", deduplicate(again, place)[1].sum() / characters))
    half = pa.array(everything[::4])
    quarter = cpu_seconds(lambda: deduplicate(half, order_of(everything[::4])))
    rows.append(
        row("time of 4x the documents / 4x the time", "ratio", seconds / (4 * quarter), target=1.15, least=False)
    )
    copied = pa.array(everything[:4000] * 10)
    mb = 10 * sum(len(text.encode()) for text in everything[:4000]) / 1e6
    seconds = cpu_seconds(lambda: deduplicate(copied, np.arange(len(copied))), 1)
    rows.append(row("every document ten times (the worst case)", "MB/s/core", mb / seconds))
    return rows


def naive(everything: list[str]) -> dict:
    """A dictionary of all windows, which also says whether the answer is right."""
    texts, size = [], 0
    for text in everything:
        texts.append(text)
        size += len(text.encode())
        if size > NAIVE_BYTES:
            break
    order = order_of(texts)
    begin = time.thread_time()
    first: dict[str, tuple[int, int]] = {}
    marks = [np.zeros(len(text), bool) for text in texts]
    for d in np.argsort(order).tolist():
        text = texts[d]
        for i in range(len(text) - CHARACTERS + 1):
            e, j = first.setdefault(text[i : i + CHARACTERS], (d, i))
            if e != d or i - j >= CHARACTERS:
                marks[d][i : i + CHARACTERS] = True
    seconds = time.thread_time() - begin
    ours = [np.zeros(len(text), bool) for text in texts]
    for r, start, stop, _ in zip(*(c.tolist() for c in copies(pa.array(texts), order, CHARACTERS)), strict=True):
        ours[r][start:stop] = True
    assert all((a == b).all() for a, b in zip(ours, marks, strict=True)), "not the naive answer"
    array = pa.array(texts)
    mine = cpu_seconds(lambda: copies(array, order, CHARACTERS))
    metric = f"copies found in {size / 1e6:.0f} MB, the same characters as naive"
    return row(metric, "MB/s/core", size / 1e6 / mine, peer=("dictionary of windows", size / 1e6 / seconds))


def chain(everything: list[str]) -> list[dict]:
    """The whole stage from Parquet to Parquet with the plain runner, and what exact substring adds to it."""
    mb = sum(len(text.encode()) for text in everything) / 1e6
    settings = {
        "without exact substring": DedupConfig(),
        "with it": DedupConfig(substring_min_chars=CHARACTERS),
        "with it, in partitions of 2 MB": DedupConfig(substring_min_chars=CHARACTERS, partition_bytes=2_000_000),
    }
    seconds = dict.fromkeys(settings, float("inf"))
    with tempfile.TemporaryDirectory() as folder:
        parts = []
        for i in range(8):
            texts = everything[i::8]
            ids = [f"{i}-{j}" for j in range(len(texts))]
            parts.append(f"{folder}/in/part-{i}.parquet")
            storage.write_table(parts[-1], pa.table({"doc_id": ids, "text": texts}))
        for turn in range(2):
            for name, config in settings.items():
                out = f"{folder}/{turn} {name}"
                begin = time.process_time()
                with Local(f"{folder}/rows") as engine:
                    dedup(engine, parts, f"{out}/dedup", f"{out}/dropped", config, "x")
                seconds[name] = min(seconds[name], time.process_time() - begin)
    rows = [row(f"stage dedup, Parquet to Parquet, {name}", "MB/s/core", mb / one) for name, one in seconds.items()]
    added = seconds["with it"] - seconds["without exact substring"]
    return [
        *rows,
        row("exact substring as a step of the stage, its own reading included", "MB/s/core", mb / added, target=10),
    ]


if __name__ == "__main__":
    main()
