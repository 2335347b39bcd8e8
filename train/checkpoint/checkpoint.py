"""Sharded training checkpoints at any URI, complete or not there at all, written while training goes on.

Each rank copies its pieces of the state to host memory, which is all that the loop waits for, and writes them in a thread
(`train/checkpoint/pieces.py`). The ranks tell one another that they are done in a sum that the loop makes anyway (`Writer.state`,
`Writer.settle`); then rank 0 writes `_COMPLETE`, which lists every file with its size and checksum. Resuming looks for the
newest checkpoint on storage that is complete and undamaged and believes nothing else: Ray Train can forget a finished one.

    URI/step_00000010/shard-00000.safetensors, shard-00001.safetensors …, _COMPLETE
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from cluster import storage
from train.checkpoint import pieces, reader
from train.checkpoint.reader import Files
from train.distributed import data_parallel

log = logging.getLogger(__name__)

MARKER = "_COMPLETE"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its folder, the number of finished steps, and what was saved as `meta`.

    `files` maps names to (bytes, CRC-32)."""

    uri: str
    step: int
    meta: dict
    files: dict[str, tuple[int, int]]


class Writer:
    """Writes the checkpoints of one run below `uri`, at most one at a time; every rank has one and calls it alike.

    The `keep` newest complete checkpoints stay, what is older is deleted. With `background=False` `save` returns when all is
    written. Where the storage fails (a full disk), earlier checkpoints stay as they were, and `on_error` "stop" raises
    OSError on every rank at the next `settle`, "warn" logs it and goes on.

    `seconds` is the time that the caller has waited in `save` and `finish`, `failed` the number of checkpoints not written.
    """

    def __init__(
        self, uri: str, device: torch.device, keep: int = 2, *, background: bool = True, on_error: str = "stop"
    ) -> None:
        self.uri, self.device, self.keep = uri, device, keep
        self.background, self.on_error = background, on_error
        self.seconds, self.failed = 0.0, 0
        self._snapshot = pieces.Snapshot()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._phase, self._step = "", 0
        self._meta: dict = {}
        self._future: Future = Future()

    def save(self, step: int, state: dict[str, Tensor], meta: dict | None = None) -> None:
        """Begin to write `state` (tensors or DTensors of at least one dimension) as the checkpoint of `step`.

        `meta` is any JSON value. The tensors may change as soon as this returns."""
        began = time.perf_counter()
        self.finish()
        rank, world = data_parallel.rank_world()
        folder = _folder(self.uri, step)
        cleared: Future = Future()
        if rank == 0:
            try:
                storage.remove(folder)  # what a killed run left there
            except storage.faults() as error:
                cleared.set_exception(error)
        _barrier()
        owned = pieces.pieces(state, rank, world)
        if self.background:
            owned = self._snapshot.take(owned)
        self._phase, self._step, self._meta = "pieces", step, meta or {}
        if cleared.done():
            self._future = cleared
        else:
            self._start(_write_pieces, storage.join(folder, _name(rank)), owned)
        if not self.background:
            self.finish()
        self.seconds += time.perf_counter() - began

    def state(self) -> tuple[float, float]:
        """Whether this rank still writes, and whether it has failed: to be summed over ranks and given to `settle`."""
        done = self._future.done()
        return float(bool(self._phase) and not done), float(
            bool(self._phase) and done and bool(self._future.exception())
        )

    def settle(self, busy: float, failed: float) -> None:
        """Take notice of how far all ranks are: sums of their `state`. Raises OSError for a checkpoint not written."""
        if not self._phase or busy:
            return
        if failed:
            self._phase, self.failed = "", self.failed + 1
            if data_parallel.rank_world()[0] == 0:
                with contextlib.suppress(*storage.faults()):
                    storage.remove(_folder(self.uri, self._step))  # other ranks' parts fill the disk
            self._report(self._future.exception())
        elif self._phase == "pieces":
            rank, world = data_parallel.rank_world()
            table = [0.0] * (2 * world)
            table[2 * rank : 2 * rank + 2] = self._future.result()
            table = [int(value) for value in data_parallel.sum_over_ranks(table, self.device)]
            files = {_name(r): table[2 * r : 2 * r + 2] for r in range(world)}
            self._phase, self._future = "marker", Future()
            if rank == 0:
                self._start(_publish, self.uri, self._step, self._meta, files, self.keep)
            else:
                self._future.set_result(None)
        else:
            self._phase = ""

    def finish(self) -> None:
        """Wait until nothing is being written any more."""
        while self._phase:
            wait([self._future])
            self.settle(*data_parallel.sum_over_ranks(self.state(), self.device))

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        began = time.perf_counter()
        try:
            if kind is None or not dist.is_initialized():  # after an error other ranks may wait for something else
                self.finish()
        finally:
            self._thread.shutdown()
            self.seconds += time.perf_counter() - began

    def _start(self, function: Callable, *arguments: object) -> None:
        self._future = self._thread.submit(function, *arguments)

    def _report(self, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, storage.faults()):
            raise error
        reason = error or "another worker failed to write its part"
        text = f"the checkpoint of update {self._step} was not written: {reason}; the earlier ones are as they were"
        if self.on_error == "stop":
            raise OSError(text) from error
        log.warning("%s; training goes on", text)


def save(uri: str, step: int, state: dict[str, Tensor], meta: dict | None = None, keep: int = 2) -> None:
    """Write one checkpoint and wait for it; call it on every rank. As `Writer.save`."""
    with Writer(uri, _device(state), keep, background=False) as writer:
        writer.save(step, state, meta)


def latest(uri: str, at_most: int | None = None) -> Checkpoint | None:
    """The newest checkpoint below `uri` (of a step of `at_most`) whose marker is there and whose files have the sizes that
    it lists. What is passed over is logged with the reason."""
    for folder in reversed(_folders(uri)):
        step = int(folder[-8:])
        if at_most is not None and step > at_most:
            continue
        try:
            found = _read(folder)
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            reason = "it has no marker" if isinstance(error, FileNotFoundError) else "its marker cannot be read"
            log.warning("checkpoint %s is passed over: %s", folder, reason)
            continue
        wrong = [name for name, (size, _) in found.files.items() if storage.size(storage.join(folder, name)) != size]
        if not wrong:
            return found
        log.warning("checkpoint %s is passed over: %s is not as long as its marker says", folder, wrong[0])
    return None


def at(folder: str) -> Checkpoint | None:
    """The checkpoint in `folder` (…/step_00000010); None when it has no marker."""
    return _read(folder) if storage.exists(storage.join(folder, MARKER)) else None


def load_newest(uri: str, state: dict[str, Tensor], at_most: int | None = None) -> Checkpoint | None:
    """Fill `state` as `load` does from the newest checkpoint that is complete and whose checksums are right; None without
    one. Call it on every rank: rank 0 says which is the newest, each checks a share of the files (on a remote storage it
    fetches these, which at an unchanged number of ranks are those with its own pieces) and reads its own ranges of the others."""
    rank, world = data_parallel.rank_world()
    device = _device(state)
    while True:
        newest = latest(uri, at_most) if rank == 0 else None
        step = int(data_parallel.sum_over_ranks([newest.step if newest else -1 if rank == 0 else 0], device)[0])
        if step < 0:
            return None
        found = newest or _read(_folder(uri, step))
        with Files(found.uri) as files:
            names, n = sorted(found.files), len(found.files)
            # about those with its pieces at any number of ranks
            mine = names[rank * n // world : (rank + 1) * n // world]
            wrong = [name for name in mine if files.checksum(name) != found.files[name]]
            if wrong:
                log.warning("checkpoint %s is passed over: %s has a wrong checksum", found.uri, wrong[0])
            if not data_parallel.sum_over_ranks([len(wrong)], device)[0]:
                _fill(found, files, state)
                return found
        at_most = step - 1


def load(checkpoint: Checkpoint, state: dict[str, Tensor]) -> None:
    """Fill the tensors of `state` in place from `checkpoint`, resharded to their layout; call it on every rank.

    Raises ValueError when the checkpoint lacks a tensor or has it in another shape.
    """
    with Files(checkpoint.uri) as files:
        _fill(checkpoint, files, state)


def shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The tensors of a checkpoint by name, from the headers of its files."""
    with Files(checkpoint.uri) as files:
        return {name: reader.shape(of) for name, of in reader.blocks(files, sorted(checkpoint.files)).items()}


def drop_after(uri: str, step: int) -> None:
    """Delete all checkpoints of later steps than `step`; call it on every rank."""
    if data_parallel.rank_world()[0] == 0:
        for folder in _folders(uri):
            if int(folder[-8:]) > step:
                storage.remove(folder)
    _barrier()


def clear(uri: str) -> None:
    """Delete all checkpoints below `uri`."""
    if data_parallel.rank_world()[0] == 0:
        storage.remove(uri)
    _barrier()


def _write_pieces(uri: str, owned: list[pieces.Piece]) -> tuple[int, int]:
    with storage.atomic(uri) as path:
        return pieces.write(path, owned)


def _publish(uri: str, step: int, meta: dict, files: dict[str, list[int]], keep: int) -> None:
    storage.write_json(storage.join(_folder(uri, step), MARKER), {"step": step, "files": files, "meta": meta})
    complete = [folder for folder in _folders(uri) if storage.exists(storage.join(folder, MARKER))]
    for folder in _folders(uri):
        if folder < complete[-keep:][0]:
            with contextlib.suppress(*storage.faults()):  # it is tried again after the next checkpoint
                storage.remove(folder)


def _fill(checkpoint: Checkpoint, files: Files, state: dict[str, Tensor]) -> None:
    saved = reader.blocks(files, sorted(checkpoint.files))
    for name, value in state.items():
        if name not in saved or reader.shape(saved[name]) != value.shape:
            found = f"shape {reader.shape(saved[name])}" if name in saved else "nothing"
            raise ValueError(
                f"{checkpoint.uri}: the run needs {name} of shape {tuple(value.shape)}, the checkpoint has {found}."
            )
    reader.fill(files, saved, state)


def _read(folder: str) -> Checkpoint:
    marker = storage.read_json(storage.join(folder, MARKER))
    files = {name: (int(size), int(crc)) for name, (size, crc) in marker["files"].items()}
    return Checkpoint(folder, marker["step"], marker["meta"], files)


def _folder(uri: str, step: int) -> str:
    return storage.join(uri, f"step_{step:08d}")


def _folders(uri: str) -> list[str]:
    """Folders of checkpoints, complete or not, oldest first."""
    return sorted({file.rsplit("/", 1)[0] for file in storage.glob(storage.join(uri, "step_" + "[0-9]" * 8, "*"))})


def _name(rank: int) -> str:
    return f"shard-{rank:05d}.safetensors"


def _device(state: dict[str, Tensor]) -> torch.device:
    return next(iter(state.values())).device


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
