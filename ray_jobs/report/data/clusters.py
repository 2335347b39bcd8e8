"""Clusters of duplicates, from the ledger of dedup: a row names the document that stays, so those that name the same are one.

Of documents of one URL the longest stays, and may then go as a near-duplicate of another; so a chain is followed to its end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from ray_jobs.report.data import parts, provenance, shown
from ray_jobs.report.data.smallest import hashes, texts_of
from ray_jobs.run import adopted
from ray_jobs.run.graph import DEDUP, POLICY

LARGEST = 10
BANDS = ((2, 2), (3, 3), (4, 5), (6, 10), (11, 100), (101, 1000), (1001, None))
"""Sizes from, to; a cluster has one document that stays and those that went for it."""
COLUMNS = ("doc_id", "url", "lang", "rule", "detail")


class Cluster(NamedTuple):
    kept: str  # the id of the document that stays; with its snapshot if that is an earlier one
    size: int
    rules: list[tuple[str, int]]
    languages: list[str]
    sites: list[tuple[str, int]]  # of those that went, the most frequent first
    more_sites: int
    sample: shown.Shown | None  # one of those that went


class Clusters(NamedTuple):
    clusters: int
    documents: int  # that went
    bands: list[tuple[str, int, int]]  # sizes in words, clusters, documents that went
    largest: list[Cluster]
    rows: int  # of the ledger that name one that stays
    read: int  # parts
    of: int


def section(uri: str, seed: int) -> Clusters | None:
    """None where nothing went as a duplicate of another."""
    looked = parts.looked_at(adopted.ledger(uri, DEDUP))
    every = _rows(uri, looked)
    if not every.num_rows:
        return None
    kept = _ends(every)
    sizes = Counter(kept)
    bands = []
    for low, high in BANDS:
        inside = [n for n in sizes.values() if low <= n + 1 and (high is None or n + 1 <= high)]
        if inside:
            words = f"over {low - 1:,}" if high is None else f"{low:,}" if low == high else f"{low:,} to {high:,}"
            bands.append((words, len(inside), sum(inside)))
    first = sorted(sizes, key=lambda name: (-sizes[name], name))[:LARGEST]
    members: dict[str, list[dict]] = defaultdict(list)
    chosen = every.append_column("kept", pa.array(kept, pa.string()))
    for row in chosen.filter(pc.is_in(chosen["kept"], pa.array(first, pa.string()))).to_pylist():
        members[row["kept"]].append(row)
    largest = [_cluster(uri, name, members[name], seed) for name in first]
    return Clusters(len(sizes), sizes.total(), bands, largest, every.num_rows, len(looked.names), looked.of)


def _rows(uri: str, looked: parts.Looked) -> pa.Table:
    """Rows of the ledger that name a document that stays, once for each document, with the part that they are of."""
    schema = pa.schema([(name, pa.string()) for name in (*COLUMNS, "part")])
    found = []
    for name, table in parts.tables(adopted.ledger(uri, DEDUP), looked.names, COLUMNS):
        table = table.filter(pc.and_(pc.is_valid(table["detail"]), pc.is_valid(table["doc_id"])))
        table = table.filter(pc.match_substring(table["rule"], "duplicate"))
        found.append(table.append_column("part", pa.array([name] * table.num_rows, pa.string())).cast(schema))
    return pa.concat_tables([schema.empty_table(), *found])


def _ends(every: pa.Table) -> list[str]:
    """Of each row the document that stays in the end."""
    chained = every.filter(pc.is_in(every["doc_id"], every["detail"].unique()))
    onward = dict(zip(chained["doc_id"].to_pylist(), chained["detail"].to_pylist(), strict=True))

    def end(name: str) -> str:
        seen = {name}
        while name in onward and onward[name] not in seen:
            name = onward[name]
            seen.add(name)
        return name

    return [end(name) for name in every["detail"].to_pylist()]


def _cluster(uri: str, kept: str, rows: list[dict], seed: int) -> Cluster:
    sites = Counter(site for site in provenance.hosts(pa.array([row["url"] for row in rows], pa.string())).to_pylist())
    nearest = min(zip(hashes((row["doc_id"] for row in rows), seed).tolist(), range(len(rows)), strict=True))[1]
    one = rows[nearest]
    part = adopted.path(uri, POLICY, one["part"])
    texts = texts_of(part, {one["doc_id"]}) if storage.exists(part) else {}
    sample = shown.of([(one["lang"], *texts[one["doc_id"]])])[0] if one["doc_id"] in texts else None
    ordered = sorted(sites.items(), key=lambda item: (-item[1], item[0]))
    return Cluster(
        kept,
        len(rows) + 1,
        sorted(Counter(row["rule"] for row in rows).items()),
        sorted({row["lang"] or "?" for row in rows}),
        ordered[:3],
        max(0, len(ordered) - 3),
        sample,
    )
