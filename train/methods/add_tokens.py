"""Rows for tokens that a base was never trained on: the mean of all others, so that a new token is neither likely nor a stranger.

With rows of zeros or noise a new token's logit is far from the others', and the first updates are spent on that (Hewitt 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.batches.decoder import CausalLM


@torch.no_grad()
def add_rows(model: CausalLM, tokens: list[int]) -> None:
    """Give embedding and head of `model`, in place, rows for `tokens`; the matrices grow where they have no such row yet.

    Many bases have rows behind their last token, which were never trained: those are written over. All logits of other tokens
    stay as they are.
    """
    embedding, head = model.model.embed_tokens, model.lm_head
    rows, tied = max(embedding.num_embeddings, max(tokens) + 1), head.weight is embedding.weight
    weight = _with(embedding.weight, rows, tokens)
    head.weight = weight if tied else _with(head.weight, rows, tokens)
    embedding.weight = weight
    embedding.num_embeddings = head.out_features = rows
    model.config.vocab_size = model.vocab_size = model.model.vocab_size = rows


def _with(weight_VD: Tensor, rows: int, tokens: list[int]) -> nn.Parameter:
    made_VD = weight_VD.new_zeros(rows, weight_VD.shape[1])
    made_VD[: len(weight_VD)] = weight_VD
    made_VD[tokens] = weight_VD[: min(tokens)].mean(0)
    return nn.Parameter(made_VD)
