"""Pinisi under the measure of its peers: the same tasks, the same corpus, one process."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measure import main, measured

LANGUAGES = ["my", "ceb", "ilo", "id", "jv", "km", "lo", "ms", "su", "tl", "th", "vi", "war", "en", "zh"]
BATCH_ROWS = 1024


def minhash(corpus: str, permutations: str, bands: str, rows: str, threshold: str = "0") -> dict:
    """Bands alone, or with a threshold the pairs whose signatures reach it, as the dedup stage does by default."""
    from curation.components import connected_components
    from curation.minhash import MinHash, fold_bands, jaccard_estimate, signatures

    config = MinHash(int(permutations), int(bands), int(rows))
    text = pq.read_table(corpus)["text"].combine_chunks()
    fold_bands(signatures(text[:10], config.num_perm), config)
    connected_components(np.zeros(1, np.int64), np.ones(1, np.int64))
    result: dict = {}
    with measured(result):
        minima = signatures(text, config.num_perm)
        keys, valid = fold_bands(minima, config)
        ids = np.flatnonzero(valid)
        flat = keys[ids].ravel()
        order = np.argsort(flat, kind="stable")
        document = np.repeat(ids, config.bands)[order]
        new = np.r_[True, flat[order][1:] != flat[order][:-1]]
        first = document[np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))]  # a bucket is a star
        a, b = first[~new], document[~new]
        near = jaccard_estimate(minima[a], minima[b]) >= float(threshold)
        label = np.arange(len(text))
        joined, root = connected_components(a[near], b[near])
        label[joined] = root
    return {**result, "label": label.tolist()}


def filters(corpus: str) -> dict:
    """Every signal, no early exit, and the policies of all languages on them."""
    from curation.policy import policy_kernel
    from curation.signals import signals_kernel

    table = pq.read_table(corpus)
    signals, policy = signals_kernel(LANGUAGES), policy_kernel(LANGUAGES)
    for batch in table.slice(0, 20).to_batches():
        policy(signals(batch)[0])
    result: dict = {}
    kept = 0
    with measured(result):
        for batch in table.to_batches(BATCH_ROWS):
            kept += policy(signals(batch)[0])[0].num_rows
    return {**result, "kept": kept}


def chain(folder: str) -> dict:
    """WARC files of `folder` to filtered and deduplicated Parquet, one part a file."""
    from curation_chain import run_chain, warm_up

    warm_up()
    with tempfile.TemporaryDirectory() as out:
        result: dict = {}
        with measured(result):
            counts = run_chain(sorted(str(path) for path in Path(folder).glob("*.warc.gz")), out)
        return {**result, **counts, "kept": counts["dedup"]}


if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(Path(__file__).parent.parent))
    pa.set_cpu_count(1)
    main({"minhash": minhash, "filters": filters, "chain": chain})
