"""What one rank writes of a checkpoint: its pieces of the state, and one safetensors file with them.

A piece is a rank's shard of a DTensor, or a whole tensor that every rank has; of those each is written by one rank, so that the
ranks write about equally many bytes. A file says in its header where its pieces lie in their tensors, in the words of torch's
distributed checkpoint (DCP), so that DCP can read it; what a rank needs reads train/checkpoint/reader.py. Nothing is pickled.

The writer is ours and not `safetensors.torch.save_file`: that copies every tensor once more and holds Python's lock, and a
file that is written beside training should do neither. Its checksum is made on the way.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

CHUNK_BYTES = 16 << 20

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Piece:
    """A block of the tensor `name` that begins at `offsets`."""

    name: str
    offsets: tuple[int, ...]
    tensor: Tensor


def pieces(state: dict[str, Tensor], rank: int, world: int) -> list[Piece]:
    """What `rank` writes of `state`: tensors or DTensors of at least one dimension. All ranks' pieces cover it once."""
    owned = []
    bytes_of = [0] * world
    whole = {name: tensor for name, tensor in state.items() if not isinstance(tensor, DTensor)}
    for name in sorted(whole, key=lambda name: (-whole[name].nbytes, name)):
        owner = bytes_of.index(min(bytes_of))
        bytes_of[owner] += whole[name].nbytes
        if owner == rank:
            owned.append(Piece(name, (0,) * whole[name].ndim, whole[name].detach()))
    for number, (name, tensor) in enumerate(state.items()):
        if isinstance(tensor, DTensor):
            mesh, placements = tensor.device_mesh, tensor.placements
            at_each = mesh.get_coordinate()
            assert at_each is not None, "this rank is not in the mesh"
            local = tensor.to_local().detach()
            # of groups that have copies each writes every so-many-th tensor
            mine = all(
                at == number % mesh.size(dim)
                for dim, (at, place) in enumerate(zip(at_each, placements, strict=True))
                if place.is_replicate()
            )
            if local.numel() and mine:
                _, offsets = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
                owned.append(Piece(name, tuple(offsets), local))
    return sorted(owned, key=lambda piece: piece.name)


class Snapshot:
    """Copies of pieces in host memory that is taken once and used again; page-locked where they come from a GPU."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, owned: list[Piece]) -> list[Piece]:
        """`owned` with the values that it has now. What the last call returned is overwritten."""
        copies = []
        for piece in owned:
            live, buffer = piece.tensor, self._buffers.get(piece.name)
            if buffer is None or buffer.shape != live.shape or buffer.dtype != live.dtype:
                buffer = torch.empty(live.shape, dtype=live.dtype, pin_memory=live.is_cuda)
                self._buffers[piece.name] = buffer
            buffer.copy_(live, non_blocking=True)
            copies.append(replace(piece, tensor=buffer))
        if any(piece.tensor.is_cuda for piece in owned):
            torch.cuda.synchronize()
        return copies


def write(path: str, owned: list[Piece]) -> tuple[int, int]:
    """Write one safetensors file; returns its (bytes, CRC-32)."""
    header: dict = {"__metadata__": {"format": "pt", "DCP_SHARDING_INFO": json.dumps(_offsets(owned))}}
    end = 0
    for piece in owned:
        begin, end = end, end + piece.tensor.nbytes
        shape = list(piece.tensor.shape)
        header[piece.name] = {"dtype": DTYPES[piece.tensor.dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    size, crc = 0, 0
    with open(path, "wb") as file:
        head = memoryview(len(text).to_bytes(8, "little") + text)
        for data in (head, *(_bytes(piece.tensor) for piece in owned)):
            for start in range(0, len(data), CHUNK_BYTES):
                chunk = data[start : start + CHUNK_BYTES]
                file.write(chunk)
                size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return size, crc


def checksum(path: str) -> tuple[int, int]:
    """(bytes, CRC-32) of a file."""
    size, crc = 0, 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return size, crc


def _offsets(owned: list[Piece]) -> dict:
    return {piece.name: {"saved_offsets": list(piece.offsets)} for piece in owned}


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data
