"""Connected components of a graph of near-duplicates: each node is labelled with the smallest id of its component.

Two ways with equal results: union-find on int64 arrays in one process, and alternating large-star/small-star in Spark
(Kiveris et al. 2014, "Connected Components in MapReduce and Beyond") when the edges do not fit one process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def connected_components(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Components of the undirected edges (a[i], b[i]), int64 [E] each, any ids.

    Returns (ids, labels): the distinct ids in rising order and the smallest id of the component of each.
    Cost: a sort of 2 E ids, then near-linear union-find.
    """
    ids, dense = np.unique(np.concatenate([a, b]).astype(np.int64, copy=False), return_inverse=True)
    return ids, ids[_union_find(dense[: len(a)], dense[len(a) :], len(ids))]


@numba.njit(cache=True)
def _union_find(a, b, n):
    """Root of each of n nodes; at every moment a root is the smallest node of its tree."""
    parent = np.arange(n)
    for e in range(len(a)):
        x, y = a[e], b[e]
        while parent[x] != x:  # path halving
            parent[x] = parent[parent[x]]
            x = parent[x]
        while parent[y] != y:
            parent[y] = parent[parent[y]]
            y = parent[y]
        if x < y:
            parent[y] = x
        elif y < x:
            parent[x] = y
    for x in range(n):  # a parent is smaller than its child and already points to its root
        parent[x] = parent[parent[x]]
    return parent


def star_components(edges: DataFrame) -> DataFrame:
    """Components in Spark: from edges (a, b) to (id, label), both long, of every node whose label is not itself.

    Large-star ties each larger neighbour of a node to the smallest of its neighbourhood; small-star ties the smaller
    ones and the node itself to it. Both keep the components; alternated, they end in stars around the smallest id after
    O(log^2 n) rounds. A node's neighbours are never gathered in memory: both are a window minimum, which Spark spills.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    centre = Window.partitionBy("u")

    def large_star(stars: DataFrame) -> DataFrame:
        both = stars.select(F.col("a").alias("u"), F.col("b").alias("v"))
        both = both.union(both.select(F.col("v").alias("u"), F.col("u").alias("v")))
        least = both.withColumn("m", F.least("u", F.min("v").over(centre)))
        return least.filter("v > u").select(F.col("m").alias("a"), F.col("v").alias("b")).distinct()

    def small_star(stars: DataFrame) -> DataFrame:
        down = stars.select(F.col("b").alias("u"), F.col("a").alias("v"))  # every edge points to its smaller end
        least = down.withColumn("m", F.min("v").over(centre))
        ties = least.select(F.col("m").alias("a"), F.col("v").alias("b")).union(least.select("m", "u"))
        return ties.filter("a < b").distinct()

    def state(stars: DataFrame) -> tuple:
        digest = F.sum(F.xxhash64("a", "b").cast("decimal(38,0)"))
        return tuple(stars.agg(F.count("*"), digest).first())

    stars = edges.select(F.least("a", "b").alias("a"), F.greatest("a", "b").alias("b")).filter("a < b").distinct()
    stars = stars.localCheckpoint()
    before = state(stars)
    while True:
        stars = small_star(large_star(stars)).localCheckpoint()
        after = state(stars)
        if after == before:
            return stars.select(F.col("b").alias("id"), F.col("a").alias("label"))
        before = after
