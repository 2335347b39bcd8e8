"""Training a draft: what it would propose at each position of the target's own answers, given what the target knew then.

    ce   - sum over t of log q(target's next token | x_1 .. x_t, keys before the block of t)
    kl   sum over t of KL(p || q)
    lk   sum over t of w KL(p || q) + (1 - w) (1 - sum_v min(p_v, q_v)),   w = exp(-3 sum_v min(p_v, q_v))

q is the draft, p the target, both over the draft's vocabulary. The answers are the target's own, greedily, so the next token of
the answer is its argmax. sum min(p, q) is how often sampling would accept; lk weighs it more the higher it is (the hybrid loss
of vLLM's speculators). Only answers count, and of them the tokens that the draft has.

Axes: B row, T position, N counted position, D width, V the draft's vocabulary.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.batches.decoder import CausalLM
from train.batches.examples import Example
from train.batches.labels import IGNORE
from train.batches.parts import Batch, BatchFn, LossFn, LossParts
from train.drafts import masks
from train.drafts.glide import Glide, Keys
from train.kernels import attention
from train.kernels.cross_entropy import linear_cross_entropy
from train.methods import sft

LOSSES = ("ce", "kl", "lk")
MOST_REPEATS = 8  # of an answer in an epoch, so that its language has its share
CHUNK = 512  # positions whose distributions exist at a time


class LastLayer:
    """A cache that keeps the keys of one layer only."""

    def __init__(self, layer: int) -> None:
        self.layer = layer
        self.keys: Keys | None = None

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        if layer == self.layer:
            self.keys = Keys(key, value)
        return key, value

    def get_seq_length(self, *_: object) -> int:
        return 0


@torch.no_grad()
def read(target: CausalLM, batch: Batch) -> tuple[Tensor, Keys]:
    """The target's last hidden states [B, T, D] and the keys of its last layer, for packed rows."""
    doc_ids_BT = batch["doc_ids"]
    batch_size, length = doc_ids_BT.shape
    whole = attention.intra_document(doc_ids_BT)
    made = {
        w: attention.dense_mask(
            whole if w is None else attention.windowed(whole, w), batch_size, length, doc_ids_BT.device
        )
        for w in attention.windows(target.config)
    }
    cache: Any = LastLayer(target.config.num_hidden_layers - 1)
    hidden_BTD = target.model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=next(iter(made.values())),
        document_masks=made,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return hidden_BTD, cache.keys


def hidden_states(draft: Glide, batch: Batch, keys: Keys, gamma: int) -> Tensor:
    """The draft's last hidden states [B, T, D] of packed rows, each position as if drafted in a block of `gamma`."""
    doc_ids_BT = batch["doc_ids"]
    batch_size, length = doc_ids_BT.shape
    within = attention.dense_mask(attention.intra_document(doc_ids_BT), batch_size, length, doc_ids_BT.device)
    seen = masks.blocks(doc_ids_BT, batch["position_ids"], batch["offset"], gamma)
    return draft(batch["input_ids"], batch["position_ids"], within, keys, seen)


def loss_fn(gamma: int, kind: str = "ce") -> LossFn[Glide]:
    """The loss for the loop, of batches of `batch_fn`. Metric: `agreed`, how often the draft's first choice is the token."""
    if kind not in LOSSES:
        raise ValueError(f"The loss of a draft must be one of {', '.join(LOSSES)}, not {kind!r}.")
    return functools.partial(_loss, gamma=gamma, kind=kind)


def _loss(draft: Glide, batch: Batch, gamma: int, kind: str) -> LossParts:
    target_BTD, keys = read(draft.target, batch)
    hidden_BTD, labels_BT = hidden_states(draft, batch, keys, gamma), batch["labels"]
    counted_BT = labels_BT != IGNORE
    hidden_ND, labels_N = hidden_BTD[counted_BT], labels_BT[counted_BT]
    if kind == "ce":
        total, _ = linear_cross_entropy(hidden_BTD, draft.head, labels_BT)
    else:
        target_ND, parts = target_BTD[counted_BT], []
        for start in range(0, len(hidden_ND), CHUNK):
            some = slice(start, start + CHUNK)
            p_NV = _logits(target_ND[some], draft.head).softmax(-1)
            logq_NV = _logits(hidden_ND[some], draft.head).log_softmax(-1)
            parts.append(_distance(p_NV, logq_NV, kind))
        total = torch.stack(parts).sum() if parts else hidden_ND.sum() * 0
    with torch.no_grad():
        chunks = [_logits(some, draft.head).argmax(-1) for some in hidden_ND.split(CHUNK)]
        agreed = (torch.cat(chunks) == labels_N).sum() if chunks else labels_N.sum()
    return LossParts(total, counted_BT.sum(), {"agreed": agreed})


def _logits(hidden_ND: Tensor, head_VD: Tensor) -> Tensor:
    logits_NV = hidden_ND @ head_VD.to(hidden_ND.dtype).T
    return logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))


def _distance(p_NV: Tensor, logq_NV: Tensor, kind: str) -> Tensor:
    kl_N = (torch.xlogy(p_NV, p_NV) - p_NV * logq_NV).sum(-1)
    if kind == "kl":
        return kl_N.sum()
    accepted_N = torch.minimum(p_NV, logq_NV.exp()).sum(-1)
    weight_N = torch.exp(-3 * accepted_N.detach())
    return (weight_N * kl_N + (1 - weight_N) * (1 - accepted_N)).sum()


def evened(examples: list[Example]) -> list[Example]:
    """Examples in which each language has about as many scored tokens: those of a smaller one come again, whole rounds of
    them first, `MOST_REPEATS` times at most."""
    scored = Counter[str]()
    for example in examples:
        scored[example.lang] += example.n_scored
    wanted, found = max(scored.values(), default=0), []
    for lang in sorted(scored):
        own = [example for example in examples if example.lang == lang]
        size, again = 0, 0
        while size < wanted and again < MOST_REPEATS * len(own):
            found.append(own[again % len(own)])
            size, again = size + found[-1].n_scored, again + 1
    return found


def batch_fn(
    examples: list[Example], length: int, seed: int, gamma: int, numbers_V: np.ndarray | None = None
) -> tuple[BatchFn, int]:
    """(rows of `length` positions for the loop, how many there are in an epoch). `numbers_V`: what each token is in the draft's
    vocabulary (`vocabulary.numbers`); a token that it has not is not counted. Blocks begin elsewhere each time."""
    rows = sft.pack([example.positions for example in examples], length)
    packed = sft.batch_fn(examples, rows, length, seed)

    def batch(numbers: list[int]) -> Batch:
        made = packed(numbers)
        if numbers_V is not None:
            labels = made["labels"].numpy()
            labels = np.where(labels == IGNORE, IGNORE, numbers_V[np.maximum(labels, 0)])
            made["labels"] = torch.from_numpy(np.where(labels < 0, IGNORE, labels))
        made["count"] = torch.tensor(int((made["labels"] != IGNORE).sum()))
        offsets = [int(np.random.default_rng((seed, number)).integers(gamma)) for number in numbers]
        return made | {"offset": torch.tensor(offsets)}

    return batch, len(rows)
