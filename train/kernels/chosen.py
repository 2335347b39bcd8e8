"""Linear layers of which some rows or columns learn, as the units of a decoder that were chosen.

A unit is a column of the feed-forward's inner width (a row of gate and up, a column of down), a query head (rows of q, columns
of o) or a key/value head (rows of k and v). `attach` gives the chosen slices parameters of their own, so gradients, moments,
the clipped norm and weight decay are of them alone, and a backward pass has no products for the others. The layers multiply
with their whole weights, into which `write_back` puts the slices after each update.

Axes: N position of any row, O output, I input, K chosen output or input.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.nn.functional import linear

from train.batches.decoder import CausalLM, Layer, layers_of
from train.distributed import weights
from train.kernels.low_rank import learn_vocabulary

KINDS = ("units", "heads", "kv_heads")

Choice = list[dict[str, list[int]]]
"""Of each layer, of each kind: the numbers of the chosen units, rising."""


class Place(NamedTuple):
    """The slices of the units of one kind in one linear layer: `width` rows (axis 0) or columns (axis 1) each."""

    branch: str
    projection: str
    kind: str
    axis: int


PLACES = (
    Place("self_attn", "q_proj", "heads", 0),
    Place("self_attn", "k_proj", "kv_heads", 0),
    Place("self_attn", "v_proj", "kv_heads", 0),
    Place("self_attn", "o_proj", "heads", 1),
    Place("mlp", "gate_proj", "units", 0),
    Place("mlp", "up_proj", "units", 0),
    Place("mlp", "down_proj", "units", 1),
)


def counts(layer: Layer) -> dict[str, int]:
    """How many units of each kind a layer has. Raises ValueError for a layer that is not built of the seven projections."""
    try:
        attention, forward = layer.self_attn, layer.mlp
        width = attention.head_dim
        found = {
            "units": forward.up_proj.out_features,
            "heads": attention.o_proj.in_features // width,
            "kv_heads": attention.k_proj.out_features // width,
        }
        for branch, projection, kind, axis in PLACES:
            module = getattr(getattr(layer, branch), projection)
            assert module.weight.shape[axis] == found[kind] * (1 if kind == "units" else width)
    except (AttributeError, AssertionError):
        raise ValueError(
            f"contrast: {type(layer).__name__} has no units of its own (seven projections, heads of one width), so none can be "
            "chosen; take lora."
        ) from None
    return found


def even(model: CausalLM, share: float) -> Choice:
    """As many units in all as are chosen, spread evenly over the layers: for sizes, where nothing was measured."""
    of = [counts(layer) for layer in layers_of(model)]
    totals = {kind: number(sum(one[kind] for one in of), share) for kind in KINDS}
    return [
        {kind: list(range((i + 1) * n // len(of) - i * n // len(of))) for kind, n in totals.items()}
        for i in range(len(of))
    ]


def number(units: int, share: float) -> int:
    """How many of so many units are chosen."""
    return max(1, round(share * units))


class Chosen(nn.Linear):
    """A linear layer of which some rows or columns learn: `chosen`, and of rows `chosen_bias`. `index` [K]: which."""

    chosen: nn.Parameter
    chosen_bias: nn.Parameter | None
    index: Tensor
    axis: int

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if torch.is_autocast_enabled(x.device.type):  # a function of one's own is not seen by it
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        return _Product.apply(x, weight, bias, self.chosen, self.chosen_bias, self.index, self.axis)

    def more_operations(self, flows: bool) -> float:
        """Of a position, in forward and backward passes, beside those of a frozen layer."""
        return 2.0 * self.chosen.numel()


class _Product(torch.autograd.Function):
    """x Wᵀ + b with gradients for x, b and what is chosen of W and b."""

    @staticmethod
    def forward(ctx, x, weight_OI, bias_O, *rest) -> Tensor:  # chosen, chosen_bias_K, index_K, axis
        *_, index_K, axis = rest
        ctx.save_for_backward(x, weight_OI, index_K)
        ctx.axis = axis
        return linear(x, weight_OI, bias_O)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        x, weight_OI, index_K = ctx.saved_tensors
        grad_NO = grad.flatten(0, -2)
        need_x, _, need_bias, need_chosen, need_chosen_bias, *_ = ctx.needs_input_grad
        grad_x = (grad_NO @ weight_OI).view_as(x) if need_x else None
        grad_bias_O = grad_NO.sum(0) if need_bias else None
        rows = grad_NO.index_select(1, index_K) if ctx.axis == 0 and (need_chosen or need_chosen_bias) else grad_NO
        grad_chosen = None
        if need_chosen:
            x_NI = x.flatten(0, -2)
            grad_chosen = rows.t() @ (x_NI if ctx.axis == 0 else x_NI.index_select(1, index_K))
        return grad_x, None, grad_bias_O, grad_chosen, rows.sum(0) if need_chosen_bias else None, None, None


def attach(model: CausalLM, choice: Choice, vocabulary: bool = False) -> CausalLM:
    """Let only what `choice` names of each layer learn, in place, and with `vocabulary` all that is no weight of a unit too:
    embedding, head, norms, biases of outputs.

    A model without memory may be one that waits for its weights (`weights.from_folder`)."""
    model.requires_grad_(False)
    if vocabulary:
        learn_vocabulary(model)
    for number, (layer, units) in enumerate(zip(layers_of(model), choice, strict=True)):
        counts(layer)
        for branch, projection, kind, axis in PLACES:
            module = getattr(getattr(layer, branch), projection)
            if module.bias is not None and axis == 1:
                module.bias.requires_grad_(vocabulary)
            if not units[kind]:
                continue
            index_K = _index(units[kind], 1 if kind == "units" else layer.self_attn.head_dim)
            module.__class__ = Chosen
            module.axis = axis
            module.register_buffer("index", index_K.to(_device(module)), persistent=False)
            name = f"model.layers.{number}.{branch}.{projection}"
            _slice(model, f"{name}.weight", f"{name}.chosen", index_K, axis)
            if module.bias is not None and axis == 0:
                _slice(model, f"{name}.bias", f"{name}.chosen_bias", index_K, 0)
            else:
                module.register_parameter("chosen_bias", None)
    return model


def _slice(model: CausalLM, of: str, part: str, index_K: Tensor, axis: int) -> None:
    """Make the parameter `part` of slices of the parameter `of`."""
    whole = model.get_parameter(of).detach()
    value = whole.index_select(axis, index_K.to(whole.device)).clone()
    module, _, name = part.rpartition(".")
    model.get_submodule(module).register_parameter(name, nn.Parameter(value))
    if weights.are_missing(model):
        make = functools.partial(_read_slice, weights.file_of(model, of), of, index_K, axis)
        weights.made_by(model, part, make)


def _read_slice(file: str, name: str, index_K: Tensor, axis: int) -> Tensor:
    return weights.read(file, name).index_select(axis, index_K)


def _device(module: nn.Linear) -> torch.device:
    return torch.device("cpu") if module.weight.is_meta else module.weight.device


def _index(units: Sequence[int], width: int) -> Tensor:
    return (torch.tensor(units)[:, None] * width + torch.arange(width)).flatten()


@torch.no_grad()
def write_back(model: CausalLM) -> None:
    """Put the chosen slices into the weights that they are of; sharded or not. Call it on every rank, after each update."""
    for module in _chosen(model):
        _write(module.weight, module.chosen, module.index, module.axis)
        if module.chosen_bias is not None:
            assert module.bias is not None
            _write(module.bias, module.chosen_bias, module.index, 0)


def _write(whole: Tensor, part: Tensor, index_K: Tensor, axis: int) -> None:
    if not isinstance(whole, DTensor):
        whole.index_copy_(axis, index_K, part)
    elif axis == 1:  # both are cut alike
        whole.to_local().index_copy_(1, index_K, cast(DTensor, part).to_local())
    else:
        local, rows = whole.to_local(), cast(DTensor, part).full_tensor()
        _, (first, *_) = compute_local_shape_and_global_offset(whole.shape, whole.device_mesh, whole.placements)
        here_K = (index_K >= first) & (index_K < first + len(local))
        local.index_copy_(0, index_K[here_K] - first, rows[here_K])


def finish(model: CausalLM) -> None:
    """Take the parameters of the slices away; their values are in the weights."""
    write_back(model)
    for module in _chosen(model):
        del module.chosen, module.chosen_bias, module.index, module.axis
        module.__class__ = nn.Linear  # type: ignore[assignment]  # what it was


def _chosen(model: CausalLM) -> Iterator[Chosen]:
    return (module for module in model.modules() if isinstance(module, Chosen))
