"""Language identification on one core: F1 on sources that were not trained on, calibration and speed, beside three others.

    benchmarks/peers/setup.sh lid                # once: CLD2 and HeLI in an environment of their own
    python benchmarks/curation_language.py       # PINISI_SAMPLE_DIR names the folder with text/ and eval/lid.jsonl.gz

Trains as `pinisi train lid` does, without the sources ntrex128, udhr and tatoeba, and measures on these: `paragraphs` are the
articles of UDHR and four lines in turn of the news of NTREX (text/), news sentences (NTREX), short sentences (Tatoeba) and
declarations (UDHR) the rows of eval/lid. A second model has all sources, and of those three the documents whose hash is even;
it is measured on the sentences of the odd ones. Peers read the same texts: lid.176 (fastText), CLD2 and HeLI as
peers/with_lid.py says; HeLI has one label for Malay and Indonesian, so that only its other languages are shown. `interval` is
95 % of 1,000 bootstrap samples of the texts, of the F1 and of its difference to the peer's. Writes
benchmarks/results/curation-language.json. Speeds are documents per second of CPU time of one thread, best of three, on the
first 1,000 characters of documents in all languages.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import table
import xxhash

from curation.lid.identify import Lid176, identify
from curation.lid.model import OTHER, load
from curation.lid.report import expected_calibration_error
from curation.lid.tags import code
from curation.lid.training import train
from curation.schema import DOCUMENT

HERE = Path(__file__).parent
PEER_PYTHON = HERE.parent / ".peers" / "lid" / "bin" / "python"
UNSEEN = ("ntrex128", "tatoeba", "udhr")
CLOSE = ("ms", "id", "jv", "su", "ceb", "ilo", "tl", "war")
PIECE = re.compile(r"article\d+|ntrex:[^:]+|tatoeba:[a-z]+:\d+")
"""The part of an id that all translations and pieces of one document share."""
TUNED = "the n-grams and spelling pairs (2026-11-23), not the words"
TUNED_ALL = "n-grams, spelling pairs and words"
HELI_LABELS = ("ceb", "ilo", "tl", "war")
RESAMPLED = 1000


def main() -> None:
    folder = os.environ.get("PINISI_SAMPLE_DIR")
    if not folder or not Path(folder, "eval", "lid.jsonl.gz").is_file():
        raise SystemExit("set PINISI_SAMPLE_DIR to a folder with text/<lang>.jsonl.gz and eval/lid.jsonl.gz")
    documents = [row for path in sorted(Path(folder, "text").glob("*.jsonl.gz")) for row in read(path)]
    lid = [{**row, "lang": code(row["lang"])} for row in read(Path(folder, "eval", "lid.jsonl.gz"))]
    inside = {source: [one for one in lid if one["lang"] != OTHER and one["source"] == source] for source in UNSEEN}
    begin = time.process_time()
    ours, report = train([triple(row) for row in documents if row["source"] not in UNSEEN])
    rows = [table.row("training, three models of which two measure", "CPU s", time.process_time() - begin, least=False)]
    unseen = report["unseen_sources"]
    rows.append(
        table.row("half of the sources unseen: macro-F1, >= 200 characters", "F1", unseen["paragraphs"]["macro_f1"])
    )
    rows.append(table.row("half of the sources unseen: calibration error", "ECE", unseen["calibration_error"]))
    rows += quality("paragraphs", paragraphs(documents), ours, TUNED, {"macro": 0.995})
    rows += quality("news sentences", inside["ntrex128"], ours, TUNED, {"ms": 0.87, "id": 0.87})
    rows += quality("short sentences", inside["tatoeba"], ours, TUNED, {"ceb": 0.85, "tl": 0.93, "war": 0.95})
    rows += quality("declarations", inside["udhr"], ours, TUNED_ALL, {})
    rows += quality(
        "declarations, also in others", [one for one in lid if one["source"] == "udhr"], ours, TUNED_ALL, {}
    )
    split = [one for one in documents if one["source"] not in UNSEEN or side(one) == 0]
    whole, _ = train([triple(one) for one in split])
    for source in UNSEEN:
        part = [one for one in inside[source] if side(one) == 1]
        rows += quality(f"all sources, other documents: {source}", part, whole, TUNED, {}, peers=False)
    rows += speed(documents, ours)
    table.write("curation-language", rows, tuned_on="nothing")


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


def answers(texts: list[str]) -> dict[str, tuple[list[str], float]]:
    """Name of each peer -> (its labels, CPU seconds)."""
    peer = Lid176()
    array = pa.array(texts, pa.large_string())
    begin = time.process_time()
    best = peer.predict(array).best
    found = {"lid.176": ([peer.labels[number] for number in best], time.process_time() - begin)}
    if not PEER_PYTHON.is_file():
        print("CLD2 and HeLI are not installed: benchmarks/peers/setup.sh lid", file=sys.stderr)
        return found
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/texts.parquet"
        pq.write_table(pa.table({"text": array}), path)
        for name, task in (("CLD2 0.42", "cld2"), ("HeLI 1.0.1", "heli")):
            arguments = [str(PEER_PYTHON), str(HERE / "peers" / "with_lid.py"), task, path]
            result = json.loads(subprocess.run(arguments, capture_output=True, check=True).stdout.splitlines()[-1])
            found[name] = ([code(label) for label in result["labels"]], result["cpu_seconds"])
    return found


def quality(
    name: str, texts: list[dict], ours, tuned: str, targets: dict[str, float], *, peers: bool = True
) -> list[dict]:
    """F1 of the languages, macro without `other`, and of each close one; a row for ours and each peer."""
    truth = np.array([ours.labels.index(one["lang"]) for one in texts])
    predictions = ours.predict(pa.array([one["text"] for one in texts], pa.large_string()))
    number = {label: i for i, label in enumerate(ours.labels)}
    others = answers([one["text"] for one in texts]) if peers else {}
    said = {peer: np.array([number.get(one, number[OTHER]) for one in labels]) for peer, (labels, _) in others.items()}
    rng = np.random.default_rng(0)
    samples = [rng.integers(0, len(truth), len(truth)) for _ in range(RESAMPLED)]
    present = [label for label in ours.labels if (truth == number[label]).any()]
    mine = resampled(truth, predictions.best, samples, number)
    theirs = {peer: resampled(truth, best, samples, number) for peer, best in said.items()}
    rows = []
    for label in ("macro", *(one for one in (*CLOSE, OTHER) if one in present)):
        columns = [number[one] for one in present if one != OTHER] if label == "macro" else [number[label]]
        f1 = mine[:, columns].mean(axis=1)
        for peer in theirs or (None,):
            if peer and peer.startswith("HeLI") and label not in HELI_LABELS:
                continue
            other = theirs[peer][:, columns].mean(axis=1) if peer else None
            pair = (peer, float(other[0])) if peer else None
            goal = targets.get(label) if peer in (None, "lid.176") else None
            title = f"{name} ({len(texts)}): {label if label != 'macro' else 'macro-F1'}"
            rows.append(
                table.row(title, "F1", float(f1[0]), peer=pair, target=goal, tuned_on=tuned)
                | {"interval": interval(f1[1:]), "difference": None if other is None else interval((f1 - other)[1:])}
            )
    if not peers:
        return rows
    error = expected_calibration_error(predictions.probabilities, truth)
    return [*rows, table.row(f"{name} ({len(texts)}): calibration error", "ECE", error, least=False, tuned_on=tuned)]


def resampled(truth: np.ndarray, best: np.ndarray, samples: list[np.ndarray], number: dict[str, int]) -> np.ndarray:
    """F1 [1 + samples, C] of each label: of all texts first."""
    found = []
    for rows in (np.arange(len(truth)), *samples):
        t, p = truth[rows], best[rows]
        right = np.bincount(t[t == p], minlength=len(number))
        both = np.bincount(t, minlength=len(number)) + np.bincount(p, minlength=len(number))
        found.append(2 * right / np.maximum(both, 1))
    return np.array(found)


def interval(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in np.quantile(values, [0.025, 0.975])]


def speed(documents: list[dict], ours) -> list[dict]:
    heads = [one["text"][:1000] for one in documents if len(one["text"]) >= 1000][::3]
    array = pa.array(heads)
    n = len(heads)
    fast = n / cpu_seconds(lambda: ours.predict(array))
    rows = []
    for name, (_, seconds) in answers(heads).items():
        goal = 15_000 if name == "lid.176" else None
        title = f"labels and probabilities ({n} documents of 1,000 characters)"
        rows.append(table.row(title, "documents/s", fast, peer=(name, n / seconds), target=goal))
    with tempfile.TemporaryDirectory() as folder:
        ours.save(folder)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        rows.append(table.row("size of the model", "MB", size / 1e6, least=False))
        rows.append(table.row("loading the model", "s", cpu_seconds(lambda: load(folder)), least=False))
        empty = dict.fromkeys(DOCUMENT.names, "") | {"warc_offset": None}
        long = [one["text"] for one in documents if len(one["text"]) > 2000][::5]
        for title, texts in (("documents of 1,000 characters", heads), ("documents of more than 2,000", long)):
            batch = pa.RecordBatch.from_pylist([{**empty, "text": text} for text in texts], schema=DOCUMENT)
            kernels = [identify(model, languages=ours.labels[:-1]) for model in (folder, "lid.176")]
            fast, slow = (
                len(texts) / cpu_seconds(lambda kernel=kernel, batch=batch: kernel(batch)) for kernel in kernels
            )
            rows.append(
                table.row(
                    f"the whole stage's kernel, {title} ({len(texts)})", "documents/s", fast, peer=("lid.176", slow)
                )
            )
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
