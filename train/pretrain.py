"""Pre-training: next-token cross-entropy on packed rows, loss at the end-of-document token included (recipe §5.3).

loss = - sum over positions t of log p(token t + 1 | tokens of the same document up to t)
"""

from __future__ import annotations

from torch import nn

from train.loop import Batch, LossParts
from train.loss import linear_cross_entropy


def loss(model: nn.Module, batch: Batch) -> LossParts:
    """Loss of {"input_ids", "labels" (shifted, -100 = none), "doc_ids", "position_ids"}, each [B, T]."""
    hidden_BTD = model.model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        doc_ids=batch["doc_ids"],
        use_cache=False,
    ).last_hidden_state
    loss_sum, count = linear_cross_entropy(hidden_BTD, model.lm_head.weight, batch["labels"])
    return LossParts(loss_sum, count, {})
