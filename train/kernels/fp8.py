"""Matrix products in 8-bit floats by torchao: `pip install 'pinisi[fp8]'`, a GPU of compute capability 8.9 or newer.

The linear layers of the decoder layers scale each of their inputs, weights and gradients to the range of float8 and multiply
there; weights stay in fp32, so what is saved is what it always is. The embedding and the head stay in bf16, as do products whose
sides are no multiples of 16, which the hardware has no kernels for. In narrow models the scaling costs more than the products
save, so these are refused.
"""

from __future__ import annotations

import torch
from torch import nn

from train.batches.decoder import CausalLM

LEAST_WIDTH = 3584
"""Of a model: that of 7 to 8 B parameters; torchao measures a gain from about K = N = 4096 on."""
SIDES = 16
"""What both sides of a product must be multiples of."""
CAPABILITY = (8, 9)


def require(width: int, device: torch.device | None = None) -> None:
    """Raises ValueError, in one sentence, where a model of this width cannot be trained in fp8; without `device` the GPU is
    left out."""
    try:
        import torchao.float8  # noqa: F401
    except ImportError:
        raise ValueError(
            "train.precision: fp8 needs the package torchao (pip install 'pinisi[fp8]'); it is not installed."
        ) from None
    if width < LEAST_WIDTH:
        raise ValueError(
            f"train.precision: fp8 is slower than bf16 for a model of width {width}; take bf16 below {LEAST_WIDTH}."
        )
    if device is None:
        return
    if device.type != "cuda":
        raise ValueError("train.precision: fp8 needs a GPU; on a CPU take bf16 or fp32.")
    if (has := torch.cuda.get_device_capability(device)) < CAPABILITY:
        name = torch.cuda.get_device_name(device)
        raise ValueError(
            f"train.precision: fp8 needs a GPU of compute capability 8.9 or newer, but {name} has {has[0]}.{has[1]}."
        )


def convert(model: CausalLM, device: torch.device) -> None:
    """Let the linear layers of all decoder layers multiply in fp8. Raises ValueError as `require` does."""
    require(model.config.hidden_size, device)
    from torchao.float8 import convert_to_float8_training

    for layer in model.model.layers:
        convert_to_float8_training(layer, module_filter_fn=_has_kernel)


def _has_kernel(module: nn.Module, name: str) -> bool:
    return isinstance(module, nn.Linear) and module.in_features % SIDES == 0 and module.out_features % SIDES == 0
