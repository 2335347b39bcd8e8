"""Curation's kernels on your own Parquet, without a run, Ray or Spark: signals, a policy, near-duplicates.

    python examples/kernels_on_parquet.py IN.parquet OUT --language th

IN.parquet has columns `doc_id` and `text`. OUT gets the kept documents with all signals, and `dropped/` with a row for each
document that goes: rule, value, threshold.
"""

from __future__ import annotations

import argparse
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq

from cluster import storage
from cluster.engines.in_process import Local
from curation.dedup.schema import DedupConfig
from curation.dedup.steps import dedup
from curation.policy.policy import policy_kernel
from curation.signals.measure import Measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input")
    parser.add_argument("out")
    parser.add_argument("--language", required=True, help="a code with a file in curation/languages")
    options = parser.parse_args()

    measure = Measure([options.language], masked=("email", "phone"))  # a kernel: batch -> (batch, ledger)
    judge = policy_kernel([options.language])
    kept, dropped = [], []
    for batch in pq.ParquetFile(options.input).iter_batches(1024, columns=["doc_id", "text"]):
        n = batch.num_rows
        batch = batch.append_column("url", pa.nulls(n, pa.string()))
        batch = batch.append_column("lang", pa.array([options.language] * n))
        good, broken = judge(measure(batch)[0])
        kept.append(good)
        dropped.append(broken)
    measured = pa.Table.from_batches(kept)
    storage.write_table(
        storage.join(options.out, "dropped", "policy", "part-00000.parquet"), pa.Table.from_batches(dropped)
    )

    with tempfile.TemporaryDirectory() as folder, Local(folder) as engine:
        part = storage.join(folder, "part-00000.parquet")
        storage.write_table(part, measured)
        ledger = storage.join(options.out, "dropped", "dedup")
        counts = dedup(engine, [part], options.out, ledger, DedupConfig(threshold=0.7), fingerprint="example")
    print(counts)


if __name__ == "__main__":
    main()
