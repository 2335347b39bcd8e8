"""What torch itself counts of the operations of a training step."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from train.methods import pretrain


def batch(rows: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 64, (rows, length), generator=torch.Generator().manual_seed(0))
    position_ids = torch.arange(length).expand(rows, length)
    return {"input_ids": ids, "labels": ids, "doc_ids": torch.zeros_like(ids), "position_ids": position_ids}


def attention(q_shape, k_shape, *_, out_shape=None, **__) -> int:
    """Two products of every query with every key; the mask is not looked at."""
    rows, heads, length, width = q_shape
    return 4 * rows * heads * length * length * width


# torch counts neither products that are added in place nor attention on CPU. Its backward pass has four products (and one
# computed again, which is not the model's own).
MORE = {
    torch.ops.aten.addmm_: lambda c, a, b, *_, **__: 2 * a[0] * a[1] * b[1],
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda d, *q, **k: 2 * attention(*q, **k),
}


def counted(net, rows: int, length: int) -> int:
    """What torch's own counter sees in a forward and backward pass."""
    with FlopCounterMode(display=False, custom_mapping=MORE) as counter:
        pretrain.loss(net, batch(rows, length)).loss_sum.backward()
    return counter.get_total_flops()
