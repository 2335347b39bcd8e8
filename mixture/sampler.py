"""Which tokens make row i: `Sampler.sample(i)`, a pure function of (seed, schedule, i) that knows nothing of ranks.

Rows are counted through the run, whatever the number of workers: the only state of a training run is how many rows it
has read. How row i finds its tokens:

1. The last schedule entry with from_sample <= i gives the weights.
2. Rows go in blocks of 256. How many rows of each pool a block has follows from exact integer counts: after any number
   of blocks a pool is off its weight by at most half a row per pool there is. The order in the block is a permutation.
3. The number of rows that a pool has given before row i, its rank, says epoch (rank // windows) and window (the epoch's
   own permutation of rank % windows): each window once per epoch, also across changes of weights.
4. A window is `context` + 1 neighbouring tokens of the store; documents may straddle windows (concatenate and cut,
   Sailor2 section 4.3). Each epoch cuts at another offset, so that the tokens left over at the ends differ.

Changes of weights while a run goes on are kept in an append-only ledger (`append_change`, `read_schedule`): a row
before the change has the same tokens with or without it.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from cluster import storage
from mixture.permute import derive, permute
from mixture.store import TokenStore

BLOCK = 256  # rows
WEIGHT_UNIT = 1 << 40  # weights are counted in these, as exact integers
IGNORE = -100


class Sample(NamedTuple):
    """`tokens` [context + 1] in the store's dtype; `doc_index` int32 [context + 1], the row of each token in the pool's
    documents.parquet (a pool shorter than a row is repeated, and its n documents count on from n); `pool`, its name."""

    tokens: np.ndarray
    doc_index: np.ndarray
    pool: str


class Address(NamedTuple):
    """Where a row comes from: token `start` of `pool`, in pass number `epoch` over it."""

    pool: str
    epoch: int
    start: int


class Sampler:
    """Rows of `context` + 1 tokens from `pools` by a schedule of weights.

    `pools`: name -> TokenStore. `schedule`: [{"from_sample": first row, "weights": {pool: weight}}, ...], from_sample
    rising from 0; weights need not sum to 1, pools left out have weight 0. Raises ValueError for a schedule that does
    not fit the pools.
    """

    def __init__(self, pools: dict[str, TokenStore], schedule: list[dict], context: int, seed: int) -> None:
        if context < 1:
            raise ValueError(f"context must be at least 1 token, not {context}")
        check_schedule(schedule)
        self.names = sorted(pools)
        self.pools = [pools[name] for name in self.names]
        self.context = context
        self.seed = seed
        self.starts = [entry["from_sample"] for entry in schedule]
        self.units = [self._units(entry["weights"]) for entry in schedule]
        self.windows = [max(1, (store.n_tokens - 1) // context) for store in self.pools]
        self._blocks: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
        self.bases = [[0] * len(self.names)]  # rows that each pool has given before each schedule entry
        for entry in range(len(schedule) - 1):
            given = self._given(entry, self.starts[entry + 1] - self.starts[entry])
            self.bases.append([base + count for base, count in zip(self.bases[-1], given, strict=True)])

    def sample(self, i: int) -> Sample:
        """Row `i` of the run."""
        pool, _, start = self._locate(i)
        store = self.pools[pool]
        stop = start + self.context + 1
        if stop <= store.n_tokens:
            return Sample(store.tokens[start:stop], store.documents_between(start, stop), self.names[pool])
        # Only a pool that is shorter than a row comes here: repeat it, each time as new documents.
        times = -(-stop // store.n_tokens)
        tokens = np.tile(store.tokens[0 : store.n_tokens], times)[start:stop]
        documents = np.tile(store.documents_between(0, store.n_tokens), times)
        documents += np.repeat(np.arange(times, dtype=np.int32) * store.n_documents, store.n_tokens)
        return Sample(tokens, documents[start:stop], self.names[pool])

    def address(self, i: int) -> Address:
        """Where row `i` lies, without reading it."""
        pool, epoch, start = self._locate(i)
        return Address(self.names[pool], epoch, start)

    def counts(self, n: int) -> dict[str, int]:
        """How many of the first `n` rows each pool gives."""
        entry = max(0, bisect_right(self.starts, n) - 1)
        given = self._given(entry, n - self.starts[entry])
        return {name: base + count for name, base, count in zip(self.names, self.bases[entry], given, strict=True)}

    def _locate(self, i: int) -> tuple[int, int, int]:
        """(index of the pool, epoch, first token) of row `i`."""
        if i < 0:
            raise ValueError(f"row {i}: rows are counted from 0")
        entry = bisect_right(self.starts, i) - 1
        block, slot = divmod(i - self.starts[entry], BLOCK)
        pool_of_slot, rank_of_slot = self._block(entry, block)
        pool = pool_of_slot[slot]
        epoch, window = divmod(self.bases[entry][pool] + rank_of_slot[slot], self.windows[pool])
        key = derive(self.seed, "window", self.names[pool], epoch)
        window = permute(window, self.windows[pool], key)
        slack = self.pools[pool].n_tokens - 1 - self.windows[pool] * self.context
        return pool, epoch, window * self.context + (key % (slack + 1) if slack > 0 else 0)

    def _block(self, entry: int, block: int) -> tuple[list[int], list[int]]:
        """For each slot of a block: its pool, and how many rows of that pool came before in this schedule entry."""
        found = self._blocks.get((entry, block))
        if found is None:
            before = quotas(self.units[entry], block * BLOCK)
            counts = [b - a for a, b in zip(before, quotas(self.units[entry], (block + 1) * BLOCK), strict=True)]
            key = derive(self.seed, "block", self.starts[entry], block)
            pool_of_slot = np.repeat(np.arange(len(counts)), counts)[permute(np.arange(BLOCK), BLOCK, key)]
            rank_of_slot = np.empty(BLOCK, np.int64)
            rank_of_slot[np.argsort(pool_of_slot, kind="stable")] = np.concatenate(
                [np.arange(a, a + count) for a, count in zip(before, counts, strict=True)]
            )
            found = pool_of_slot.tolist(), rank_of_slot.tolist()
            if len(self._blocks) >= 64:
                self._blocks.clear()
            self._blocks[entry, block] = found
        return found

    def _given(self, entry: int, n: int) -> list[int]:
        """Rows that each pool gives in the first `n` rows of a schedule entry."""
        block, slots = divmod(n, BLOCK)
        given = quotas(self.units[entry], block * BLOCK)
        for pool in self._block(entry, block)[0][:slots]:
            given[pool] += 1
        return given

    def _units(self, weights: dict[str, float]) -> list[int]:
        unknown = sorted(set(weights) - set(self.names))
        if unknown:
            raise ValueError(f"the schedule names pools that do not exist: {', '.join(unknown)}")
        empty = [n for n, p in zip(self.names, self.pools, strict=True) if weights.get(n, 0) > 0 and not p.n_tokens]
        if empty:
            raise ValueError(f"the schedule gives weight to pools without tokens: {', '.join(empty)}")
        total = sum(weights.values())
        # A weight above 0 is never rounded away.
        return [max(round(w / total * WEIGHT_UNIT), int(w > 0)) for w in (weights.get(n, 0.0) for n in self.names)]


def quotas(units: list[int], n: int) -> list[int]:
    """How many of the first `n` rows each pool gets, by integer weights `units`. Sums to n; none falls as n grows.

    The first pool takes its share of n, rounded, the next its share of what is left, and so on. Each step is monotone in
    what it is given, and so is what it leaves.
    """
    left, units_left = n, sum(units)
    counts = []
    for unit in units:
        count = (2 * unit * left + units_left) // (2 * units_left) if unit else 0
        counts.append(count)
        left -= count
        units_left -= unit
    return counts


def rows(sampler: Sampler, indices: list[int]) -> dict[str, np.ndarray]:
    """One micro-batch of packed rows: int64 arrays [B, T], B = len(indices), T = the sampler's context.

    `input_ids`; `labels`: the next token of each position, -100 where that belongs to another document (the token that
    ends a document is predicted, what follows it is not); `doc_ids`: the documents of a row, counted from 0;
    `position_ids`: 0..T-1, not reset at documents (Sailor2; under RoPE with an intra-document mask that is immaterial).
    """
    shape = (len(indices), sampler.context)
    batch = {name: np.empty(shape, np.int64) for name in ("input_ids", "labels", "doc_ids", "position_ids")}
    batch["position_ids"][:] = np.arange(sampler.context)
    for row, i in enumerate(indices):
        tokens, doc_index, _ = sampler.sample(i)
        batch["input_ids"][row] = tokens[:-1]
        batch["labels"][row] = tokens[1:]
        batch["labels"][row, doc_index[1:] != doc_index[:-1]] = IGNORE
        np.subtract(doc_index[:-1], doc_index[0], out=batch["doc_ids"][row])
    return batch


def check_schedule(schedule: list[dict]) -> None:
    """Raises ValueError unless from_sample rises from 0 and every entry has weights, none negative, not all 0."""
    starts = [entry["from_sample"] for entry in schedule]
    if not starts or starts[0] != 0 or any(b <= a for a, b in pairwise(starts)):
        raise ValueError(f"a schedule starts at sample 0 and its from_sample rises; got {starts}")
    for entry in schedule:
        weights = entry["weights"].values()
        if not all(w >= 0 and np.isfinite(w) for w in weights) or sum(weights) <= 0:
            raise ValueError(f"weights from sample {entry['from_sample']} on: none may be negative, nor all 0")


def append_change(uri: str, from_sample: int, weights: dict[str, float], reason: str) -> None:
    """Add a change of weights to the ledger at `uri` (JSON lines; created by the first change, which is from row 0).

    Rows before `from_sample` keep their tokens; that it lies ahead of what has been trained is the caller's business.
    Repeating the last change does nothing. Raises ValueError for a change that is not later than the last.
    """
    schedule = _read(uri)
    change = {"from_sample": from_sample, "weights": dict(sorted(weights.items())), "reason": reason}
    if schedule and schedule[-1] == change:
        return
    check_schedule([*schedule, change])
    lines = [json.dumps(entry, ensure_ascii=False) for entry in [*schedule, change]]
    storage.write_text(uri, "\n".join(lines) + "\n")


def read_schedule(uri: str) -> list[dict]:
    """All changes, [{"from_sample", "weights", "reason"}, ...], a Sampler's `schedule`. ValueError without any."""
    schedule = _read(uri)
    if not schedule:
        raise ValueError(f"{uri}: no schedule of mixture weights here")
    return schedule


def _read(uri: str) -> list[dict]:
    if not storage.exists(uri):
        return []
    return [json.loads(line) for line in storage.read_bytes(uri).decode().splitlines()]
