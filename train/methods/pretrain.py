"""Pre-training: next-token cross-entropy on packed rows, loss at the end-of-document token included (Sailor2 §4.3).

loss = - sum over positions t of log p(token t + 1 | tokens of the same document up to t)
"""

from __future__ import annotations

from train.batches.decoder import CausalLM
from train.batches.labels import IGNORE
from train.batches.parts import Batch, LossParts, RowLosses
from train.kernels import head
from train.kernels.cross_entropy import chosen, cross_entropy_and_rows


def loss(model: CausalLM, batch: Batch, z_loss: float = 0.0, mask: str = "intra_document") -> LossParts:
    """Loss of {"input_ids", "labels" (shifted, -100 = none), "doc_ids", "position_ids"}, each [B, T].

    With "pool" [B], the losses of the rows are returned too. `z_loss` is the weight of the squared log-partition, which is
    then part of the loss and a metric of its own; `mask` is one of `train.kernels.attention.MASKS`."""
    hidden_BTD = model.model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        doc_ids=batch["doc_ids"],
        mask=mask,
        use_cache=False,
    ).last_hidden_state
    loss_sum, count, loss_B = cross_entropy_and_rows(
        head.scaled(model, hidden_BTD),
        model.lm_head.weight,
        batch["labels"],
        z_loss=z_loss,
        kernel=chosen(model),
        softcap=head.softcap(model),
    )
    metrics = {"z_loss": loss_sum.detach() - loss_B.sum()} if z_loss else {}
    rows = RowLosses(batch["pool"], loss_B, (batch["labels"] != IGNORE).sum(-1)) if "pool" in batch else None
    return LossParts(loss_sum, count, metrics, rows)
