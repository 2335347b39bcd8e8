"""A model's Hugging Face folder with rows for new tokens, written tensor by tensor; every old byte of its weights stays.

A new token's row is the mean of the rows of the old tokens that it is made of, in embedding and head. The head has no bias, so
by the mean alone a new token has, by Jensen's inequality, at most the mean probability of its pieces: nothing where text is in
another language, but a real share in its own. What a bias would take away is taken along the direction u of the hidden states
h that best has h . u = 1 (least squares over the model's own h on documents): row = mean - (ln k + c) u for a token of k pieces,
with a small c >= 0 that leaves all new rows together ln(1 + mass) <= LOSS nats. It is measured on other documents than u and c
were found on, and reported: it is by how much the log-probability of every old token falls before training. Where means alone
take no more than that, or the move makes it worse there (hidden states without a common direction), rows stay means.

The model reads these documents layer by layer, so memory holds one layer, and the embedding and head once.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from train import model
from train.bases import same_loss
from train.batches.decoder import CausalLM
from train.distributed import weights
from train.kernels import head

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
LOSS = 0.01  # nats that old tokens may lose to the new rows
SHIFTS = (
    0.0,
    0.5,
    1.0,
    2.0,
    4.0,
    8.0,
    16.0,
)  # of c, before it is refined; a mass that is too large for all is reported
CHUNK = 16_384  # rows of the head at a time
MULTIPLE = 64  # of rows, where the model has such a number


class Rows(NamedTuple):
    """The rows of new tokens, fp32, and what they cost the old ones."""

    rows_ND: dict[str, Tensor]  # by the name of the matrix
    shift: float | None  # c; None where rows are means
    lost: float | None  # nats, on documents that c was not found on
    lost_by_mean: float | None  # the same of means alone


def tensors(folder: str) -> dict[str, str]:
    """Of each tensor of a local folder the file. Raises ValueError for a folder that lacks what is grown."""
    index, single = Path(folder, weights.INDEX), Path(folder, weights.SINGLE)
    if index.exists():
        named = json.loads(index.read_text("utf-8"))["weight_map"]
    elif single.exists():
        with safe_open(single, "pt") as file:
            named = dict.fromkeys(file.keys(), weights.SINGLE)
    else:
        raise ValueError(f"{folder}: it has no model.safetensors; convert its weights")
    config = json.loads(Path(folder, "config.json").read_text("utf-8"))
    wanted = [EMBEDDING, *([] if config.get("tie_word_embeddings") else [HEAD])]
    for name in wanted:
        if name not in named:
            raise ValueError(f"{folder}: its weights have no {name}; only models of Llama's build can be grown")
        if not Path(folder, named[name]).exists():
            raise ValueError(f"{folder}: the file {named[name]} of its weights is not there; fetch the model again")
        with safe_open(Path(folder, named[name]), "pt") as file:
            if file.get_slice(name).get_dtype() not in DTYPES:
                raise ValueError(
                    f"{folder}: {name} is {file.get_slice(name).get_dtype()}; grow the weights before they are quantised"
                )
    return named


def rows_after(needed: int, rows: int) -> int:
    """How many rows the matrices get: as many as they have where that is enough, a multiple of 64 where they had one."""
    if needed <= rows:
        return rows
    return -(-needed // MULTIPLE) * MULTIPLE if rows % MULTIPLE == 0 else needed


def means(folder: str, name: str, made_of: Sequence[Sequence[int]]) -> Tensor:
    """The mean row of the pieces of each new token, fp32 [N, D]."""
    needed = sorted({i for ids in made_of for i in ids})
    place = {number: k for k, number in enumerate(needed)}
    with safe_open(Path(folder, tensors(folder)[name]), "pt") as file:
        matrix = file.get_slice(name)
        rows_KD = torch.cat([matrix[i : i + 1] for i in needed]).float()
    return torch.stack([rows_KD[[place[i] for i in ids]].mean(0) for ids in made_of])


@torch.no_grad()
def new_rows(folder: str, made_of: Sequence[Sequence[int]], ids_BT: Tensor | None) -> Rows:
    """The rows of new tokens. `ids_BT`: documents in old tokens, [B, T]; without them nothing is shifted or measured."""
    named = tensors(folder)
    tied = json.loads(Path(folder, "config.json").read_text("utf-8")).get("tie_word_embeddings", False)
    rows = {EMBEDDING: means(folder, EMBEDDING, made_of)}
    means_ND = rows[EMBEDDING] if tied else means(folder, HEAD, made_of)
    shift: float | None = None
    lost: float | None = None
    by_mean: float | None = None
    if ids_BT is not None:
        net, hidden_BTD = _hidden(folder, ids_BT)
        sides = [side.flatten(0, 1) for side in (hidden_BTD[::2], hidden_BTD[1::2] if len(ids_BT) > 1 else hidden_BTD)]
        cap, matrix = head.softcap(net), EMBEDDING if tied else HEAD
        sums = [_log_sums(folder, matrix, side, cap) for side in sides]
        along_D = _direction(sides[0])
        logs_N = torch.tensor([math.log(len(ids)) for ids in made_of])

        def loss(side: int, c: float | None) -> float:
            c_N = 0 * logs_N if c is None else logs_N + c
            logits_PN = head.capped(sides[side] @ means_ND.T - (sides[side] @ along_D)[:, None] * c_N, cap)
            return float(torch.nn.functional.softplus(logits_PN.logsumexp(1) - sums[side]).mean())

        shift = _least(lambda c: loss(0, c))
        lost, by_mean = loss(1, shift), loss(1, None)
        if not lost < by_mean:
            shift, lost = None, by_mean
        if shift is not None:
            means_ND = means_ND - (logs_N + shift)[:, None] * along_D
    if tied:
        rows[EMBEDDING] = means_ND
    if HEAD in named:
        rows[HEAD] = means_ND
    return Rows(rows, shift, lost, by_mean)


def _least(loss: Callable[[float | None], float]) -> float | None:
    """The least c with a loss of at most LOSS, None where means alone have it; without such a c the one with the least loss."""
    if loss(None) <= LOSS:
        return None
    losses: list[float] = []
    for i, c in enumerate(SHIFTS):
        losses.append(loss(c))
        if losses[-1] <= LOSS:
            low, high = SHIFTS[max(0, i - 1)], c
            while high - low > 0.01:
                middle = (low + high) / 2
                low, high = (low, middle) if loss(middle) <= LOSS else (middle, high)
            return high
    return SHIFTS[losses.index(min(losses))]


def write(folder: str, target: str, rows_ND: dict[str, Tensor], first: int) -> int:
    """Write weights and config of the local folder `folder` to `target`, with `rows_ND` from row `first` on; returns how many
    rows the matrices then have. Files without such a matrix are copied; shards stay as they are."""
    named, config = tensors(folder), json.loads(Path(folder, "config.json").read_text("utf-8"))
    rows = rows_after(first + len(rows_ND[EMBEDDING]), config["vocab_size"])
    added = 0
    for file in sorted(set(named.values())):
        here = {name: rows_ND[name] for name in rows_ND if named[name] == file}
        if here:
            added += _with_rows(Path(folder, file), Path(target, file), here, first, rows)
        else:
            shutil.copyfile(Path(folder, file), Path(target, file))
    index = Path(folder, weights.INDEX)
    if index.exists():
        values = json.loads(index.read_text("utf-8"))
        if "total_size" in values.get("metadata", {}):
            values["metadata"]["total_size"] += added
        values.get("metadata", {}).pop("total_parameters", None)
        Path(target, weights.INDEX).write_text(json.dumps(values, indent=2), "utf-8")
    Path(target, "config.json").write_text(json.dumps(config | {"vocab_size": rows}, indent=2), "utf-8")
    return rows


def _with_rows(source: Path, target: Path, rows_ND: dict[str, Tensor], first: int, rows: int) -> int:
    """Copy a safetensors file, with some matrices grown to `rows` rows; the bytes it gains."""
    with open(source, "rb") as read, open(target, "wb") as written:
        size = int.from_bytes(read.read(8), "little")
        header = json.loads(read.read(size))
        metadata = {"__metadata__": header.pop("__metadata__")} if "__metadata__" in header else {}
        order = sorted(header, key=lambda name: header[name]["data_offsets"])
        new: dict[str, dict] = {}
        at = 0
        for name in order:
            begin, end = header[name]["data_offsets"]
            shape = header[name]["shape"]
            if name in rows_ND:
                end, shape = begin + (end - begin) // shape[0] * rows, [rows, shape[1]]
            new[name] = {**header[name], "shape": shape, "data_offsets": [at, at + end - begin]}
            at += end - begin
        text = json.dumps(metadata | new).encode()
        text += b" " * (-len(text) % 8)
        written.write(len(text).to_bytes(8, "little") + text)
        gained = 0
        for name in order:
            begin, end = header[name]["data_offsets"]
            read.seek(8 + size + begin)
            if name not in rows_ND:
                _copy(read, written, end - begin)
                continue
            row, made = (end - begin) // header[name]["shape"][0], rows_ND[name].to(DTYPES[header[name]["dtype"]])
            last = first + len(made)
            _copy(read, written, first * row)
            written.write(_bytes(made))
            if last < header[name]["shape"][0]:  # rows that no token has
                read.seek(8 + size + begin + last * row)
                _copy(read, written, end - begin - last * row)
            else:
                written.write(_bytes(rows_ND[name].mean(0, keepdim=True).to(made.dtype)) * (rows - last))
            gained += rows * row - (end - begin)
    return gained


def _copy(read: BinaryIO, written: BinaryIO, size: int) -> None:
    while size > 0:
        chunk = read.read(min(size, 1 << 24))
        if not chunk:
            raise ValueError(f"{read.name}: it ends too early; fetch the model again")
        written.write(chunk)
        size -= len(chunk)


def _bytes(rows: Tensor) -> bytes:
    return rows.contiguous().view(torch.uint8).numpy().tobytes()


def _hidden(folder: str, ids_BT: Tensor) -> tuple[CausalLM, Tensor]:
    """The model without memory, and what its head reads at every position, fp32 [B, T, D]."""
    net = model.on_meta(folder)
    same_loss.of_kind(net.config)
    if weights.are_missing(net):
        parts: list[nn.Module] = [net.model.embed_tokens, *net.model.layers]
        streamed = {id(p) for part in parts for p in part.parameters()} | {id(net.lm_head.weight)}
        names = {id(module): name for name, module in net.named_modules()}
        for name, p in list(net.model.named_parameters(prefix="model")):
            if id(p) not in streamed:
                _set(net, name, weights.read(weights.file_of(net, name), name))

        def fill(part: nn.Module, _) -> None:
            for name in [name for name, _ in part.named_parameters(prefix=names[id(part)])]:
                _set(net, name, weights.read(weights.file_of(net, name), name))

        def empty(part: nn.Module, _, __) -> None:
            for name, p in list(part.named_parameters(prefix=names[id(part)])):
                _set(net, name, p.to("meta"))

        for part in parts:
            part.register_forward_pre_hook(fill)
            part.register_forward_hook(empty)
    hidden_BTD = net.model(input_ids=ids_BT, use_cache=False).last_hidden_state
    return net, head.scaled(net, hidden_BTD).float()


def _set(net: nn.Module, name: str, value: Tensor) -> None:
    module, _, own = name.rpartition(".")
    value = value.float() if value.is_floating_point() else value
    net.get_submodule(module)._parameters[own] = nn.Parameter(value, requires_grad=False)


def _log_sums(folder: str, matrix: str, hidden_PD: Tensor, cap: float | None) -> Tensor:
    """ln of the sum of exp of all old logits at each position."""
    found_P = torch.full((len(hidden_PD),), -math.inf)
    with safe_open(Path(folder, tensors(folder)[matrix]), "pt") as file:
        rows = file.get_slice(matrix)
        for start in range(0, rows.get_shape()[0], CHUNK):
            logits_PC = head.capped(hidden_PD @ rows[start : start + CHUNK].float().T, cap)
            found_P = torch.logaddexp(found_P, logits_PC.logsumexp(1))
    return found_P


def _direction(hidden_PD: Tensor) -> Tensor:
    """u with the least mean of (h . u - 1)^2, a little ridge, scaled so that the mean of h . u is 1."""
    h = hidden_PD.double()
    second_DD = h.T @ h / len(h)
    ridge_DD = 1e-3 * second_DD.trace() / len(second_DD) * torch.eye(len(second_DD), dtype=h.dtype)
    u_D = torch.linalg.solve(second_DD + ridge_DD, h.mean(0))
    return (u_D / (h.mean(0) @ u_D)).float()
