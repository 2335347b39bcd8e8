"""Slices of tokens from files that are no plain array: on object storage, or several files end to end."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import numpy as np

from mixture.store import blocks


class RemoteTokens:
    """`tokens[a:b]` of a file on object storage."""

    def __init__(self, file: blocks.BlockFile, dtype: np.dtype, n_tokens: int) -> None:
        self.file = file
        self.dtype = dtype
        self.n_tokens = n_tokens

    def __len__(self) -> int:
        return self.n_tokens

    def __getitem__(self, where: slice) -> np.ndarray:
        start, stop, step = where.indices(self.n_tokens)
        assert step == 1, "range reads are contiguous"
        return np.frombuffer(self.file.read(start * self.dtype.itemsize, stop * self.dtype.itemsize), self.dtype)

    def prefetch(self, start: int, stop: int) -> None:
        start, stop, _ = slice(start, stop).indices(self.n_tokens)
        self.file.prefetch(start * self.dtype.itemsize, stop * self.dtype.itemsize)


class JoinedTokens:
    """`tokens[a:b]` of a store of several segments."""

    def __init__(self, parts: list[np.ndarray | RemoteTokens], dtype: np.dtype) -> None:
        self.parts = parts
        self.dtype = dtype
        self.edges = np.cumsum([0, *(len(part) for part in parts)]).tolist()

    def __len__(self) -> int:
        return self.edges[-1]

    def __getitem__(self, where: slice) -> np.ndarray:
        start, stop, step = where.indices(len(self))
        assert step == 1, "range reads are contiguous"
        found = [part[a:b] for part, a, b in self._pieces(start, stop)]
        return found[0] if len(found) == 1 else np.concatenate([np.empty(0, self.dtype), *found])

    def prefetch(self, start: int, stop: int) -> None:
        for part, a, b in self._pieces(start, min(stop, len(self))):
            if not isinstance(part, np.ndarray):
                part.prefetch(a, b)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[np.ndarray | RemoteTokens, int, int]]:
        number = max(0, bisect_right(self.edges, start) - 1)
        while start < stop:
            end = min(stop, self.edges[number + 1])
            if end > start:
                yield self.parts[number], start - self.edges[number], end - self.edges[number]
            start, number = end, number + 1
