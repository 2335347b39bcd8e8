"""Sharded training checkpoints at any URI, complete or not there at all.

Each rank writes its shards with torch's distributed checkpoint (DCP) as safetensors (nothing is ever pickled), so a checkpoint
loads at another world size. The file `_COMPLETE`, written last by rank 0, lists every file with its size. Resuming looks
for the newest complete checkpoint on storage and believes nothing else: Ray Train can forget a finished one.

    URI/step_00000010/shard-00001-model-00001-of-00001.safetensors …, _COMPLETE
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from cluster import storage

MARKER = "_COMPLETE"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its folder, the number of finished steps, and what `save` was given as `meta`."""

    uri: str
    step: int
    meta: dict
    files: dict[str, int]


def save(uri: str, step: int, state: dict[str, Tensor], meta: dict | None = None, keep: int = 2) -> None:
    """Write `state` (tensors or DTensors of at least one dimension) as the checkpoint of `step`; call it on every rank.

    `meta` is any JSON value. The `keep` newest complete checkpoints stay, what is older is deleted.
    An error while writing (a full disk) leaves the earlier checkpoints as they were.
    """
    folder = storage.join(uri, f"step_{step:08d}")
    if _rank() == 0:
        storage.remove(folder)  # what a killed run left there
    _barrier()
    with _writable(folder) as path:
        writer = HuggingFaceStorageWriter(path, save_distributed=True)
        with _quiet():
            dcp.save(state, storage_writer=writer, no_dist=not dist.is_initialized())
    _barrier()
    if _rank() == 0:
        files = {name: storage.size(storage.join(folder, name)) for name in _names(folder)}
        storage.write_json(storage.join(folder, MARKER), {"step": step, "files": files, "meta": meta or {}})
        for old in _steps(uri)[:-keep]:
            storage.remove(old)
    _barrier()


def latest(uri: str) -> Checkpoint | None:
    """The newest checkpoint below `uri` whose marker is there and whose files have the sizes that it lists."""
    for folder in reversed(_steps(uri)):
        marker = storage.read_json(storage.join(folder, MARKER))
        if all(storage.size(storage.join(folder, name)) == size for name, size in marker["files"].items()):
            return Checkpoint(folder, marker["step"], marker["meta"], marker["files"])
    return None


def load(checkpoint: Checkpoint, state: dict[str, Tensor]) -> None:
    """Fill the tensors of `state` in place from `checkpoint`, resharded to their layout; call it on every rank.

    Raises ValueError when the checkpoint lacks a tensor or has it in another shape.
    """
    with _readable(checkpoint) as path:
        reader = HuggingFaceStorageReader(path)
        saved = reader.read_metadata().state_dict_metadata
        for name, value in state.items():
            if name not in saved or saved[name].size != value.shape:
                found = f"shape {tuple(saved[name].size)}" if name in saved else "nothing"
                raise ValueError(
                    f"{checkpoint.uri}: the run needs {name} of shape {tuple(value.shape)}, the checkpoint has {found}."
                )
        with _quiet():
            dcp.load(state, storage_reader=reader, no_dist=not dist.is_initialized())


def clear(uri: str) -> None:
    """Delete all checkpoints below `uri`."""
    if _rank() == 0:
        storage.remove(uri)
    _barrier()


def _steps(uri: str) -> list[str]:
    """Folders with a marker, oldest first."""
    return [marker.removesuffix(f"/{MARKER}") for marker in storage.glob(storage.join(uri, "step_*", MARKER))]


def _names(folder: str) -> list[str]:
    return [file.rsplit("/", 1)[-1] for file in storage.glob(storage.join(folder, "*.safetensors"))]


@contextmanager
def _writable(folder: str) -> Iterator[str]:
    """A local folder to write; for a remote `folder`, what is in it at the end is uploaded."""
    if storage.is_local(folder):
        path = storage.local(folder)
        os.makedirs(path, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory() as path:
        yield path
        for file in sorted(Path(path).iterdir()):
            with storage.atomic(storage.join(folder, file.name)) as target:
                shutil.move(file, target)


@contextmanager
def _readable(checkpoint: Checkpoint) -> Iterator[str]:
    """A local folder with the checkpoint's files."""
    if storage.is_local(checkpoint.uri):
        yield storage.local(checkpoint.uri)
        return
    fs, remote = storage.filesystem(checkpoint.uri)
    with tempfile.TemporaryDirectory() as path:
        for name in checkpoint.files:
            fs.get_file(f"{remote}/{name}", f"{path}/{name}")
        yield path


@contextmanager
def _quiet() -> Iterator[None]:
    """Without DCP's warning that a single process is a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
