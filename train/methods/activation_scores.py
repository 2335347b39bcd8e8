"""The cheap way to choose what pruning keeps: how much each unit is active on a little text (Minitron, arXiv 2407.14679).

    FFN unit       mean |what goes into down_proj|
    query head     mean L2 norm of what it gives to o_proj, compared within its KV group
    hidden unit    mean |output of an RMSNorm|, summed over all norms of the stream

over the positions of a language's rows; a score is the mean over languages of each one's mean, so every language has an equal
share whatever the mixture, and whatever number of rows it has. Only forward passes, no gradient and no optimiser.

Axes: B, T, D hidden width, L layer, K KV head, G query heads of a group, N head width, F FFN width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from train.batches.decoder import CausalLM, kv_heads, layers_of
from train.batches.parts import Batch, on_device
from train.methods.prune import check_layers
from train.methods.prune_target import Target, head_width
from train.methods.slices import Masks


@torch.no_grad()
def scores(
    model: CausalLM, text: Mapping[str, Iterable[Batch]], precision: str = "fp32", mask: str = "intra_document"
) -> Masks:
    """The score of each unit, fp32 on the model's device. `text`: of each language this rank's batches, at least one; ranks
    have equally many; read under `mask`. Under FSDP all ranks call it; the result is that of all ranks' rows."""
    check_layers(model)
    config = model.config
    layers, groups, heads = config.num_hidden_layers, kv_heads(config), config.num_attention_heads
    shapes = {
        "hidden": (config.hidden_size,),
        "heads": (layers, groups, heads // groups),
        "ffn": (layers, config.intermediate_size),
    }
    device = next(model.parameters()).device
    sums: dict[str, Tensor] = {}
    handles = _hooks(model, sums)
    total = {name: torch.zeros(shape, device=device, dtype=torch.float64) for name, shape in shapes.items()}
    try:
        for batches in text.values():
            sums |= {name: torch.zeros(shape, device=device, dtype=torch.float64) for name, shape in shapes.items()}
            positions = torch.zeros(1, device=device, dtype=torch.float64)
            for batch in batches:
                here = on_device(batch, device)
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    model.model(
                        input_ids=here["input_ids"],
                        position_ids=here["position_ids"],
                        doc_ids=here["doc_ids"],
                        mask=mask,
                        use_cache=False,
                    )
                positions += batch["input_ids"].numel()
            if dist.is_initialized():
                for value in (positions, *sums.values()):
                    dist.all_reduce(value)
            for name, value in sums.items():
                total[name] += value / positions / len(text)
    finally:
        for handle in handles:
            handle.remove()
    return Masks(*(value.float() for value in total.values()))


def kept(found: Masks, target: Target) -> Masks:
    """Masks of 0 and 1 that keep the units with the highest scores; of equal ones the first."""
    heads = target.num_attention_heads // found.heads_LKG.shape[1]
    return Masks(
        _highest(found.hidden_D, target.hidden_size),
        _highest(found.heads_LKG, heads),
        _highest(found.ffn_LF, target.intermediate_size),
    )


def _highest(score: Tensor, keep: int) -> Tensor:
    order = score.argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(score).scatter(-1, order[..., :keep], 1.0)


def _hooks(model: CausalLM, sums: dict[str, Tensor]) -> list:
    """Hooks that add what goes through `model` to `sums`, over all positions."""
    width, groups = head_width(model.config), kv_heads(model.config)

    def added(name: str, value: Tensor, layer: int | None = None) -> None:
        target = sums[name] if layer is None else sums[name][layer]
        target += value.sum(tuple(range(value.ndim - target.ndim)), dtype=torch.float64)

    def norm(module: nn.Module, args: tuple, output_BTD: Tensor) -> None:
        added("hidden", output_BTD.abs())

    def heads(layer: int) -> Callable:
        def hook(module: nn.Module, args: tuple) -> None:
            out_BTKGN = args[0].float().unflatten(-1, (groups, -1, width))
            added("heads", out_BTKGN.norm(dim=-1), layer)

        return hook

    def ffn(layer: int) -> Callable:
        def hook(module: nn.Module, args: tuple) -> None:
            added("ffn", args[0].abs(), layer)

        return hook

    handles = [model.model.norm.register_forward_hook(norm)]
    for i, layer in enumerate(layers_of(model)):
        handles += [
            layer.input_layernorm.register_forward_hook(norm),
            layer.post_attention_layernorm.register_forward_hook(norm),
            layer.self_attn.o_proj.register_forward_pre_hook(heads(i)),
            layer.mlp.down_proj.register_forward_pre_hook(ffn(i)),
        ]
    return handles
