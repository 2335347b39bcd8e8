"""The small model that masks leave, cut out of a large one's files on the CPU, a tensor at a time.

What is folded into weights and what is only left out (D hidden width, N = query heads x head width, F FFN width; a mask z
acts behind the product, so also behind its bias):

    embedding              z_D on columns                    o_proj      z_D on rows, z_N on columns
    head that is its own   columns of z_D > 0                gate_proj   rows of z_F > 0, columns of z_D > 0
    norms of the stream    numbers of z_D > 0                up_proj     z_F on rows, columns of z_D > 0
    q_proj                 rows of z_N > 0, columns of D     down_proj   z_D on rows, columns of z_F > 0
    k_proj, v_proj         columns of z_D > 0                norms of queries and keys stay

So the host holds one tensor of the large model and what is left of it, whatever number of ranks has trained it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from cluster import storage
from train.bases import rope, shape
from train.batches.decoder import CausalLM
from train.checkpoint import checkpoint, reader
from train.checkpoint.checkpoint import Checkpoint
from train.distributed.weights import INDEX, SINGLE
from train.methods.prune_target import Target, head_width

FILE_BYTES = 5 << 30
WEIGHTS = "model/"  # before the names of weights in a checkpoint


@dataclass(frozen=True)
class Masks:
    """One mask value in [0, 1] for each unit: hidden_D, heads_LKG, ffn_LF."""

    hidden_D: Tensor
    heads_LKG: Tensor
    ffn_LF: Tensor

    def cpu(self) -> Masks:
        return Masks(self.hidden_D.cpu(), self.heads_LKG.cpu(), self.ffn_LF.cpu())


class Source(NamedTuple):
    """A large model in files: its config, the names of its weights, and what reads one of them in fp32."""

    config: PreTrainedConfig
    names: frozenset[str]
    read: Callable[[str], Tensor]


def config_at(folder: str) -> PreTrainedConfig:
    """The config of a Hugging Face folder (any URI), of which nothing else is fetched."""
    values = storage.read_json(storage.join(folder, "config.json"))
    return AutoConfig.for_model(values.pop("model_type"), **values)


def config_of(config: PreTrainedConfig, target: Target) -> PreTrainedConfig:
    """The config of the model that pruning one of `config` to `target` makes."""
    small = type(config).from_dict(config.to_dict())
    small.hidden_size, small.num_attention_heads = target.hidden_size, target.num_attention_heads
    small.intermediate_size = target.intermediate_size
    return small


def on_meta(config: PreTrainedConfig, target: Target) -> CausalLM:
    """The same as a model without memory."""
    return shape.on_meta(config_of(config, target))


def removed_share(config: PreTrainedConfig, target: Target) -> float:
    """The share of a model's parameters that pruning takes away; shared ones count once."""
    before, after = (
        sum(p.numel() for p in net.parameters()) for net in (shape.on_meta(config), on_meta(config, target))
    )
    return 1 - after / before


def save_weights(net: CausalLM, uri: str, step: int) -> None:
    """Write the weights of `net` as the checkpoint of `step` below `uri`, in the shards that they lie in and without an
    optimiser's state. Call it on every rank."""
    state = net.state_dict()  # not the parameters: where FSDP has gathered some, these are copies in another precision
    own = {f"{WEIGHTS}{name}": value for name, value in state.items() if name not in net.all_tied_weights_keys}
    checkpoint.save(uri, step, own, {"config": net.config.to_dict()})


@contextlib.contextmanager
def of_checkpoint(found: Checkpoint) -> Iterator[Source]:
    """The model of a training checkpoint, sharded over however many files; only ranges of these are read."""
    values = dict(found.meta["config"])
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    with reader.Files(found.uri) as files:
        blocks = reader.blocks(files, sorted(found.files))

        def read(name: str) -> Tensor:
            whole = torch.empty(reader.shape(blocks[WEIGHTS + name]))
            reader.fill(files, blocks, {WEIGHTS + name: whole})
            return whole

        names = frozenset(name.removeprefix(WEIGHTS) for name in blocks if name.startswith(WEIGHTS))
        yield Source(config, names, read)


@contextlib.contextmanager
def of_folder(folder: str) -> Iterator[Source]:
    """The model of a Hugging Face folder (any URI) with safetensors."""
    path = Path(storage.localize(folder))
    if (path / INDEX).exists():
        file_of = json.loads((path / INDEX).read_text())["weight_map"]
    else:
        with safe_open(path / SINGLE, "pt") as file:
            file_of = dict.fromkeys(file.keys(), SINGLE)

    def read(name: str) -> Tensor:
        with safe_open(path / file_of[name], "pt") as file:
            return file.get_tensor(name).float()

    yield Source(AutoConfig.from_pretrained(path), frozenset(file_of), read)


def slice_checkpoint(source: Source, masks: Masks, target: Target, folder: str, context: int) -> CausalLM:
    """Write the model that `masks` leave of `source` as the Hugging Face folder `folder` (URI), in fp32, with `context` as the
    trained length, and return it without memory. Raises ValueError where `source` lacks a weight."""
    small = on_meta(source.config, target)
    sizes = {name: p.shape for name, p in small.named_parameters()}
    if lacking := sorted(sizes.keys() - source.names):
        raise ValueError(f"the model to prune lacks {lacking[0]}; its kind is {source.config.model_type}")
    width = head_width(source.config)
    if rope.by_distance_alone(small.config):
        small.config.max_position_embeddings = context
    small.config.architectures, small.config.dtype = [type(small).__name__], torch.float32
    files = _files(sizes)
    with storage.atomic_folder(folder) as path:
        for number, names in enumerate(files, 1):
            file = SINGLE if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
            _write(
                Path(path, file),
                {name: sizes[name] for name in names},
                lambda name: sliced(name, source.read(name), masks, width),
            )
        if len(files) > 1:
            weight_map = {
                name: f"model-{number:05}-of-{len(files):05}.safetensors"
                for number, names in enumerate(files, 1)
                for name in names
            }
            total = 4 * sum(size.numel() for size in sizes.values())
            Path(path, INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
        small.config.save_pretrained(path)
        small.generation_config.save_pretrained(path)
    return small


def sliced(name: str, value: Tensor, masks: Masks, head_dim: int) -> Tensor:
    """What `masks` leave of the weight `name` of a causal LM: units whose mask is 0 removed, the masks of the others folded in
    as above."""
    for dim, axis in enumerate(_axes(name, masks, head_dim)[: value.ndim]):
        if axis is not None:
            kept = axis.mask.nonzero().squeeze(1)
            value = value.index_select(dim, kept)
            if axis.folded:
                factor = axis.mask[kept]  # into the copy that was just made
                value.mul_(factor[:, None] if dim == 0 and value.ndim > 1 else factor)
    return value


class _Axis(NamedTuple):
    mask: Tensor
    folded: bool


def _axes(name: str, masks: Masks, head_dim: int) -> tuple[_Axis | None, _Axis | None]:
    """What acts on the rows of a weight (or the numbers of a vector), and on its columns."""

    def kept(mask: Tensor) -> _Axis:
        return _Axis(mask, False)

    def folded(mask: Tensor) -> _Axis:
        return _Axis(mask, True)

    z_D = masks.hidden_D
    if not name.startswith("model.layers."):
        return {
            "model.embed_tokens.weight": (None, folded(z_D)),
            "lm_head.weight": (None, kept(z_D)),
            "model.norm.weight": (kept(z_D), None),
        }[name]
    _, _, layer, *_, module, _ = name.split(".")
    z_N = masks.heads_LKG[int(layer)].flatten().repeat_interleave(head_dim)
    z_F = masks.ffn_LF[int(layer)]
    axes: dict[str, tuple[_Axis | None, _Axis | None]] = {
        "input_layernorm": (kept(z_D), None),
        "post_attention_layernorm": (kept(z_D), None),
        "q_proj": (kept(z_N), kept(z_D)),
        "k_proj": (None, kept(z_D)),
        "v_proj": (None, kept(z_D)),
        "o_proj": (folded(z_D), folded(z_N)),
        "gate_proj": (kept(z_F), kept(z_D)),
        "up_proj": (folded(z_F), kept(z_D)),
        "down_proj": (folded(z_D), kept(z_F)),
    }
    return axes.get(module, (None, None))


def _files(sizes: dict[str, torch.Size]) -> list[list[str]]:
    """The names of each file, in order, at most `FILE_BYTES` of fp32 numbers unless one tensor is more."""
    files: list[list[str]] = [[]]
    room = FILE_BYTES
    for name, size in sizes.items():
        bytes_of = 4 * size.numel()
        if files[-1] and bytes_of > room:
            files.append([])
            room = FILE_BYTES
        files[-1].append(name)
        room -= bytes_of
    return files


def _write(path: Path, sizes: dict[str, torch.Size], made: Callable[[str], Tensor]) -> None:
    """One safetensors file of fp32 tensors, each made when it is written."""
    header: dict = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in sizes.items():
        begin, end = end, end + 4 * size.numel()
        header[name] = {"dtype": "F32", "shape": list(size), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, size in sizes.items():
            tensor = made(name)
            assert tensor.shape == size and tensor.dtype == torch.float32, name
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
            del tensor
