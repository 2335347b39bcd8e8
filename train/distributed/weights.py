"""A model's weights from its folder to where they are trained, read once for all ranks.

A model is made without memory (`without_memory`), placed or sharded, and then filled: rank 0 reads one tensor at a time and
broadcasts it from device to device, and each rank keeps its own shard. So host memory holds one tensor and the shards of ranks
that train on the CPU, where `transformers` puts the whole model into the memory of each rank.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

_FILES = "weights_to_read"  # attribute of a model: the file of each of its tensors, or what makes it
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """Parameters that are made here have no memory; buffers, which no file holds, are made as ever."""
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        register(self, name, param)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def from_folder(model: nn.Module, folder: str) -> bool:
    """Note that `model` is to be filled from a folder on this node's disk; False where that lacks a tensor by the name and shape
    of a parameter, and then nothing is noted."""
    index, single = Path(folder, INDEX), Path(folder, SINGLE)
    if index.exists():
        named = json.loads(index.read_text())["weight_map"]
    elif single.exists():
        with safe_open(single, "pt") as file:
            named = dict.fromkeys(file.keys(), SINGLE)
    else:
        return False
    files = {}
    for name, p in model.named_parameters():
        if name not in named:
            return False
        files[name] = str(Path(folder, named[name]))
        with safe_open(files[name], "pt") as file:
            if file.get_slice(name).get_shape() != list(p.shape):
                return False
    setattr(model, _FILES, files)
    return True


def are_missing(model: nn.Module) -> bool:
    return hasattr(model, _FILES)


def made_by(model: nn.Module, name: str, make: Callable[[], Tensor]) -> None:
    """Note that a parameter which the folder of a model of `from_folder` does not have is to be what `make` returns."""
    getattr(model, _FILES)[name] = make


def file_of(model: nn.Module, name: str) -> str:
    """Where a tensor of a model of `from_folder` lies."""
    return getattr(model, _FILES)[name]


def read(path: str, name: str) -> Tensor:
    """A tensor of a file, whole, on the CPU."""
    with safe_open(path, "pt") as file:
        return file.get_tensor(name)


@torch.no_grad()
def fill(model: nn.Module, device: torch.device) -> None:
    """Give a model of `from_folder`, sharded or not, its weights on `device`; another is left as it is. Call it on every rank."""
    if not are_missing(model):
        return
    files = getattr(model, _FILES)
    delattr(model, _FILES)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    tied = _tied(model)
    model.to_empty(device=device)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    for module, name, (owner, its) in tied:
        setattr(module, name, getattr(owner, its))
    rank = dist.get_rank() if dist.is_initialized() else 0
    for name, p in model.named_parameters():
        whole = torch.empty(p.shape, dtype=p.dtype, device=device)
        if rank == 0:
            made_from = files[name]
            whole.copy_(made_from() if callable(made_from) else read(made_from, name))
        if dist.is_initialized():
            dist.broadcast(whole, 0)
        own(p).copy_(_part(whole, p))


def _tied(model: nn.Module) -> list[tuple[nn.Module, str, tuple[nn.Module, str]]]:
    """Parameters that are another's: (module, name, (owner, its name)). To change their device makes two of them."""
    first: dict[int, tuple[nn.Module, str]] = {}
    found = []
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None and first.setdefault(id(p), (module, name)) != (module, name):
                found.append((module, name, first[id(p)]))
    return found


def own(p: Tensor) -> Tensor:
    """What this rank holds of a parameter."""
    return p.to_local() if isinstance(p, DTensor) else p


def _part(whole: Tensor, p: Tensor) -> Tensor:
    if not isinstance(p, DTensor):
        return whole
    shape, offset = compute_local_shape_and_global_offset(p.shape, p.device_mesh, p.placements)
    for dim, (size, start) in enumerate(zip(shape, offset, strict=True)):
        whole = whole.narrow(dim, start, size)
    return whole
