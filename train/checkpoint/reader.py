"""What one rank reads of a checkpoint: of each file the byte ranges that hold its own pieces of the state, and no others.

`train/checkpoint/pieces.py` writes blocks of tensors with their places; a rank, of however many, knows the blocks of its own
layout, and the overlap of two blocks is rows of the written one. So resuming at another number of ranks, or reading the
weights without Adam's moments, moves only what is needed. On a remote storage a file that is fetched whole (its checksum is
to be verified) is kept until the end, and ranges of it are read from that copy.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from cluster import storage
from train.checkpoint import pieces

RANGE_BYTES = 64 << 20
REQUESTS = 8  # at a time; a request to an object store waits longer than it reads

_DTYPES = {name: dtype for dtype, name in pieces.DTYPES.items()}


@dataclass(frozen=True)
class Block:
    """A block of a tensor in `file`, whose values begin at byte `begin`; `offsets` are where it begins in the tensor."""

    file: str
    begin: int
    dtype: torch.dtype
    offsets: tuple[int, ...]
    shape: tuple[int, ...]


class Files:
    """The files in the folder `uri`, read in ranges; a context, since copies of remote files are deleted with it."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._copies = tempfile.TemporaryDirectory()
        self._paths: dict[str, str] = {}

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        self._copies.cleanup()

    def checksum(self, name: str) -> tuple[int, int]:
        """(bytes, CRC-32) of a file, which is fetched whole."""
        if storage.is_local(self._uri):
            return pieces.checksum(f"{storage.local(self._uri)}/{name}")
        fs, folder = storage.filesystem(self._uri)
        fs.get_file(f"{folder}/{name}", f"{self._copies.name}/{name}")
        self._paths[name] = f"{self._copies.name}/{name}"
        return pieces.checksum(self._paths[name])

    def read(self, name: str, begin: int, end: int) -> bytearray:
        """Bytes `begin` to `end` of a file."""
        path = f"{storage.local(self._uri)}/{name}" if storage.is_local(self._uri) else self._paths.get(name)
        if path is None:
            fs, folder = storage.filesystem(self._uri)
            return bytearray(fs.cat_file(f"{folder}/{name}", start=begin, end=end))
        data = bytearray(end - begin)
        with open(path, "rb") as file:
            file.seek(begin)
            file.readinto(data)
        return data


def blocks(files: Files, names: Iterable[str]) -> dict[str, list[Block]]:
    """All blocks of each tensor, from the headers of the files `names`."""
    found: dict[str, list[Block]] = {}
    for file in names:
        length = int.from_bytes(files.read(file, 0, 8), "little")
        header = json.loads(files.read(file, 8, 8 + length))
        places = json.loads(header.pop("__metadata__")["DCP_SHARDING_INFO"])
        for name, entry in header.items():
            offsets, begin = places[name]["saved_offsets"], 8 + length + entry["data_offsets"][0]
            block = Block(file, begin, _DTYPES[entry["dtype"]], tuple(offsets), tuple(entry["shape"]))
            found.setdefault(name, []).append(block)
    return found


def shape(of: list[Block]) -> tuple[int, ...]:
    """The shape of the tensor that blocks are of."""
    ends = ([o + n for o, n in zip(block.offsets, block.shape, strict=True)] for block in of)
    return tuple(max(of_dim) for of_dim in zip(*ends, strict=True))


@torch.no_grad()
def fill(files: Files, found: dict[str, list[Block]], state: dict[str, Tensor]) -> None:
    """Copy the saved values into the tensors (or this rank's parts of the DTensors) of `state`, which `found` must have."""
    jobs = []
    for name, tensor in state.items():
        local, offsets = tensor, (0,) * tensor.ndim
        if isinstance(tensor, DTensor):
            local = tensor.to_local()
            _, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        mine = [job for block in found[name] for job in _overlap(block, local, tuple(offsets))]
        assert sum(job[-1].numel() for job in mine) == local.numel(), f"the checkpoint lacks a part of {name}"
        jobs += mine

    def copy(job: tuple[Block, int, int, tuple[slice, ...], Tensor]) -> None:
        block, first, last, inside, target = job
        row = math.prod(block.shape[1:]) * block.dtype.itemsize
        data = files.read(block.file, block.begin + first * row, block.begin + last * row)
        target.copy_(torch.frombuffer(data, dtype=block.dtype).view(last - first, *block.shape[1:])[inside])

    with ThreadPoolExecutor(REQUESTS) as threads:
        list(threads.map(torch.no_grad()(copy), jobs))


def _overlap(block: Block, local: Tensor, offsets: tuple[int, ...]) -> list[tuple]:
    """(block, first and last row of it to read, what to take of these rows, where it goes), at most `RANGE_BYTES` at a time."""
    begin = [max(a, b) for a, b in zip(block.offsets, offsets, strict=True)]
    ends = zip(block.offsets, block.shape, offsets, local.shape, strict=True)
    end = [min(a + n, b + m) for a, n, b, m in ends]
    if any(b >= e for b, e in zip(begin, end, strict=True)):
        return []
    rest = list(zip(begin, end, block.offsets, offsets, strict=True))[1:]
    inside = (slice(None), *(slice(b - o, e - o) for b, e, o, _ in rest))
    step = max(1, RANGE_BYTES // (math.prod(block.shape[1:]) * block.dtype.itemsize))
    jobs = []
    for row in range(begin[0], end[0], step):
        last = min(row + step, end[0])
        there = (slice(row - offsets[0], last - offsets[0]), *(slice(b - o, e - o) for b, e, _, o in rest))
        jobs.append((block, row - block.offsets[0], last - block.offsets[0], inside, local[there]))
    return jobs
