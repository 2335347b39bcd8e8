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

A run can be changed while it goes on, and no row before the change notices: other weights; a pool that has grown (its new
windows are shuffled among those that the epoch under way has not read yet, the next epoch is of all); a document that is
taken down (its tokens become end tokens without labels, in place, so that no other token moves). `mixture/order/ledger.py`
keeps such changes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mixture.order.permute import derive, permute
from mixture.order.schedule import check_schedule, quotas
from mixture.store.long_documents import LongDocuments
from mixture.store.token_store import TokenStore

BLOCK = 256  # rows
WEIGHT_UNIT = 1 << 40  # weights are counted in these, as exact integers
IGNORE = -100


class Sample(NamedTuple):
    """`tokens` [context + 1] in the store's dtype; `doc_index` int32 [context + 1], the row of each token in the pool's
    documents.parquet (a pool shorter than a row is repeated, and its n documents count on from n); `pool`, its name;
    `removed` bool [context + 1], which tokens are of documents that were taken down, or None when none is."""

    tokens: np.ndarray
    doc_index: np.ndarray
    pool: str
    removed: np.ndarray | None = None


class Address(NamedTuple):
    """Where a row comes from: token `start` of `pool`, in pass number `epoch` over it."""

    pool: str
    epoch: int
    start: int


class Share(NamedTuple):
    """A document in a row: its row in the pool's documents.parquet, and how many of the row's input tokens are its."""

    document: int
    tokens: int


class _Phase(NamedTuple):
    """A pool while it has one length. Its ranks r count from `base`. The first `deck` of them finish the epoch that the
    phase before left with `left` windows, shuffled among the windows of tokens `first` and on, which are new; then come
    whole epochs of `windows`, the first of them number `epoch`."""

    base: int
    n_tokens: int
    windows: int
    left: int
    deck: int
    first: int
    epoch: int


class Sampler:
    """Rows of `context` + 1 tokens from `pools` by a schedule of weights.

    `pools`: name -> TokenStore, or LongDocuments of one. `schedule`: [{"from_sample": first row, "weights": {pool: weight}},
    ...], from_sample rising from 0; weights need not sum to 1, pools left out have weight 0. An entry may have "tokens":
    {pool: n}: from there on the first n tokens of the pool are read; what no entry says is the store's length now.
    `removed`: [{"from_sample": first row, "doc_id": id}, ...], documents that are taken down, in whatever pools. Raises
    ValueError for a schedule that does not fit the pools.
    """

    def __init__(
        self,
        pools: dict[str, TokenStore | LongDocuments],
        schedule: list[dict],
        context: int,
        seed: int,
        removed: Iterable[dict] = (),
    ) -> None:
        if context < 1:
            raise ValueError(f"context must be at least 1 token, not {context}")
        check_schedule(schedule)
        self.names = sorted(pools)
        self.pools = [pools[name] for name in self.names]
        self.remote = not all(store.is_local for store in self.pools)
        self.context = context
        self.seed = seed
        self.starts = [entry["from_sample"] for entry in schedule]
        self.units = [self._units(entry["weights"]) for entry in schedule]
        self._blocks: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
        self.bases = [[0] * len(self.names)]  # rows that each pool has given before each schedule entry
        for entry in range(len(schedule) - 1):
            given = self._given(entry, self.starts[entry + 1] - self.starts[entry])
            self.bases.append([base + count for base, count in zip(self.bases[-1], given, strict=True)])
        self.phases = [self._phases(pool, schedule) for pool in range(len(self.names))]
        self.removed = self._removed(list(removed))

    def sample(self, i: int) -> Sample:
        """Row `i` of the run."""
        pool, _, start, n_tokens = self._locate(i)
        store, stop = self.pools[pool], start + self.context + 1
        documents = self._documents(pool, start, n_tokens)
        tokens = store.tokens[start:stop] if stop <= n_tokens else np.resize(store.tokens[0:n_tokens], stop)[start:]
        removed = self._removed_from(i, pool, documents, n_tokens) if self.removed else None
        if removed is not None:
            tokens = np.where(removed, tokens.dtype.type(store.eod), tokens)
        return Sample(tokens, documents, self.names[pool], removed)

    def documents(self, i: int) -> list[Share]:
        """The documents that row `i` is made of, in their order; one that is repeated counts once."""
        pool, _, start, n_tokens = self._locate(i)
        index = self._documents(pool, start, n_tokens)[:-1] % self.pools[pool].documents_within(n_tokens)
        found, first, counts = np.unique(index, return_index=True, return_counts=True)
        return [Share(int(found[k]), int(counts[k])) for k in np.argsort(first)]

    def prefetch(self, indices: Iterable[int]) -> None:
        """Say that these rows will be read soon: from object storage they are all fetched at once, meanwhile."""
        for i in indices if self.remote else ():
            pool, _, start, n_tokens = self._locate(i)
            self.pools[pool].prefetch(start, min(start + self.context + 1, n_tokens))

    def address(self, i: int) -> Address:
        """Where row `i` lies, without reading it."""
        pool, epoch, start, _ = self._locate(i)
        return Address(self.names[pool], epoch, start)

    def counts(self, n: int) -> dict[str, int]:
        """How many of the first `n` rows each pool gives."""
        n = int(n)  # counts are integers of any size, which NumPy's are not
        entry = max(0, bisect_right(self.starts, n) - 1)
        given = self._given(entry, n - self.starts[entry])
        return {name: base + count for name, base, count in zip(self.names, self.bases[entry], given, strict=True)}

    def _locate(self, i: int) -> tuple[int, int, int, int]:
        """(index of the pool, epoch, first token, tokens that the pool has) of row `i`."""
        if i < 0:
            raise ValueError(f"row {i}: rows are counted from 0")
        i = int(i)  # as in `counts`
        entry = bisect_right(self.starts, i) - 1
        block, slot = divmod(i - self.starts[entry], BLOCK)
        pool_of_slot, rank_of_slot = self._block(entry, block)
        pool = pool_of_slot[slot]
        rank = self.bases[entry][pool] + rank_of_slot[slot]
        phases = self.phases[pool]
        number = len(phases) - 1
        while phases[number].base > rank:
            number -= 1
        return pool, *self._window(pool, number, rank - phases[number].base)

    def _window(self, pool: int, number: int, rank: int) -> tuple[int, int, int]:
        """(epoch, first token, tokens of the pool) of the row that comes `rank` rows after the begin of a phase."""
        phase = self.phases[pool][number]
        if rank < phase.deck:
            card = permute(rank, phase.deck, derive(self.seed, "deck", self.names[pool], number))
            if card < phase.left:
                before = self.phases[pool][number - 1]
                return self._window(pool, number - 1, phase.base - before.base + card)
            epoch, window, first, windows = phase.epoch - 1, card - phase.left, phase.first, phase.deck - phase.left
            key = derive(self.seed, "new", self.names[pool], number)
        else:
            epoch, window = divmod(rank - phase.deck, phase.windows)
            epoch, first, windows = epoch + phase.epoch, 0, phase.windows
            key = derive(self.seed, "window", self.names[pool], epoch)
            window = permute(window, windows, key)
        slack = phase.n_tokens - first - 1 - windows * self.context
        return epoch, first + window * self.context + (key % (slack + 1) if slack > 0 else 0), phase.n_tokens

    def _phases(self, pool: int, schedule: list[dict]) -> list[_Phase]:
        name, store = self.names[pool], self.pools[pool]
        lengths = [entry.get("tokens", {}).get(name) for entry in schedule]
        n_tokens = store.n_tokens if lengths[0] is None else lengths[0]
        phases = [_Phase(0, n_tokens, max(1, (n_tokens - 1) // self.context), 0, 0, 0, 0)]
        for entry, length in enumerate(lengths):
            last, base = phases[-1], self.bases[entry][pool]
            if self.units[entry][pool] and not (last.n_tokens if length is None else length):
                raise ValueError(f"the schedule gives weight to pools without tokens: {name}")
            if length is None or length == last.n_tokens:
                continue
            if length < last.n_tokens:
                raise ValueError(f"pool {name} cannot shrink from {last.n_tokens:,} to {length:,} tokens")
            given = base - last.base
            if given < last.deck:
                left, epoch = last.deck - given, last.epoch
            else:
                epoch, position = divmod(given - last.deck, last.windows)
                left, epoch = (last.windows - position if position else 0), last.epoch + epoch + bool(position)
            deck = left + (length - last.n_tokens - 1) // self.context if left else 0
            windows = max(1, (length - 1) // self.context)
            phases.append(_Phase(base, length, windows, left, deck, last.n_tokens, epoch))
        if phases[-1].n_tokens > store.n_tokens:
            raise ValueError(
                f"the schedule reads {phases[-1].n_tokens:,} tokens of pool {name}, which has {store.n_tokens:,}"
            )
        return phases

    def _removed(self, changes: list[dict]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Of each pool that holds any: the rows of the documents that are taken down, rising, and from which row on."""
        since: dict[str, int] = {}
        for change in changes:
            since[change["doc_id"]] = min(change["from_sample"], since.get(change["doc_id"], change["from_sample"]))
        found = {}
        for pool, store in enumerate(self.pools) if since else ():
            if rows := sorted(store.rows_of(since).items()):
                found[pool] = np.array([row for row, _ in rows]), np.array([since[doc_id] for _, doc_id in rows])
        return found

    def _documents(self, pool: int, start: int, n_tokens: int) -> np.ndarray:
        """The documents of the `context` + 1 tokens from `start` on: int32."""
        store, stop = self.pools[pool], start + self.context + 1
        if stop <= n_tokens:
            return store.documents_between(start, stop)
        # Only a pool that is shorter than a row comes here: it is repeated, each time as new documents.
        times = -(-stop // n_tokens)
        again = np.arange(times, dtype=np.int32) * store.documents_within(n_tokens)
        return (again[:, None] + store.documents_between(0, n_tokens)).ravel()[start:stop]

    def _removed_from(self, i: int, pool: int, documents: np.ndarray, n_tokens: int) -> np.ndarray | None:
        """Which of these tokens, given by their documents, are taken down in row `i`; None when none is."""
        if pool not in self.removed:
            return None
        rows, since = self.removed[pool]
        documents = documents % self.pools[pool].documents_within(n_tokens)
        at = np.minimum(rows.searchsorted(documents), len(rows) - 1)
        gone = (rows[at] == documents) & (since[at] <= i)
        return gone if gone.any() else None

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


def rows(sampler: Sampler, indices: list[int]) -> dict[str, np.ndarray]:
    """One micro-batch of packed rows: int64 arrays [B, T], B = len(indices), T = the sampler's context; `pool` is [B].

    `input_ids`; `labels`: the next token of each position, -100 where that belongs to another document (the token that
    ends a document is predicted, what follows it is not); `doc_ids`: the documents of a row, counted from 0;
    `position_ids`: 0..T-1, not reset at documents (Sailor2; under RoPE with an intra-document mask that is immaterial);
    a document that was taken down has end tokens and no labels, and stays a document of its own for the mask;
    `pool`: where in `sampler.names` the pool of each row stands.
    """
    shape = (len(indices), sampler.context)
    batch: dict[str, np.ndarray] = {
        name: np.empty(shape, np.int64) for name in ("input_ids", "labels", "doc_ids", "position_ids")
    }
    batch["position_ids"][:] = np.arange(sampler.context)
    batch["pool"] = np.empty(len(indices), np.int64)
    sampler.prefetch(indices)
    for row, i in enumerate(indices):
        tokens, doc_index, pool, removed = sampler.sample(i)
        batch["pool"][row] = sampler.names.index(pool)
        batch["input_ids"][row] = tokens[:-1]
        batch["labels"][row] = tokens[1:]
        batch["labels"][row, doc_index[1:] != doc_index[:-1]] = IGNORE
        if removed is not None:
            batch["labels"][row, removed[1:]] = IGNORE
        np.subtract(doc_index[:-1], doc_index[0], out=batch["doc_ids"][row])
    return batch
