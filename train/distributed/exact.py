"""Gradients whose bits do not depend on the number of ranks: an update's sum over rows is taken in a fixed tree.

The rows of an update are cut into leaves of consecutive rows, as many as the update has micro-batches, but 8 at least and 64
at most. A leaf is computed by one rank: the same shapes, seed and threads, so the same bits on any. The tree is

    sum(i .. j) = sum(i .. m) + sum(m .. j)        m - i the largest power of two below j - i

and depends on the number of leaves alone. Rank r has the r-th of W contiguous blocks of leaves. It adds up whatever subtrees
lie in its block as soon as both halves are there, so it keeps one buffer for each level that is open: log2 of its leaves at
most. What is left are O(log) subtrees a rank. Their slices are exchanged (all-to-all), each rank adds up its slice of all in
the order of the tree, and the slices are gathered: with one subtree a rank, the traffic of a ring all-reduce.

Sums in integers, in fp64 or with error terms need no order, but twice the bytes, and a scale that is known before or no
certainty (docs/decisions.md 128).

Axes: W ranks, F subtrees of all ranks, M those of this rank, S elements of a slice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

LEAST, MOST = 8, 64
"""Leaves of an update: enough to share among ranks, and no more additions and open levels than that takes."""

SLICE = 1 << 20
"""Elements of a slice, at most: what is exchanged at a time."""

Node = tuple[int, int]
"""The leaves from the first number up to the second, which is not in it."""


def leaves(rows: int, micro_rows: int) -> list[range]:
    """The rows of each leaf of an update, counted from its first row."""
    n = min(rows, max(LEAST, min(MOST, -(-rows // micro_rows))))
    return [range(i * rows // n, (i + 1) * rows // n) for i in range(n)]


def block(leaves: int, rank: int, world: int) -> range:
    """The leaves of `rank`; none where there are more ranks than leaves, but always one of rank 0."""
    return range(-(-rank * leaves // world), -(-(rank + 1) * leaves // world))


def halves(node: Node) -> tuple[Node, Node]:
    """The two nodes whose sum a node of more than one leaf is."""
    first, stop = node
    middle = first + (1 << (stop - first - 1).bit_length() - 1)
    return (first, middle), (middle, stop)


def subtrees(node: Node, inside: range) -> list[Node]:
    """The largest nodes below `node` that lie in a block of leaves, in order."""
    first, stop = node
    if inside.start <= first and stop <= inside.stop:
        return [node]
    if stop <= inside.start or inside.stop <= first:
        return []
    return [found for half in halves(node) for found in subtrees(half, inside)]


def micro_batches(rows_per_step: int, micro_rows: int, rank: int, world: int) -> list[tuple[int, range]]:
    """(leaf, its rows or, where these are more than `micro_rows`, some of them) of each micro-batch of `rank`."""
    cut = leaves(rows_per_step, micro_rows)
    return [
        (leaf, cut[leaf][i : i + micro_rows])
        for leaf in block(len(cut), rank, world)
        for i in range(0, len(cut[leaf]), micro_rows)
    ]


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Compute with so many threads (None: as before): a matrix product's bits may depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Sum:
    """The sum of one flat buffer over the leaves of an update, on one of `world` ranks.

    In each update: `added` after every micro-batch, in the order of `micro_batches`, then `total`. `most_open` buffers as large
    as the gradients are kept."""

    def __init__(self, rows_per_step: int, micro_rows: int, rank: int, world: int) -> None:
        n = len(leaves(rows_per_step, micro_rows))
        blocks = [block(n, r, world) for r in range(world)]
        self._whole: Node = (0, n)
        self._subtrees = [subtrees(self._whole, of_rank) for of_rank in blocks]
        self._leaves = [leaf for leaf, _ in micro_batches(rows_per_step, micro_rows, rank, world)]
        ends = Counter(end for node in self._subtrees[rank] for end in _ends(node))
        self._additions = {leaf: ends[leaf + 1] for leaf in blocks[rank]}
        # before its last leaf a rank has put aside all that it has added up
        self.most_open = max(accumulate((1 - self._additions[leaf] for leaf in blocks[rank][:-1]), initial=0))
        self._open: list[Tensor] = []  # sums that wait for their right half
        self._free: list[Tensor] = []

    def added(self, micro_batch: int, flat: Tensor) -> None:
        """Take notice that the gradients of the rank's `micro_batch`-th are in `flat`, which is made ready for the next."""
        leaf, last = self._leaves[micro_batch], micro_batch == len(self._leaves) - 1
        if not last and self._leaves[micro_batch + 1] == leaf:
            return
        if last:  # what is complete comes to the gradients, where the optimiser looks for it
            for _ in range(self._additions[leaf]):
                flat.add_(self._release())
            return
        if not self._additions[leaf]:
            self._open.append(self._free.pop() if self._free else torch.empty_like(flat))
            self._open[-1].copy_(flat)
        else:
            self._open[-1].add_(flat)
            for _ in range(self._additions[leaf] - 1):
                right = self._release()
                self._open[-1].add_(right)
        flat.zero_()

    def total(self, flat: Tensor) -> None:
        """Put the sum over all leaves of all ranks into `flat`."""
        if len(self._subtrees) > 1:
            self._exchange(flat, [*self._open, flat] if self._leaves else [])
        while self._open:
            self._release()

    def _release(self) -> Tensor:
        """The newest open sum, whose buffer may be used again as soon as it is read."""
        self._free.append(self._open.pop())
        return self._free[-1]

    def _exchange(self, flat: Tensor, mine: list[Tensor]) -> None:
        world, n, counts = len(self._subtrees), flat.numel(), [len(nodes) for nodes in self._subtrees]
        nodes = [node for of_rank in self._subtrees for node in of_rank]
        size = min(SLICE, -(-n // world))
        send_WMS = flat.new_zeros(world, len(mine), size)
        all_FS, sums_WS = flat.new_empty(len(nodes), size), flat.new_empty(world, size)
        for start in range(0, n, world * size):
            for m, subtree in enumerate(mine):
                for rank, part in enumerate(subtree[start : start + world * size].split(size)):
                    send_WMS[rank, m, : len(part)] = part
            dist.all_to_all_single(all_FS, send_WMS.flatten(0, 1), counts, [len(mine)] * world)
            sum_S = _sum(self._whole, dict(zip(nodes, all_FS.unbind(), strict=True)))
            dist.all_gather(list(sums_WS.unbind()), sum_S)
            flat[start : start + world * size] = sums_WS.flatten()[: n - start]


def _ends(node: Node) -> Iterator[int]:
    """Where each sum below `node`, itself included, ends."""
    if node[1] - node[0] > 1:
        yield node[1]
        for half in halves(node):
            yield from _ends(half)


def _sum(node: Node, known: dict[Node, Tensor]) -> Tensor:
    """The sum of `node` from those of nodes below it, in place."""
    if node in known:
        return known[node]
    left, right = halves(node)
    return _sum(left, known).add_(_sum(right, known))
