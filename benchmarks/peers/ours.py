"""Pinisi under the measure of its peers: the same tasks, the same corpus, one process."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from measure import main, measured

LANGUAGES = ["my", "ceb", "ilo", "id", "jv", "km", "lo", "ms", "su", "tl", "th", "vi", "war", "en", "zh"]
BATCH_ROWS = 1024


def minhash(corpus: str, permutations: str, bands: str, rows: str, threshold: str = "0") -> dict:
    """Bands alone, or with a threshold the pairs whose signatures reach it, as the dedup stage does by default."""
    from curation_minhash import clusters

    from curation.dedup.minhash import MinHash

    config = MinHash(int(permutations), int(bands), int(rows))
    text = pq.read_table(corpus)["text"].combine_chunks()
    clusters(pa.concat_arrays([text[:10], text[:10]]), config, float(threshold))
    result: dict = {}
    with measured(result):
        label = clusters(text, config, float(threshold))
    return {**result, "label": label.tolist()}


def filters(corpus: str) -> dict:
    """Every signal, no early exit, and the policies of all languages on them."""
    from curation.policy.policy import policy_kernel
    from curation.signals.text_signals import signals_kernel

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
