"""Gradient-boosted oblivious trees for yes or no: the trees of Friedman (2001), each with one question a level (CatBoost's,
Prokhorenkova et al. 2018), so that a tree is a table of 2^depth values and an answer is its bits.

    z(x) = sum of v_t[bits of x],   P(yes | x) = 1 / (1 + exp(-z))
    leaf values: rate * sum(w (y - p)) / (sum(w p (1 - p)) + ridge), the Newton step of the weighted log loss

A model is one float32 array [trees, 2 depth + 2^depth]: of each tree the columns it asks for, the thresholds that they must
exceed, and its values; the bias is in the first tree's.
"""

from __future__ import annotations

import numba
import numpy as np

BINS = 48


def fit(  # noqa: PLR0917
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, trees: int = 200, depth: int = 6, rate: float = 0.1, seed: int = 0
) -> np.ndarray:
    """The model of rows x float32 [rows, columns], y 0 or 1 and their weights. Each tree sees 40 % of the rows and 30 %
    of the columns. Equal input gives an equal model. 0.1 s a tree for 140,000 rows and 180 columns on one core."""
    ridge, row_share, column_share = 20.0, 0.4, 0.3
    random = np.random.default_rng(seed)
    edges = [_edges(x[::7, column]) for column in range(x.shape[1])]
    binned = np.zeros(x.shape, np.uint8, order="F")
    for column, edge in enumerate(edges):
        binned[:, column] = np.searchsorted(edge, x[:, column], side="left")
    weight = weight / weight.mean()
    share = float((weight * y).sum() / weight.sum())
    bias = np.log(share / (1 - share))
    z = np.full(len(y), bias)
    model = np.zeros((trees, 2 * depth + (1 << depth)), np.float32)
    for number in range(trees):
        p = 1 / (1 + np.exp(-z))
        gradient, curvature = weight * (y - p), weight * p * (1 - p)
        rows = np.flatnonzero(random.random(len(y)) < row_share)
        columns = np.sort(random.permutation(x.shape[1])[: max(1, int(column_share * x.shape[1]))])
        few = np.asfortranarray(binned[np.ix_(rows, columns)])
        sums = np.stack([gradient[rows], curvature[rows]], 1).astype(np.float32)
        leaf, leaf_of_all = np.zeros(len(rows), np.int32), np.zeros(len(y), np.int32)
        for level in range(depth):
            found, cut = _best_split(few, leaf, sums, 1 << level, ridge)
            edge = edges[columns[found]]
            model[number, level] = columns[found]
            model[number, depth + level] = edge[cut] if cut < len(edge) else np.inf
            leaf = 2 * leaf + (few[:, found] > cut)
            leaf_of_all = 2 * leaf_of_all + (binned[:, columns[found]] > cut)
        of_leaves = [np.bincount(leaf, sums[:, side], 1 << depth) for side in (0, 1)]
        values = rate * of_leaves[0] / (of_leaves[1] + ridge)
        z += values[leaf_of_all]
        model[number, 2 * depth :] = values
    model[0, 2 * depth :] += bias
    return model


def predict(model: np.ndarray, x: np.ndarray) -> np.ndarray:
    """P(yes) of each row of x float32 [rows, columns], float32."""
    return _predict(model, _depth(model.shape[1]), np.ascontiguousarray(x.T))


def _depth(width: int) -> int:
    return next(depth for depth in range(1, 16) if 2 * depth + (1 << depth) == width)


def _edges(values: np.ndarray) -> np.ndarray:
    distinct = np.unique(values)
    if len(distinct) > BINS:
        distinct = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:]))
    return ((distinct[1:] + distinct[:-1]) / 2).astype(np.float32)[: BINS - 1]


@numba.njit(cache=True)
def _best_split(binned, leaf, sums, n_leaves, ridge):
    """(column, bin) of the question that lowers the loss most when all leaves ask it. sums: gradient and curvature."""
    best, best_column, best_bin = -1.0, 0, 0
    found = np.zeros((n_leaves, BINS, 2))
    gain = np.zeros(BINS)
    for column in range(binned.shape[1]):
        found[:] = 0.0
        gain[:] = 0.0
        for row in range(len(leaf)):
            cell = found[leaf[row], binned[row, column]]
            cell[0] += sums[row, 0]
            cell[1] += sums[row, 1]
        for k in range(n_leaves):
            g_all, h_all = found[k, :, 0].sum(), found[k, :, 1].sum()
            g_left = h_left = 0.0
            for b in range(BINS - 1):
                g_left += found[k, b, 0]
                h_left += found[k, b, 1]
                g_right, h_right = g_all - g_left, h_all - h_left
                gain[b] += g_left**2 / (h_left + ridge) + g_right**2 / (h_right + ridge) - g_all**2 / (h_all + ridge)
        for b in range(BINS - 1):
            if gain[b] > best:
                best, best_column, best_bin = gain[b], column, b
    return best_column, best_bin


@numba.njit(cache=True)
def _predict(model, depth, x):
    """`x` has its columns as rows here, so that a compiler takes many lines at once."""
    n = x.shape[1]
    z = np.zeros(n, np.float32)
    leaf = np.zeros(n, np.int32)
    for number in range(len(model)):
        tree = model[number]
        leaf[:] = 0
        for level in range(depth):
            column, threshold = x[int(tree[level])], tree[depth + level]
            for row in range(n):
                leaf[row] = 2 * leaf[row] + (column[row] > threshold)
        for row in range(n):
            z[row] += tree[2 * depth + leaf[row]]
    return (1 / (1 + np.exp(-z))).astype(np.float32)
