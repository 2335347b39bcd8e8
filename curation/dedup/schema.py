"""Settings of deduplication, and the columns of the rows that it moves between workers.

Spark has no unsigned integers, so 64-bit hashes travel as signed ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from curation.dedup.minhash import MinHash, at_edit_share

STAGE = "dedup"

KEYS = pa.schema(
    [
        ("part", pa.int32()),
        ("row", pa.int64()),
        ("doc_id", pa.string()),
        ("snapshot", pa.string()),
        ("length", pa.int32()),  # characters
        ("tie", pa.int64()),  # hash of URL and text: orders records of equal length and id
        ("page", pa.int64()),  # key of the URL, or of the doc_id where there is no URL
        ("bands", pa.list_(pa.int64())),  # null where the text has no unit: it matches nothing
        ("sketch", pa.binary()),  # low byte of each minimum
    ]
)
"""What is known of each document after the first pass over the texts."""

DROPS = pa.schema(
    [
        ("part", pa.int32()),
        ("row", pa.int64()),
        ("rule", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("detail", pa.string()),
    ]
)
"""A document that goes, and what its ledger row says."""

PAGES = pa.schema([*KEYS, *(DROPS.field(name) for name in ("rule", "value", "threshold", "detail"))])
"""Documents with the verdict of URL dedup; `rule` is null for the one of a page that stays."""

RANKED = pa.schema([("id", pa.int64()), *(KEYS.field(n) for n in ("part", "row", "doc_id", "bands", "sketch"))])
"""One document a page; `id` rises as documents get shorter, then with their doc_id. Documents of earlier runs have
negative ids, so they come before all."""

PAIRS = pa.schema([("a", pa.int64()), ("b", pa.int64())])
"""Documents that may be near-duplicates, `a` the one that would stay; edges of the graph of those that are."""

SIDES = pa.schema(
    [
        *PAIRS,
        ("part_a", pa.int32()),  # null where `a` is of an earlier run
        ("row_a", pa.int64()),
        ("detail", pa.string()),  # the name of `a`
        ("sketch_a", pa.binary()),
        ("part", pa.int32()),
        ("row", pa.int64()),
        ("sketch", pa.binary()),
    ]
)
"""Pairs with what is known of both."""

JUDGED = pa.schema([*(f for f in SIDES if f.type != pa.binary()), ("estimate", pa.float64())])
"""Pairs with the estimate of their Jaccard similarity."""

SHINGLES = pa.schema([("part", pa.int32()), ("row", pa.int64()), ("shingles", pa.binary())])
"""Documents with their set of shingles: sorted 64-bit hashes."""

EARLIER_PAGES = pa.schema([KEYS.field(name) for name in ("page", "doc_id", "snapshot", "length")])
EARLIER_BANDS = pa.schema([("key", pa.int64()), ("id", pa.int64())])
"""What an earlier run kept, of one partition of pages or of band keys, sorted by its first column."""

LINES = pa.schema([("part", pa.int32()), ("bucket", pa.int64()), ("line", pa.int64()), ("n", pa.int64())])
FREQUENT = pa.schema([LINES.field(name) for name in ("part", "bucket", "line")])
ANCHORS = pa.schema([("part", pa.int32()), ("anchor", pa.int64()), ("n", pa.int64())])
CONTEXTS = pa.schema(
    [
        ("part", pa.int32()),
        ("row", pa.int64()),
        ("doc_id", pa.string()),
        ("length", pa.int32()),  # characters of the document
        ("anchor", pa.int64()),
        ("first", pa.int32()),  # character where the first window begins
        ("windows", pa.int32()),
        ("text", pa.binary()),
    ]
)
"""The text around an anchor that occurs more than once (`curation.dedup.substring`)."""

CUTS = pa.schema(
    [
        ("part", pa.int32()),
        ("row", pa.int64()),
        ("start", pa.int32()),
        ("stop", pa.int32()),
        ("source", pa.string()),
    ]
)
"""Characters `start` to `stop` of a document are a copy of what stands in the document `source`."""


@dataclass(frozen=True)
class DedupConfig:
    """Settings of `curation.dedup.steps.dedup`; the defaults are the recipe's.

    With `edit_share` the near-duplicates wanted are copies with that share of their words edited: bands, rows, ngram and
    threshold follow from it (`minhash.at_edit_share`), whatever is given for them. Raises ValueError when bands x rows exceed
    num_perm, or the substring threshold is under 20 characters.
    """

    edit_share: float | None = None
    num_perm: int = 256
    bands: int = 25
    rows: int = 10
    ngram: int = 5
    seed: int = 42
    threshold: float = 0.7  # Jaccard similarity below which a candidate pair is no pair
    verify: Literal["none", "signatures", "text"] = "signatures"  # how a candidate pair is checked against it
    line_max_count: int = 5  # a line seen more often than this in a bucket is dropped
    line_min_chars: int = 20  # shorter lines are never dropped
    line_bucket_documents: int = 10_000_000
    substring_min_chars: int = 0  # repeats of this many characters are cut but for one; 0 = off
    min_words_left: int = 10  # a document that lost lines or repeats and has fewer words left is dropped
    indexes: tuple[str, ...] = ()  # those of earlier runs: documents they have are dropped here
    max_driver_edges: int = 20_000_000  # above it, components are found by the engine, not in the driver
    partition_bytes: int = 64_000_000  # of rows that one worker holds at a time

    def __post_init__(self):
        object.__setattr__(self, "indexes", tuple(self.indexes))
        if self.edit_share is not None:
            threshold, bands, rows = at_edit_share(self.edit_share, self.num_perm)
            for name, value in {"threshold": threshold, "bands": bands, "rows": rows, "ngram": 0}.items():
                object.__setattr__(self, name, value)
        _ = self.minhash
        if 0 < self.substring_min_chars < 20:
            raise ValueError("substring_min_chars must be 0 (off) or at least 20")
        if self.verify not in ("none", "signatures", "text"):
            raise ValueError(f"unknown verify {self.verify!r}: use none, signatures or text")

    @property
    def minhash(self) -> MinHash:
        return MinHash(self.num_perm, self.bands, self.rows, self.ngram, self.seed)


def schema_with_p(schema: pa.Schema) -> pa.Schema:
    """The schema with the column `p`: the partition where rows go."""
    return pa.schema([pa.field("p", pa.int32()), *schema])


def with_p(rows: pa.RecordBatch, p: pa.Array) -> pa.RecordBatch:
    """The batch with the column `p`."""
    return pa.record_batch([p.cast(pa.int32()), *rows.columns], schema=schema_with_p(rows.schema))
