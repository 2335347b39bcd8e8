"""MinHash on one core: speed against datasketch, recall of edited copies per script, precision on real near-duplicates.

    python benchmarks/curation_minhash.py            # PINISI_SAMPLE_DIR names the folder with text/ and dedup_gold/

Prints a table and writes benchmarks/results/curation-minhash.json. "Merged" counts documents that lose to another one, beside
the number that exact 5-gram Jaccard similarities of all pairs give. Speeds are UTF-8 bytes per second of CPU time of one
thread, best of three; the peer does the same work (256 functions, 25 x 10 bands, components) on the same texts, in the same
process, with `\\w+` tokens, since it leaves tokens and shingles to its caller.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix
from table import row, write

from curation.dedup.components import connected_components, star_pairs
from curation.dedup.minhash import MinHash, band_keys, fold_bands, jaccard_estimate, shingle_sets, signatures
from curation.text.urls import url_keys

GROUPS = {
    "spaced": ["en", "id", "jv", "su", "ms", "tl", "ceb", "ilo", "vi"],
    "thai_lao": ["th", "lo"],
    "khmer": ["km"],
    "burmese": ["my"],
    "han": ["zh"],
}
CONFIG = MinHash()
SMALL = MinHash(112, 14, 8)
THRESHOLD = 0.7
WORD = re.compile(r"\w+")
CLUSTER = re.compile(r"\w[^\w\s]*|\s+|[^\w\s]")


def main() -> None:
    folder = os.environ.get("PINISI_SAMPLE_DIR")
    if not folder or not Path(folder, "text").is_dir():
        raise SystemExit("set PINISI_SAMPLE_DIR to a folder with text/<lang>.jsonl.gz and dedup_gold/")
    sample = Path(folder)
    texts = {lang: read(sample / "text" / f"{lang}.jsonl.gz") for langs in GROUPS.values() for lang in langs}
    write(
        "curation-minhash",
        [*speed(texts), *recall(texts), *merged(texts), *gold(sample / "dedup_gold")],
        tuned_on="nothing",
    )


def read(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def cpu_seconds(work, repeats: int = 3) -> float:
    best = float("inf")
    for _ in range(repeats):
        begin = time.thread_time()
        work()
        best = min(best, time.thread_time() - begin)
    return best


def clusters(text: pa.Array, config: MinHash, threshold: float = 0.0) -> np.ndarray:
    """Label of each text: the first of those it is joined to by band keys, and by the estimate where there is a threshold."""
    minima = signatures(text, config.num_perm, config.seed, config.ngram)
    keys, valid = fold_bands(minima, config)
    ids = np.flatnonzero(valid)
    a, b = star_pairs(keys[ids].ravel().view(np.int64), np.repeat(ids, config.bands))
    if threshold:
        low = minima.astype(np.uint8)
        near = np.concatenate(
            [jaccard_estimate(low[a[i : i + 65536]], low[b[i : i + 65536]]) for i in range(0, len(a), 65536)] or [a]
        )
        a, b = a[near >= threshold], b[near >= threshold]
    label = np.arange(len(text))
    joined, root = connected_components(a, b)
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
    metric = "signatures + bands + components, 256 functions, 25x10"
    ours = size / 1e6 / cpu_seconds(lambda: clusters(array, CONFIG))
    rows.append(row(metric, "MB/s/core", ours, peer=("datasketch 2.0.0", peer), target=120))
    ours = size / 1e6 / cpu_seconds(lambda: clusters(array, CONFIG, THRESHOLD))
    rows.append(row(f"{metric}, pairs verified", "MB/s/core", ours))
    ours = size / 1e6 / cpu_seconds(lambda: clusters(array, SMALL))
    rows.append(row("signatures + bands + components, 112 functions, 14x8", "MB/s/core", ours))
    for group, langs in GROUPS.items():
        part = pa.array([text for lang in langs for text in texts[lang]])
        ours = part.nbytes / 1e6 / cpu_seconds(lambda a=part: signatures(a))
        rows.append(row(f"signatures, {group}", "MB/s/core", ours))
    rng = np.random.default_rng(0)
    for name, target, (a, b) in (
        ("random, ids in a range", 20, rng.integers(0, 2_000_000, (2, 2_000_000))),
        ("random, ids far apart", None, rng.choice(rng.integers(0, 2**62, 2_000_000), (2, 2_000_000))),
        ("stars of 6, ids far apart", 20, star_graph(rng)),
    ):
        ours = len(a) / 1e6 / cpu_seconds(lambda a=a, b=b: connected_components(a, b), 5)
        rows.append(row(f"components of {len(a) / 1e6:.0f} M edges, {name}", "M edges/s/core", ours, target=target))
    keys = rng.integers(0, 2**62, 4_000_000)
    ours = 4 / cpu_seconds(lambda: star_pairs(keys, np.arange(4_000_000)), 5)
    rows.append(row("edges of equal band keys, all different", "M keys/s/core", ours))
    keys[:] = 1
    ours = 4 / cpu_seconds(lambda: star_pairs(keys, np.arange(4_000_000)), 5)
    rows.append(row("edges of equal band keys, all the same", "M keys/s/core", ours))
    urls = [f"https://www.contoh{i % 977}.id/berita/{i % 13}/judul-berita-{i}.html" for i in range(100_000)]
    urls[::4] = [f"{url}?id={i}" for i, url in enumerate(urls[::4])]
    urls[::10] = [f"{url}&utm_source=x" for url in urls[::10]]
    rows.append(row("URL keys", "M URLs/s/core", 0.1 / cpu_seconds(lambda: url_keys(urls)), target=0.5))
    return rows


def star_graph(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """2 M edges as near-duplicates give them: each of 400,000 documents with five copies."""
    order = rng.permutation(2_000_000)
    return np.repeat(rng.integers(0, 2**62, 400_000), 5)[order], rng.integers(0, 2**62, 2_000_000)[order]


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
        target = 0.89 if group == "spaced" else 0.80
        for name, config in (("25x10", CONFIG), ("14x8", SMALL)):
            keys = [band_keys(pa.array(side), config)[0] for side in (originals, copies)]
            sigs = [signatures(pa.array(side), config.num_perm) for side in (originals, copies)]
            estimate = jaccard_estimate(*sigs)
            found = (keys[0] == keys[1]).any(axis=1)
            theory = config.collision(estimate).mean()
            metric = f"recall of 2 % edited copies, {group}, {name} (mean J {estimate.mean():.2f}, n {len(originals)})"
            rows.append(row(metric, "share", found.mean(), peer=("theory", theory), target=target))
            verified = (found & (estimate >= THRESHOLD)).mean()
            rows.append(row(f"{metric}, verified at {THRESHOLD}", "share", verified))
    return rows


def merged(texts: dict[str, list[str]]) -> list[dict]:
    """Originals that lose to another, per script, beside the truth: components of all pairs of exact Jaccard >= threshold."""
    rows = []
    for group, langs in GROUPS.items():
        ours = dict.fromkeys(("bands alone", f"verified at {THRESHOLD}"), 0)
        truth = documents = 0
        for lang in langs:
            part = pa.array(texts[lang])
            documents += len(part)
            truth += len(part) - len(np.unique(exact_clusters(part)))
            for name, threshold in zip(ours, (0.0, THRESHOLD), strict=True):
                ours[name] += len(part) - len(np.unique(clusters(part, CONFIG, threshold)))
        for name, count in ours.items():
            metric = f"originals merged, {group} ({documents} documents), {name}"
            target = truth * 1.05 if "verified" in name else None
            rows.append(row(metric, "documents", count, peer=("exact Jaccard", truth), target=target, least=False))
    return rows


def exact_clusters(text: pa.Array) -> np.ndarray:
    """Label of each text by the exact Jaccard similarity of all pairs, with an inverted index as a sparse matrix."""
    sets = shingle_sets(text, CONFIG.ngram)
    sizes = np.array([len(one) for one in sets])
    _, column = np.unique(np.concatenate(sets), return_inverse=True)
    matrix = csr_matrix((np.ones(len(column), np.float32), column, np.concatenate([[0], np.cumsum(sizes)])))
    label = np.arange(len(text))
    pairs = []
    for first in range(0, len(text), 500):
        common = (matrix[first : first + 500] @ matrix.T).tocoo()
        a, b = common.row + first, common.col
        near = (a < b) & (common.data / (sizes[a] + sizes[b] - common.data) >= THRESHOLD)
        pairs.append((a[near], b[near]))
    joined, root = connected_components(*(np.concatenate(side).astype(np.int64) for side in zip(*pairs, strict=True)))
    label[joined] = root
    return label


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
        rows.append(row(f"debian guide, {len(pairs)} pairs, precision, {name}", "share", hits / found.sum()))
        rows.append(row(f"debian guide, {len(pairs)} pairs, recall, {name}", "share", hits / label.sum()))
    error = np.abs(estimate - np.array([pair["jaccard5"] for pair in pairs]))
    rows.append(row("debian guide, mean |estimate - jaccard5|", "Jaccard", error.mean()))
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
    rows.append(row("mccormick 1000 articles, precision", "share", len(joined & truth) / max(1, len(joined))))
    rows.append(row("mccormick 1000 articles, recall", "share", len(joined & truth) / len(truth)))
    return rows


if __name__ == "__main__":
    main()
