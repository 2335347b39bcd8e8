"""The long documents of a pool as a pool of their own: for up-sampling them when the context grows (AnchorAttention §4).

`all/th>=8192` names the documents of `all/th` that have at least 8,192 tokens (their end token counted), end to end. A
sampler reads it like any pool, so a weight for it is a share of rows whose tokens all lie in such documents, and with
rows as long as the limit most rows lie in one or two. Nothing is copied: token t of it is a token of the pool at another
address. Documents that are appended follow, so that its addresses stay as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np

from cluster import storage
from mixture.store.token_store import TokenStore

SIGN = ">="


def open_pool(folder: str, name: str) -> TokenStore | LongDocuments:
    """The pool `name` below `folder`, such as `all/th` or `all/th>=8192`. Raises ValueError where there is none."""
    whole, sign, limit = name.partition(SIGN)
    if sign and not limit.isdecimal():
        raise ValueError(f"pool {name}: after {SIGN} comes a number of tokens, such as {whole}{SIGN}8192")
    store = TokenStore(storage.join(folder, whole))
    return LongDocuments(store, int(limit)) if sign else store


class LongDocuments:
    """The documents of `store` with at least `least` tokens, with what a Sampler asks of a pool.

    Documents and positions count through the long ones only: number k is row `long[k]` of the store's documents, and its
    first token, at `starts[k]` here, lies at `store.starts[long[k]]` there.
    """

    def __init__(self, store: TokenStore, least: int) -> None:
        self.store = store
        self.least = least
        self.eod = store.eod
        self.is_local = store.is_local
        lengths = np.diff(store.starts)
        self.long = np.flatnonzero(lengths >= least)
        self.starts = np.concatenate([[0], np.cumsum(lengths[self.long])])
        self.n_tokens = int(self.starts[-1])
        self.n_documents = len(self.long)

    def __reduce__(self) -> tuple:
        return LongDocuments, (self.store, self.least)

    @cached_property
    def tokens(self) -> _Tokens:
        return _Tokens(self)

    def prefetch(self, start: int, stop: int) -> None:
        """As `TokenStore.prefetch`."""
        for a, b in self.pieces(start, min(stop, self.n_tokens)):
            self.store.prefetch(a, b)

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Where the tokens `start..stop` lie in the store: ranges, in order."""
        number = int(self.starts.searchsorted(start, side="right")) - 1
        while start < stop:
            end = min(stop, int(self.starts[number + 1]))
            shift = int(self.store.starts[self.long[number]] - self.starts[number])
            yield start + shift, end + shift
            start, number = end, number + 1

    def documents_between(self, start: int, stop: int) -> np.ndarray:
        """The number of the document of each token in `start..stop`: int32 [stop - start]."""
        first, last = self.starts.searchsorted([start, stop - 1], side="right") - 1
        edges = self.starts[first : last + 2].copy()
        edges[0], edges[-1] = start, stop
        return np.repeat(np.arange(first, last + 1, dtype=np.int32), np.diff(edges))

    def documents_within(self, n_tokens: int) -> int:
        """How many documents the first `n_tokens` tokens hold."""
        return int(self.starts[:-1].searchsorted(n_tokens))

    def rows_of(self, doc_ids: Iterable[str]) -> dict[int, str]:
        """The numbers of the documents that have one of these ids -> the id."""
        found = self.store.rows_of(doc_ids)
        return {k: found[row] for k, row in enumerate(self.long.tolist()) if row in found} if found else {}

    def doc_ids(self, rows: Iterable[int]) -> dict[int, str]:
        """The ids of the documents of these numbers."""
        row_of = {k: int(self.long[k]) for k in rows}
        found = self.store.doc_ids(row_of.values())
        return {k: found[row] for k, row in row_of.items()}


class _Tokens:
    """`tokens[a:b]` of the long documents."""

    def __init__(self, pool: LongDocuments) -> None:
        self.pool = pool

    def __len__(self) -> int:
        return self.pool.n_tokens

    def __getitem__(self, where: slice) -> np.ndarray:
        start, stop, step = where.indices(len(self))
        assert step == 1, "range reads are contiguous"
        tokens = self.pool.store.tokens
        found = [tokens[a:b] for a, b in self.pool.pieces(start, stop)]
        return found[0] if len(found) == 1 else np.concatenate([np.empty(0, self.pool.store.dtype), *found])
