"""Reading a large file on object storage in blocks: fetched ahead and at once, checked, and kept while there is room.

Rows of a mixture lie far apart, and a request to an object store takes tens of milliseconds whatever its size. So what
will be read is announced (`BlockFile.prefetch`): all blocks of all announced ranges are under way together, neighbours in
one request. Every block that arrives is compared with its checksum; one that differs is fetched once more, then refused.

The cache is one for the process and bounded in bytes; the blocks used last stay.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

import numpy as np
import xxhash

from cluster import storage

BLOCK = 1 << 16  # bytes: what a checksum covers; a row of 4,096 tokens lies in one or two
CACHE_BYTES = 256 << 20
THREADS = 32  # requests under way

_blocks: OrderedDict[tuple[str, int], Future[bytes]] = OrderedDict()
_lock = threading.Lock()
_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="blocks")


def checksums(data: bytes | bytearray) -> np.ndarray:
    """xxh3-64 of each block of `data`, uint64; the last block may be shorter."""
    view = memoryview(data)
    return np.array([xxhash.xxh3_64_intdigest(view[a : a + BLOCK]) for a in range(0, len(view), BLOCK)], "<u8")


def describe(block: int, n_bytes: int) -> str:
    """The bytes of a block, for a message."""
    return f"bytes {block * BLOCK}..{min((block + 1) * BLOCK, n_bytes) - 1}"


class BlockFile:
    """The `n_bytes` bytes at `uri`. `checksums_uri`: the file of its blocks' checksums; `version`, its own checksum, tells
    this content from another that lay at the same place."""

    def __init__(self, uri: str, n_bytes: int, checksums_uri: str, version: str) -> None:
        self.uri = uri
        self.n_bytes = n_bytes
        self.checksums_uri = checksums_uri
        self.key = f"{uri}#{version}"
        self.fs, self.path = storage.filesystem(uri)

    @cached_property
    def checksums(self) -> np.ndarray:
        return np.frombuffer(storage.read_bytes(self.checksums_uri), "<u8")

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `start..stop`. Raises ValueError naming the range when they are not what was written."""
        if stop <= start:
            return b""
        parts = [future.result() for future in self._ask(start, stop)]
        first = start // BLOCK * BLOCK
        return b"".join(parts)[start - first : stop - first]

    def prefetch(self, start: int, stop: int) -> None:
        """Have bytes `start..stop` fetched while the caller goes on."""
        if stop > start:
            self._ask(start, stop)

    def _ask(self, start: int, stop: int) -> list[Future[bytes]]:
        wanted = range(start // BLOCK, -(-stop // BLOCK))
        missing: list[int] = []
        futures = []
        with _lock:
            for block in wanted:
                future = _blocks.get((self.key, block))
                if future is None or (future.done() and future.exception()):
                    future = _blocks[self.key, block] = Future()
                    missing.append(block)
                _blocks.move_to_end((self.key, block))
                futures.append(future)
            while len(_blocks) * BLOCK > max(CACHE_BYTES, len(wanted) * BLOCK):
                _blocks.popitem(last=False)
        if missing:
            by_block = dict(zip(wanted, futures, strict=True))
            breaks = np.flatnonzero(np.diff(missing) > 1) + 1
            for run in np.split(np.array(missing), breaks):
                _pool.submit(self._fetch, int(run[0]), [by_block[int(block)] for block in run])
        return futures

    def _fetch(self, first: int, futures: list[Future[bytes]]) -> None:
        try:
            stop = min((first + len(futures)) * BLOCK, self.n_bytes)
            data = self._get(first * BLOCK, stop)
            for block, future in enumerate(futures, first):
                part = data[(block - first) * BLOCK : (block - first + 1) * BLOCK]
                future.set_result(part if self._good(block, part) else self._again(block))
        except BaseException as error:
            for future in futures:
                if not future.done():
                    future.set_exception(error)

    def _get(self, start: int, stop: int) -> bytes:
        return self.fs.cat_file(self.path, start=start, end=stop)

    def _good(self, block: int, data: bytes) -> bool:
        return xxhash.xxh3_64_intdigest(data) == int(self.checksums[block])

    def _again(self, block: int) -> bytes:
        data = self._get(block * BLOCK, min((block + 1) * BLOCK, self.n_bytes))
        if not self._good(block, data):
            where = describe(block, self.n_bytes)
            raise ValueError(f"{self.uri}: {where} are not what was written; tokenize again")
        return data
