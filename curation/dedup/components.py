"""Connected components of a graph of near-duplicates: each node is labelled with the smallest id of its component.

Two ways with equal results: union-find on int64 arrays in one process, and alternating large-star/small-star (Kiveris et
al. 2014, "Connected Components in MapReduce and Beyond") on an engine when the edges do not fit one process.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pyarrow as pa

from cluster.engines.exchange import Engine, Input, place
from curation.text.units import PRIME

EDGES = pa.schema([("a", pa.int64()), ("b", pa.int64())])
BUCKET_BITS = 7  # tables of so many buckets of ids stay in the cache of a core
TOP, MIDDLE = np.uint64(64 - BUCKET_BITS), np.uint64(20)  # bits of the hash that say the bucket, and the slot
DENSE = 8  # ids in a range of so many times the number of edges are their own index


def connected_components(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Components of the undirected edges (a[i], b[i]), int64 [E] each, any ids.

    Returns (ids, labels): the distinct ids, in no particular order, and the smallest id of the component of each.
    Cost: linear to number the ids (by hash, or as they are when they lie close), then near-linear union-find.
    """
    a, b = (np.ascontiguousarray(x, np.int64) for x in (a, b))
    if not len(a):
        return a, b
    low = min(int(a.min()), int(b.min()))
    span = max(int(a.max()), int(b.max())) - low + 1
    number = np.int32 if max(2 * len(a), min(span, DENSE * len(a))) < 2**31 else np.int64
    if span <= DENSE * len(a):
        parent = np.full(span, -1, number)
        n = _present(a, b, low, parent)
        return _numbered(_union_find(a, b, low, parent), low, n)
    ends = np.concatenate([a, b])
    dense, ids = np.empty(len(ends), number), np.empty(len(ends), np.int64)
    ids = ids[: _number(ends, dense, ids)]
    parent = _union_find(dense[: len(a)], dense[len(a) :], 0, np.arange(len(ids), dtype=number))
    return ids, _least(parent, ids)


def star_pairs(keys: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every key (int64 [N]) its smallest id with each of its other ids: (a, b), a < b, int64 [M] each, M < N.

    A key of k documents gives k - 1 pairs, so one that a million share costs no more than a million that two share.
    """
    keys, ids = (np.ascontiguousarray(x, np.int64) for x in (keys, ids))
    number = np.int32 if len(keys) < 2**31 else np.int64
    dense, known = np.empty(len(keys), number), np.empty(len(keys), np.int64)
    n = _number(keys, dense, known)
    return _stars(dense, ids, n)


@numba.njit
def _hash(one):
    one = np.uint64(one)
    return (one ^ (one >> np.uint64(32))) * PRIME


@numba.njit(cache=True)
def _number(ids, dense, known):
    """Number the distinct ids: dense[i] is the number of ids[i], known[number] the id. Returns how many there are.

    Ids are split by a hash first, so that the table of one bucket is small.
    """
    n = len(ids)
    buckets = 1 << BUCKET_BITS
    starts = np.zeros(buckets + 1, np.int64)
    for i in range(n):
        starts[(_hash(ids[i]) >> TOP) + np.uint64(1)] += 1
    most = starts.max()
    for p in range(buckets):
        starts[p + 1] += starts[p]
    fill = starts.copy()
    split, origin = np.empty(n, np.int64), np.empty(n, dense.dtype)
    for i in range(n):
        p = _hash(ids[i]) >> TOP
        split[fill[p]], origin[fill[p]] = ids[i], i
        fill[p] += 1
    size = 16
    while size < 2 * most:
        size *= 2
    slot_id, slot_number = np.empty(size, np.int64), np.empty(size, dense.dtype)
    count = 0
    for p in range(buckets):
        size = 16
        while size < 2 * (starts[p + 1] - starts[p]):
            size *= 2
        slot_number[:size] = -1
        mask = np.uint64(size - 1)
        for i in range(starts[p], starts[p + 1]):
            slot = (_hash(split[i]) >> MIDDLE) & mask
            while slot_number[slot] >= 0 and slot_id[slot] != split[i]:
                slot = (slot + np.uint64(1)) & mask
            if slot_number[slot] < 0:
                slot_number[slot], slot_id[slot], known[count] = count, split[i], split[i]
                count += 1
            dense[origin[i]] = slot_number[slot]
    return count


@numba.njit(cache=True)
def _union_find(a, b, low, parent):
    """Root of each node of `parent` (0, 1, ...), which are ids less `low`; a root is always the smallest of its tree.

    Rem's algorithm with splicing (Patwary, Blair, Manne 2010).
    """
    for e in range(len(a)):
        x, y = a[e] - low, b[e] - low
        up, vp = parent[x], parent[y]
        while up != vp:
            if up > vp:
                parent[x] = vp
                if up == x:
                    break
                x = up
                up = parent[x]
            else:
                parent[y] = up
                if vp == y:
                    break
                y = vp
                vp = parent[y]
    for x in range(len(parent)):  # a parent is smaller than its child and already points to its root
        if parent[x] >= 0:
            parent[x] = parent[parent[x]]
    return parent


@numba.njit(cache=True)
def _present(a, b, low, parent):
    """Make each id its own parent; returns how many there are."""
    n = 0
    for ends in (a, b):
        for one in ends:
            n += parent[one - low] < 0
            parent[one - low] = one - low
    return n


@numba.njit(cache=True)
def _numbered(parent, low, n):
    """The `n` ids that have a parent, and their roots."""
    ids, labels = np.empty(n, np.int64), np.empty(n, np.int64)
    found = 0
    for x in range(len(parent)):
        if parent[x] >= 0:
            ids[found], labels[found] = x + low, parent[x] + low
            found += 1
    return ids, labels


@numba.njit(cache=True)
def _least(parent, ids):
    """The smallest id of the component of each node."""
    low = ids.copy()
    for x in range(len(ids)):
        low[parent[x]] = min(low[parent[x]], ids[x])
    labels = np.empty(len(ids), np.int64)
    for x in range(len(ids)):
        labels[x] = low[parent[x]]
    return labels


@numba.njit(cache=True)
def _stars(dense, ids, n):
    least = np.full(n, np.iinfo(np.int64).max)
    for i in range(len(ids)):
        least[dense[i]] = min(least[dense[i]], ids[i])
    a, b = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
    found = 0
    for i in range(len(ids)):
        if ids[i] != least[dense[i]]:
            a[found], b[found] = least[dense[i]], ids[i]
            found += 1
    return a[:found], b[:found]


def star_components(engine: Engine, edges: Any, n: int) -> Any:
    """Components on an engine: from rows (a, b) to rows (a, b) where a is the smallest id of the component of b, a < b.

    Large-star ties each larger neighbour of a node to the smallest of its neighbourhood; small-star ties the smaller
    ones and the node itself to it. Both keep the components; alternated, they end in stars around the smallest id after
    O(log^2 n) rounds. `n` partitions.
    """

    def neighbours(batch: pa.RecordBatch) -> pa.RecordBatch:
        a, b = batch["a"].to_numpy(), batch["b"].to_numpy()
        return _ends(np.concatenate([a, b]), np.concatenate([b, a]), n)

    def smaller(batch: pa.RecordBatch) -> pa.RecordBatch:
        return _ends(batch["b"].to_numpy(), batch["a"].to_numpy(), n)

    def large_star(_: int, rows: pa.Table) -> pa.Table:
        u, v, least = _least_neighbour(rows)
        least = np.minimum(least, u)
        return _edges(least[v > u], v[v > u])

    def small_star(_: int, rows: pa.Table) -> pa.Table:
        u, v, least = _least_neighbour(rows)
        return _edges(np.concatenate([least, least]), np.concatenate([v, u]))

    before = None
    stars = edges
    while before != (before := _digest(engine, stars)):
        wide = engine.by_key([Input(stars, neighbours, ENDS)], large_star, EDGES, n)
        if stars is not edges:
            engine.release(stars)
        stars = engine.by_key([Input(wide, smaller, ENDS)], small_star, EDGES, n)
        engine.count(stars)  # computed now, before what it is made of goes
        engine.release(wide)
    return stars


ENDS = pa.schema([("p", pa.int32()), ("u", pa.int64()), ("v", pa.int64())])


def _ends(u: np.ndarray, v: np.ndarray, n: int) -> pa.RecordBatch:
    return pa.record_batch([place(u, n), pa.array(u), pa.array(v)], schema=ENDS)


def _least_neighbour(rows: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted (u, v) and the smallest v of each u."""
    u, v = rows["u"].to_numpy(), rows["v"].to_numpy()
    order = np.lexsort((v, u))
    u, v = u[order], v[order]
    return u, v, v[np.searchsorted(u, u)]


def _edges(a: np.ndarray, b: np.ndarray) -> pa.Table:
    """Each edge a < b once."""
    a, b = a[a < b], b[a < b]
    order = np.lexsort((b, a))
    a, b = a[order], b[order]
    new = np.concatenate([[True], (a[1:] != a[:-1]) | (b[1:] != b[:-1])])[: len(a)]
    return pa.table([a[new], b[new]], schema=EDGES)


def _digest(engine: Engine, edges: Any) -> tuple[int, int]:
    """The number of edges and a sum of their hashes: equal when the edges are."""
    schema = pa.schema([("p", pa.int32()), ("n", pa.int64()), ("digest", pa.int64())])

    def of_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
        a, b = (batch[name].to_numpy().view(np.uint64) for name in ("a", "b"))
        mixed = (a * np.uint64(0x9E3779B97F4A7C15) ^ (b >> np.uint64(7))) * (b | np.uint64(1))
        digest = mixed.sum(dtype=np.uint64).view(np.int64) if len(a) else np.int64(0)
        return pa.record_batch([pa.array([0], pa.int32()), pa.array([len(a)]), pa.array([digest])], schema=schema)

    def added(_: int, rows: pa.Table) -> pa.Table:
        digest = rows["digest"].to_numpy().view(np.uint64).sum(dtype=np.uint64).view(np.int64)
        return pa.table([[0], [rows["n"].to_numpy().sum()], [digest]], schema=schema)

    data = engine.by_key([Input(edges, of_batch, schema)], added, schema, 1)
    summed = engine.table(data, schema)
    engine.release(data)
    return (summed["n"][0].as_py(), summed["digest"][0].as_py()) if summed.num_rows else (0, 0)
