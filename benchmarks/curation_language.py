"""Language identification on one core: F1 on sources that were not trained on, calibration and speed, beside lid.176.

    python benchmarks/curation_language.py       # PINISI_SAMPLE_DIR names the folder with text/ and eval/lid.jsonl.gz

Trains as `pinisi train lid` does, without the sources ntrex128, udhr and tatoeba, and measures on these: `paragraphs` are the
articles of UDHR and four lines in turn of the news of NTREX (text/), `eval/lid` the single sentences and paragraphs of that
file. A second model has all sources, and of those three the documents whose hash is even; it is measured on the sentences of
the odd ones. Prints a table and writes benchmarks/results/curation-language.json. Speeds are documents per second of CPU time
of one thread, best of three, on the first 1,000 characters of documents in all languages.
"""

from __future__ import annotations

import datetime
import gzip
import json
import os
import platform
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from curation.lid.identify import Lid176, code, identify
from curation.lid.model import OTHER, load
from curation.lid.report import expected_calibration_error, scores
from curation.lid.training import train
from curation.schema import DOCUMENT

UNSEEN = ("ntrex128", "tatoeba", "udhr")
CLOSE = ("ms", "id", "jv", "su", "ceb", "ilo", "tl", "war")
PIECE = re.compile(r"article\d+|ntrex:[^:]+|tatoeba:[a-z]+:\d+")
"""The part of an id that all translations and pieces of one document share."""


def main() -> None:
    folder = os.environ.get("PINISI_SAMPLE_DIR")
    if not folder or not Path(folder, "eval", "lid.jsonl.gz").is_file():
        raise SystemExit("set PINISI_SAMPLE_DIR to a folder with text/<lang>.jsonl.gz and eval/lid.jsonl.gz")
    documents = [row for path in sorted(Path(folder, "text").glob("*.jsonl.gz")) for row in read(path)]
    lid = [{**row, "lang": code(row["lang"])} for row in read(Path(folder, "eval", "lid.jsonl.gz"))]
    begin = time.process_time()
    ours, report = train([triple(row) for row in documents if row["source"] not in UNSEEN])
    rows = [row("training, three models of which two measure", "CPU seconds", round(time.process_time() - begin, 1))]
    peer = Lid176()
    unseen = report["unseen_sources"]
    rows.append(row("half of the sources unseen: macro-F1, >= 200 characters", "F1", unseen["paragraphs"]["macro_f1"]))
    rows.append(row("half of the sources unseen: calibration error", "ECE", unseen["calibration_error"]))
    inside = [one for one in lid if one["lang"] != OTHER]
    rows += quality("paragraphs", paragraphs(documents), ours, peer, targets=True)
    rows += quality("eval/lid, >= 200 characters", [one for one in inside if len(one["text"]) >= 200], ours, peer)
    for source in UNSEEN:
        rows += quality(f"eval/lid, {source}", [one for one in inside if one["source"] == source], ours, peer)
    rows += quality("eval/lid with other languages", [one for one in lid if one["source"] == "udhr"], ours, peer)
    split = [one for one in documents if one["source"] not in UNSEEN or side(one) == 0]
    whole, _ = train([triple(one) for one in split])
    odd = [one for one in inside if side(one) == 1]
    for source in UNSEEN:
        part = [one for one in odd if one["source"] == source]
        rows += quality(f"all sources, other documents: {source}", part, whole, None)
    rows += speed(documents, ours, peer)
    result = {"machine": machine(), "date": datetime.date.today().isoformat(), "rows": rows}
    out = Path(__file__).parent / "results" / "curation-language.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    for entry in rows:
        met = {True: "met", False: "MISSED", None: ""}[entry["met"]]
        print(f"{entry['metric']:<66}{entry['ours']:>10} {entry['peer_value'] or '':>10} {entry['unit']:<12}{met}")


def read(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def triple(entry: dict) -> tuple[str, str, str]:
    return code(entry["lang"]), entry["source"], entry["text"]


def side(entry: dict) -> int:
    """0 or 1, equal for all pieces and translations of a document."""
    return xxhash.xxh3_64_intdigest(PIECE.search(entry["id"]).group().encode()) % 2


def paragraphs(documents: list[dict]) -> list[dict]:
    found = []
    for entry in documents:
        if entry["source"] in ("ntrex128", "udhr"):
            lines = [line for line in entry["text"].split("\n") if line.strip()]
            step = 4 if entry["source"] == "ntrex128" else len(lines)
            pieces = ["\n".join(lines[i : i + step]) for i in range(0, len(lines), step)]
            found += [{**entry, "text": piece} for piece in pieces]
    return found


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def row(metric: str, unit: str, ours: float, peer: float | None = None, target: float | None = None) -> dict:
    values = {"metric": metric, "unit": unit, "ours": ours, "peer": "lid.176" if peer is not None else None}
    ratio = round(ours / peer, 2) if peer else None
    met = None if target is None else ours >= target
    return {**values, "peer_value": peer, "ratio": ratio, "target": target, "met": met}


def quality(name: str, texts: list[dict], ours, peer, targets: bool = False) -> list[dict]:
    array = pa.array([one["text"] for one in texts], pa.large_string())
    truth = np.array([ours.labels.index(one["lang"]) for one in texts])
    predictions = ours.predict(array)
    mine = scores(truth, predictions.best, ours.labels)
    theirs = None
    if peer is not None:
        number = {label: i for i, label in enumerate(ours.labels)}
        said = [number.get(peer.labels[best], number[OTHER]) for best in peer.predict(array).best]
        theirs = scores(truth, np.array(said), ours.labels)
    title = f"{name} ({len(texts)})"
    rows = [row(f"{title}: macro-F1", "F1", macro(mine), macro(theirs), 0.97 if targets else None)]
    for label in sorted(mine["labels"]) if targets else (*CLOSE, OTHER):
        if label in mine["labels"]:
            other = theirs["labels"][label]["f1"] if theirs else None
            goal = 0.93 if targets and label in CLOSE else None
            rows.append(row(f"{title}: {label}", "F1", mine["labels"][label]["f1"], other, goal))
    error = expected_calibration_error(predictions.probabilities, truth)
    return [*rows, row(f"{title}: calibration error", "ECE", error)]


def macro(result: dict | None) -> float | None:
    """Of the languages, `other` left out."""
    if result is None:
        return None
    return round(float(np.mean([one["f1"] for label, one in result["labels"].items() if label != OTHER])), 4)


def speed(documents: list[dict], ours, peer) -> list[dict]:
    heads = [one["text"][:1000] for one in documents if len(one["text"]) >= 1000][::3]
    array = pa.array(heads)
    n = len(heads)
    rows = []
    fast = n / cpu_seconds(lambda: ours.predict(array))
    slow = n / cpu_seconds(lambda: peer.predict(array))
    rows.append(row(f"labels and probabilities ({n})", "documents/s", round(fast), round(slow), 15_000))
    with tempfile.TemporaryDirectory() as folder:
        ours.save(folder)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        rows.append(row("size of the model", "MB", round(size / 1e6, 1)))
        rows.append(row("loading the model", "seconds", round(cpu_seconds(lambda: load(folder)), 2)))
        empty = dict.fromkeys(DOCUMENT.names, "") | {"warc_offset": None}
        batch = pa.RecordBatch.from_pylist([{**empty, "text": text} for text in heads], schema=DOCUMENT)
        kernels = [identify(model, languages=ours.labels[:-1]) for model in (folder, "lid.176")]
        fast, slow = (n / cpu_seconds(lambda kernel=kernel: kernel(batch)) for kernel in kernels)
    rows.append(row("the whole stage's kernel", "documents/s", round(fast), round(slow)))
    return rows


def cpu_seconds(work, repeats: int = 3) -> float:
    work()
    best = float("inf")
    for _ in range(repeats):
        begin = time.thread_time()
        work()
        best = min(best, time.thread_time() - begin)
    return best


if __name__ == "__main__":
    main()
