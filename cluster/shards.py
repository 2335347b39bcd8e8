"""One shard of one stage: read a Parquet part, apply a kernel, write the part, its ledger rows and its marker.

The same function runs in a Ray task, in a Spark task and in a plain loop, so every engine gives the same files. A shard is
done when its marker carries the fingerprint of the stage; a killed stage loses only the shards in flight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypedDict, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage

THREADS = 32  # markers that are read at a time

Kernel = Callable[[pa.RecordBatch], tuple[pa.RecordBatch, pa.RecordBatch]]
"""What a shard stage does to a batch: (documents that stay, ledger rows of those that do not)."""

Batches = Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]

LEDGER = pa.schema(
    [
        ("doc_id", pa.string()),
        ("url", pa.string()),
        ("lang", pa.string()),
        ("stage", pa.string()),
        ("rule", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("detail", pa.string()),
    ]
)
"""One row per dropped document and rule that it broke. `detail` names the document that won, or the error."""


@dataclass(frozen=True)
class Shard:
    """Where one shard is read and written. `output` and `ledger` are folders; `name` is the part's name in each."""

    name: str
    input: str
    output: str
    ledger: str
    fingerprint: str

    @property
    def part(self) -> str:
        return storage.join(self.output, f"{self.name}.parquet")

    @property
    def ledger_part(self) -> str:
        return storage.join(self.ledger, f"{self.name}.parquet")

    @property
    def marker(self) -> str:
        return storage.join(self.output, "_shards", f"{self.name}.json")


class Counts(TypedDict):
    """Documents and UTF-8 bytes that came out of some work, and what was dropped."""

    docs_out: int
    dropped: int
    docs_per_lang: dict[str, int]
    bytes_per_lang: dict[str, int]
    rules: dict[str, int]  # ledger rows of each


class Marker(Counts):
    """What a finished shard says of itself, with the fingerprint of its stage."""

    fingerprint: str
    bytes: int


def ledger_rows(stage: str, rows: list[dict]) -> pa.RecordBatch:
    """Ledger rows of `stage` from dicts with the columns of `LEDGER`; columns left out are null."""
    return pa.RecordBatch.from_pylist([{"stage": stage, **row} for row in rows], schema=LEDGER)


def done(shard: Shard) -> Marker | None:
    """The marker of a finished shard, or None when it must be run."""
    try:
        marker = cast("Marker", storage.read_json(shard.marker))
    except FileNotFoundError:
        return None
    return marker if marker["fingerprint"] == shard.fingerprint else None


def markers(shards: Sequence[Shard]) -> list[Marker | None]:
    """`done` of each shard; side by side, as an object store takes its time over each of a hundred thousand."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(done, shards))


def finished(shards: Sequence[Shard]) -> int:
    """How many of them need not be run."""
    there = storage.present(shard.marker for shard in shards)
    return sum(marker is not None for marker in markers([shard for shard in shards if shard.marker in there]))


def run_shard(kernel: Kernel, shard: Shard, batch_rows: int = 1024) -> Marker:
    """Apply `kernel` to every batch of the shard's input and commit the result. Returns the marker."""
    if marker := done(shard):
        return marker

    def batches() -> Batches:
        with storage.open_parquet(shard.input) as parquet:
            if parquet.metadata.num_rows == 0:
                yield kernel(pa.RecordBatch.from_pylist([], parquet.schema_arrow))
            for batch in parquet.iter_batches(batch_rows):
                yield kernel(batch)

    return write_shard(batches(), shard, input_ids(shard))


def input_ids(shard: Shard) -> list[str]:
    """The doc_id of every row of the shard's input, against which `write_shard` checks its own result."""
    with storage.open_parquet(shard.input) as parquet:
        return parquet.read(["doc_id"])["doc_id"].to_pylist()


def write_shard(batches: Batches, shard: Shard, ids: list[str] | None = None) -> Marker:
    """Write the part, then the ledger part, then the marker with counts (documents and UTF-8 bytes per language).

    `ids` are the doc_ids of the input: each must then be kept, or be in the ledger, once for each time it was read; a
    stage that loses or invents a document raises RuntimeError and commits nothing. Without them (a reader, whose input
    is no table) every record of the ledger counts as one that was dropped.
    """
    docs: Counter[str] = Counter()
    text_bytes: Counter[str] = Counter()
    kept_ids: list[str] = []
    dropped: list[str] = []
    rules: Counter[str] = Counter()
    ledger = []
    first = next(batches, None)
    if first is None:
        raise ValueError(f"{shard.input}: a shard gives at least one batch, an empty one with its schema if need be")
    with storage.parquet_writer(shard.part, first[0].schema) as writer:
        for kept, drops in _chain(first, batches):
            if kept.num_rows:
                writer.write_batch(kept)
                _count(kept, docs, text_bytes)
                if ids is not None:
                    kept_ids += kept["doc_id"].to_pylist()
            if drops.num_rows:
                ledger.append(drops)
                dropped += [i for i in drops["doc_id"].to_pylist() if i]
                rules.update(drops["rule"].to_pylist())
    storage.write_table(shard.ledger_part, pa.Table.from_batches(ledger, LEDGER))
    marker: Marker = {
        "fingerprint": shard.fingerprint,
        "docs_out": sum(docs.values()),
        "dropped": len(dropped) if ids is None else _dropped(shard, ids, kept_ids, dropped),
        "bytes": sum(text_bytes.values()),
        "docs_per_lang": dict(sorted(docs.items())),
        "bytes_per_lang": dict(sorted(text_bytes.items())),
        "rules": dict(sorted(rules.items())),
    }
    storage.write_json(shard.marker, marker)
    return marker


def _dropped(shard: Shard, ids: list[str], kept: list[str], ledger: list[str]) -> int:
    """How many documents were dropped. A ledger may name one several times, as it may break several rules."""
    gone, invented = Counter(ids), Counter(kept)
    invented.subtract(gone)
    gone.subtract(kept)
    lost = {i for i, n in gone.items() if n > 0} ^ set(ledger)
    if lost or max(invented.values(), default=0) > 0:
        wrong = sorted(lost) or [i for i, n in invented.items() if n > 0]
        raise RuntimeError(
            f"{shard.part}: {len(wrong)} documents are neither kept nor in the ledger, or both, such as {wrong[0]}"
        )
    return len(ids) - len(kept)


def _chain(first, rest: Batches) -> Batches:
    yield first
    yield from rest


def _count(batch: pa.RecordBatch, docs: Counter[str], text_bytes: Counter[str]) -> None:
    names = batch.schema.names
    langs = batch["lang"].to_pylist() if "lang" in names else ["?"] * batch.num_rows
    sizes = [pc.fill_null(pc.binary_length(batch[name]), 0).to_numpy() for name in ("text", "payload") if name in names]
    for lang, length in zip(langs, sum(sizes, np.zeros(batch.num_rows, np.int64)).tolist(), strict=True):
        docs[lang or "?"] += 1
        text_bytes[lang or "?"] += length
