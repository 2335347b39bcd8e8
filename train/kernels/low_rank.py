"""Low-rank updates of the linear layers of a decoder (LoRA, arXiv 2106.09685), merged into their weights at the end.

    y = x Wᵀ + b + (x Aᵀ) Bᵀ        A [r, in] and B [out, r] learn, W [out, in] and b stay

B A is added without a factor (alpha = r of other libraries). A begins uniform within ± 1 / sqrt(in), B as zeros, so the model
begins as its base. `merge` makes W + B A of each layer: the saved model has the shape and the size of the base.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import linear

from train.batches.decoder import CausalLM
from train.distributed import weights

A, B = "lora_A", "lora_B"


class LowRank(nn.Linear):
    """A linear layer with an update of low rank."""

    lora_A: nn.Parameter
    lora_B: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + linear(linear(x, self.lora_A), self.lora_B)

    def more_operations(self, flows: bool) -> float:
        """Of a position, in forward and backward passes, beside those of a frozen layer. `flows`: x has a gradient."""
        # the second product always has a gradient of its input, for the first
        return 2.0 * self.lora_A.numel() * (2 + flows) + 6.0 * self.lora_B.numel()


def attach(model: CausalLM, rank: int, vocabulary: bool = True, seed: int = 0) -> CausalLM:
    """Give each linear layer of the decoder layers an update of `rank` (at most what its sides allow), in place; all else is
    frozen, but with `vocabulary` embedding, head and norms, which learn whole. The same seed gives the same A.

    A model without memory may be one that waits for its weights (`weights.from_folder`)."""
    if rank < 1:
        raise ValueError(f"rank must be at least 1, not {rank}.")
    model.requires_grad_(False)
    if vocabulary:
        learn_vocabulary(model)
    for name, module in linear_layers(model):
        r, device = min(rank, *module.weight.shape), module.weight.device
        module.__class__ = LowRank
        for part, shape, make in (
            (A, (r, module.in_features), functools.partial(_uniform, key=f"{seed} {name}")),
            (B, (module.out_features, r), torch.zeros),
        ):
            value = torch.empty(shape, device="meta") if module.weight.is_meta else make(*shape).to(device)
            module.register_parameter(part, nn.Parameter(value))
            if weights.are_missing(model):
                weights.made_by(model, f"{name}.{part}", functools.partial(make, *shape))
    return model


@torch.no_grad()
def merge(model: CausalLM) -> None:
    """Add each update to its weight and take it away; sharded or not. Call it on every rank."""
    for _, module in linear_layers(model):
        if isinstance(module, LowRank):
            a_RI = module.lora_A.full_tensor() if isinstance(module.lora_A, DTensor) else module.lora_A
            # rows of W and of B lie on the same rank
            weights.own(module.weight).addmm_(weights.own(module.lora_B), a_RI)
            del module.lora_A, module.lora_B
            module.__class__ = nn.Linear  # type: ignore[assignment]  # what it was


def rank_of(shapes: dict[str, tuple[int, ...]]) -> int:
    """The rank of the updates among tensors of these names and shapes; 0 where there are none."""
    return max((shape[0] for name, shape in shapes.items() if name.endswith(f".{A}")), default=0)


def linear_layers(model: CausalLM) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers of all decoder layers by their names in the model, in order."""
    for name, module in model.model.layers.named_modules():
        if isinstance(module, nn.Linear):
            yield f"model.layers.{name}", module


def learn_vocabulary(model: CausalLM) -> None:
    """Let what is no linear layer of a decoder layer learn: the embedding, the head and the norms."""
    inside = {id(p) for _, module in linear_layers(model) for p in module.parameters()}
    for p in model.parameters():
        p.requires_grad_(p.requires_grad or id(p) not in inside)


def _uniform(rows: int, columns: int, key: str) -> Tensor:
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big"))
    return cast(Tensor, (2 * torch.rand(rows, columns, generator=generator) - 1) / columns**0.5)
