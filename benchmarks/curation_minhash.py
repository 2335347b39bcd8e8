"""MinHash on one core: speed against datasketch, recall of edited copies per script, precision on real near-duplicates.

    python benchmarks/curation_minhash.py            # PINISI_SAMPLE_DIR names the folder with text/ and dedup_gold/

Prints a table and writes benchmarks/results/curation-minhash.json. Speeds are UTF-8 bytes per second of CPU time of one
thread, best of three; the peer does the same work (256 functions, 25 x 10 bands, components) on the same texts, in the same
process, with `\\w+` tokens, since it leaves tokens and shingles to its caller.
"""

from __future__ import annotations

import datetime
import gzip
import json
import os
import platform
import random
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.components import connected_components
from curation.minhash import MinHash, band_keys, fold_bands, jaccard_estimate, signatures

GROUPS = {
    "spaced": ["en", "id", "jv", "su", "ms", "tl", "ceb", "ilo", "vi"],
    "thai_lao": ["th", "lo"],
    "khmer": ["km"],
    "burmese": ["my"],
    "han": ["zh"],
}
CONFIG = MinHash()
THRESHOLD = 0.7
WORD = re.compile(r"\w+")
CLUSTER = re.compile(r"\w[^\w\s]*|\s+|[^\w\s]")


def main() -> None:
    folder = os.environ.get("PINISI_SAMPLE_DIR")
    if not folder or not Path(folder, "text").is_dir():
        raise SystemExit("set PINISI_SAMPLE_DIR to a folder with text/<lang>.jsonl.gz and dedup_gold/")
    sample = Path(folder)
    texts = {lang: read(sample / "text" / f"{lang}.jsonl.gz") for langs in GROUPS.values() for lang in langs}
    rows = [*speed(texts), *recall(texts), *gold(sample / "dedup_gold")]
    result = {"machine": machine(), "date": datetime.date.today().isoformat(), "rows": rows}
    out = Path(__file__).parent / "results" / "curation-minhash.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    for entry in rows:
        print(f"{entry['metric']:<58}{entry['ours']:>10} {entry['peer_value'] or '':>10} {entry['unit']}")


def read(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def row(
    metric: str, unit: str, ours: float, peer: tuple[str, float] = (None, None), target: float | None = None
) -> dict:
    name, value = peer
    ratio = round(ours / value, 2) if value else None
    values = {"metric": metric, "unit": unit, "ours": ours, "peer": name, "peer_value": value, "ratio": ratio}
    return {**values, "target": target, "met": None if target is None else ours >= target}


def cpu_seconds(work, repeats: int = 3) -> float:
    best = float("inf")
    for _ in range(repeats):
        begin = time.thread_time()
        work()
        best = min(best, time.thread_time() - begin)
    return best


def clusters(text: pa.Array, config: MinHash) -> np.ndarray:
    """Label of each text: the first of those it is joined to by equal band keys."""
    keys, valid = band_keys(text, config)
    ids = np.flatnonzero(valid)
    flat = keys[ids].ravel()
    order = np.argsort(flat)
    document = np.repeat(ids, config.bands)[order]
    same = flat[order][1:] == flat[order][:-1]
    label = np.arange(len(text))
    joined, root = connected_components(document[:-1][same], document[1:][same])
    label[joined] = root
    return label


def datasketch_clusters(texts: list[str]) -> None:
    from datasketch import MinHash as Datasketch
    from datasketch import MinHashLSH

    lsh = MinHashLSH(num_perm=CONFIG.num_perm, params=(CONFIG.bands, CONFIG.rows))
    a, b = [], []
    for i, text in enumerate(texts):
        tokens = WORD.findall(text.lower())
        shingles = {" ".join(tokens[j : j + CONFIG.ngram]) for j in range(max(1, len(tokens) - CONFIG.ngram + 1))}
        minhash = Datasketch(num_perm=CONFIG.num_perm)
        minhash.update_batch([shingle.encode() for shingle in shingles])
        for other in lsh.query(minhash):
            a.append(other)
            b.append(i)
        lsh.insert(i, minhash)
    connected_components(np.array(a, np.int64), np.array(b, np.int64))


def speed(texts: dict[str, list[str]]) -> list[dict]:
    rows = []
    everything = [text for group in texts.values() for text in group]
    slow = random.Random(0).sample(everything, len(everything) // 8)  # datasketch would take minutes on all
    size, slow_size = (sum(len(text.encode()) for text in part) for part in (everything, slow))
    array = pa.array(everything)
    clusters(array[:10], CONFIG)
    peer = slow_size / 1e6 / cpu_seconds(lambda: datasketch_clusters(slow), 1)
    ours = size / 1e6 / cpu_seconds(lambda: clusters(array, CONFIG))
    metric = "signatures + bands + components, 256 functions, 25x10"
    rows.append(row(metric, "MB/s/core", round(ours, 1), ("datasketch 2.0.0", round(peer, 2)), 120))
    small = MinHash(112, 14, 8)
    ours = size / 1e6 / cpu_seconds(lambda: clusters(array, small))
    rows.append(row("signatures + bands + components, 112 functions, 14x8", "MB/s/core", round(ours, 1)))
    for group, langs in GROUPS.items():
        part = pa.array([text for lang in langs for text in texts[lang]])
        mb = part.nbytes / 1e6
        rows.append(row(f"signatures, {group}", "MB/s/core", round(mb / cpu_seconds(lambda a=part: signatures(a)), 1)))
    edges = np.random.default_rng(0).integers(0, 2_000_000, (2, 2_000_000))
    connected_components(edges[0][:10], edges[1][:10])
    rows.append(
        row(
            "components, sort included",
            "M edges/s/core",
            round(2 / cpu_seconds(lambda: connected_components(*edges)), 1),
        )
    )
    return rows


def recall(texts: dict[str, list[str]]) -> list[dict]:
    """Copies with 2 % of words replaced; where no spaces are, the edits hit runs of about a word's length (4 letters)."""
    rows = []
    for group, langs in GROUPS.items():
        rng = random.Random(1)
        originals, copies = [], []
        for lang in langs:
            long = [text for text in texts[lang] if 1_500 < len(text.encode()) < 20_000][:150]
            originals += long
            copies += [edited_words(text, rng) if group == "spaced" else edited_runs(text, rng) for text in long]
        for name, config in (("25x10", CONFIG), ("14x8", MinHash(112, 14, 8))):
            keys = [band_keys(pa.array(side), config)[0] for side in (originals, copies)]
            found = (keys[0] == keys[1]).any(axis=1).mean()
            sigs = [signatures(pa.array(side), config.num_perm) for side in (originals, copies)]
            mean = jaccard_estimate(*sigs).mean()
            theory = config.collision(jaccard_estimate(*sigs)).mean()
            metric = f"recall of 2 % edited copies, {group}, {name} (mean J {mean:.2f}, n {len(originals)})"
            rows.append(row(metric, "share", round(float(found), 3), ("theory", round(float(theory), 3))))
    return rows


def edited_words(text: str, rng: random.Random) -> str:
    pieces = re.split(r"(\s+)", text)
    at = [i for i, piece in enumerate(pieces) if piece.strip()]
    for i in rng.sample(at, max(1, round(0.02 * len(at)))):
        pieces[i] = pieces[rng.choice(at)]
    return "".join(pieces)


def edited_runs(text: str, rng: random.Random) -> str:
    pieces = CLUSTER.findall(text)
    run = 4
    for _ in range(max(1, round(0.02 * len(pieces) / run))):
        to, source = rng.randrange(len(pieces) - run), rng.randrange(len(pieces) - run)
        pieces[to : to + run] = pieces[source : source + run]
    return "".join(pieces)


def gold(folder: Path) -> list[dict]:
    rows = []
    with gzip.open(folder / "debian_install_guide_docs.jsonl.gz", "rt") as file:
        docs = [json.loads(line) for line in file]
    with gzip.open(folder / "debian_install_guide_pairs.jsonl.gz", "rt") as file:
        pairs = [json.loads(line) for line in file]
    index = {doc["id"]: i for i, doc in enumerate(docs)}
    minima = signatures(pa.array([doc["text"] for doc in docs]))
    keys, _ = fold_bands(minima, CONFIG)
    a, b = (np.array([index[pair[side]] for pair in pairs]) for side in "ab")
    candidate = (keys[a] == keys[b]).any(axis=1)
    estimate = jaccard_estimate(minima[a], minima[b])
    label = np.array([pair["jaccard5"] for pair in pairs]) >= THRESHOLD
    for name, found in (("bands alone", candidate), (f"verified at {THRESHOLD}", candidate & (estimate >= THRESHOLD))):
        hits = (found & label).sum()
        rows.append(
            row(f"debian guide, {len(pairs)} pairs, precision, {name}", "share", round(float(hits / found.sum()), 4))
        )
        rows.append(
            row(f"debian guide, {len(pairs)} pairs, recall, {name}", "share", round(float(hits / label.sum()), 4))
        )
    error = np.abs(estimate - np.array([pair["jaccard5"] for pair in pairs]))
    rows.append(row("debian guide, mean |estimate - jaccard5|", "Jaccard", round(float(error.mean()), 4)))
    with gzip.open(folder / "mccormick_articles_1000.jsonl.gz", "rt") as file:
        articles = [json.loads(line) for line in file]
    with gzip.open(folder / "mccormick_articles_1000_truth.jsonl.gz", "rt") as file:
        truth = {frozenset((pair["a"], pair["b"])) for pair in map(json.loads, file)}
    label = clusters(pa.array([article["text"] for article in articles]), CONFIG)
    sizes = Counter(label.tolist())
    joined = {
        frozenset(article["id"] for article, root in zip(articles, label, strict=True) if root == cluster)
        for cluster, size in sizes.items()
        if size > 1
    }
    rows.append(row("mccormick 1000 articles, precision", "share", round(len(joined & truth) / max(1, len(joined)), 4)))
    rows.append(row("mccormick 1000 articles, recall", "share", round(len(joined & truth) / len(truth), 4)))
    return rows


if __name__ == "__main__":
    main()
