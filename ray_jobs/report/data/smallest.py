"""Documents of smallest hash: a sample that is the same however a run is divided into parts.

The k smallest of a whole are the k smallest of what each part gives as its k smallest (a bottom-k sketch, Cohen and Kaplan
2007). The hash is of a seed and the document's id alone, so what survives a stage stays in the sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from cluster import storage
from ray_jobs.run.graph import DECONTAMINATE, DEDUP, EXTRACT, LANGUAGE, POLICY, SIGNALS

SOURCE = {LANGUAGE: EXTRACT, POLICY: SIGNALS, DEDUP: POLICY, DECONTAMINATE: DEDUP}
"""Layer -> the stage whose parts it judged: there lies the text of what it dropped."""

Group = tuple[str, str]
"""(language, stratum); the stratum of what is kept is empty."""


@dataclass
class Smallest:
    """Of each group the documents of smallest hash, each once, and how many documents there are."""

    most: int
    found: dict[Group, tuple[np.ndarray, list[tuple[str, str]]]] = field(default_factory=dict)
    """group -> hashes, uint64 ascending, and (doc_id, part) of each."""
    counts: Counter[Group] = field(default_factory=Counter)

    def add(self, group: Group, hashes: np.ndarray, documents: Sequence[tuple[str, str]], count: int) -> None:
        """Take in documents of a group; `count` is how many they stand for."""
        old_hashes, old_documents = self.found.get(group, (np.zeros(0, np.uint64), []))
        every = [*old_documents, *documents]
        hashes, first = np.unique(np.concatenate([old_hashes, hashes]), return_index=True)
        self.found[group] = hashes[: self.most], [every[i] for i in first[: self.most]]
        self.counts[group] += count

    def merge(self, other: Smallest) -> None:
        for group, (hashes, documents) in other.found.items():
            self.add(group, hashes, documents, other.counts[group])


def hashes(doc_ids: Iterable[str], seed: int) -> np.ndarray:
    """xxh3-64 of each id under `seed`, uint64."""
    one, seed = xxhash.xxh3_64_intdigest, seed & (1 << 64) - 1
    return np.fromiter((one(doc_id.encode(), seed) for doc_id in doc_ids), np.uint64)


def merged(parts: Iterable[Smallest], most: int) -> Smallest:
    total = Smallest(most)
    for part in parts:
        total.merge(part)
    return total


def shares(sizes: Mapping[str, int], most: int) -> dict[str, int]:
    """How many of each stratum are drawn: as equally as their sizes allow, `most` in all; the first names get what is over.

    >>> shares({"a": 1000, "b": 3, "c": 1000}, 10)
    {'b': 3, 'a': 4, 'c': 3}
    """
    result: dict[str, int] = {}
    for name in sorted(sizes, key=lambda one: (sizes[one], one)):
        left = most - sum(result.values())
        result[name] = min(sizes[name], -(-left // (len(sizes) - len(result))))
    return result


def texts_of(uri: str, doc_ids: set[str]) -> dict[str, tuple[str, str]]:
    """doc_id -> (text, url) of some documents of the part at `uri`; only the row groups that hold them are read."""
    wanted = pa.array(sorted(doc_ids), pa.string())
    found: dict[str, tuple[str, str]] = {}
    with storage.open_parquet(uri) as parquet:
        for group in range(parquet.num_row_groups):
            if not pc.any(pc.is_in(parquet.read_row_group(group, ["doc_id"])["doc_id"], wanted)).as_py():
                continue
            table = parquet.read_row_group(group, ["doc_id", "url", "text"])
            for row in table.filter(pc.is_in(table["doc_id"], wanted)).to_pylist():
                found.setdefault(row["doc_id"], (row["text"] or "", row["url"] or ""))
    return found
