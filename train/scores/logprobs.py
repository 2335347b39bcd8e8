"""Log-probabilities of the scored tokens of examples, and perplexity.

log p(example) = sum over scored tokens of log p(token | tokens of the example before it)
perplexity     = exp(-log p / number of scored tokens)

Logits are never whole: the head is applied a chunk of positions at a time (`train/kernels/cross_entropy.py`).
Axes: B row, T position, D width, V vocabulary, S example of the batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from train.batches.decoder import CausalLM, Decoder
from train.batches.examples import Example, collate, token_batches
from train.batches.labels import IGNORE
from train.batches.parts import on_device
from train.kernels import head


def hidden_states(model: Decoder, batch: dict[str, Tensor]) -> Tensor:
    """The body's last hidden states [B, T, D] of a batch made by `collate` or by `collate_pairs`, where prompts are shared."""
    tokens = {name: batch[name] for name in ("input_ids", "position_ids", "doc_ids")}
    mask = "shared_prompt" if "example_ids" in batch else "intra_document"
    return model.model(**tokens, mask=mask, use_cache=False).last_hidden_state


def sum_by_example(values_BT: Tensor, example_ids_BT: Tensor, n_examples: int) -> Tensor:
    """Sums [S] of `values_BT` over the positions of each example; whatever lies on padding is left out."""
    sums = values_BT.new_zeros(n_examples + 1)
    return sums.index_add(0, example_ids_BT.flatten(), values_BT.flatten())[:n_examples]


def example_logprobs(model: CausalLM, batch: dict[str, Tensor], n_examples: int) -> Tensor:
    """log p [S] of the scored tokens of each example of a batch, fp32, differentiable. Packed and padded rows alike."""
    logp_BT = head.token_logprobs(model, hidden_states(model, batch), batch["labels"])
    return sum_by_example(logp_BT, batch.get("example_ids", batch["doc_ids"]), n_examples)


@torch.no_grad()
def logprobs(model: CausalLM, examples: list[Example], tokens_per_batch: int = 8192) -> np.ndarray:
    """log p of the scored tokens of every example, float32, in the order given; leaves the model in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    out = np.zeros(len(examples), np.float32)
    for indices in token_batches(examples, tokens_per_batch):
        batch = on_device(collate([[examples[i]] for i in indices]), device)
        out[indices] = example_logprobs(model, batch, len(indices)).float().cpu().numpy()
    return out


@torch.no_grad()
def token_logprobs(model: CausalLM, examples: list[Example], tokens_per_batch: int = 8192) -> list[np.ndarray]:
    """log p of each scored token of every example, float32 [n_scored] each; leaves the model in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    out: list[np.ndarray] = [np.empty(0, np.float32)] * len(examples)
    for indices in token_batches(examples, tokens_per_batch):
        batch = on_device(collate([[examples[i]] for i in indices]), device)
        logp_BT = head.token_logprobs(model, hidden_states(model, batch), batch["labels"])
        for i, logp_T, labels_T in zip(indices, logp_BT.float().cpu().numpy(), batch["labels"].cpu(), strict=True):
            out[i] = logp_T[labels_T.numpy() != IGNORE]
    return out


def perplexity(model: CausalLM, examples: list[Example], tokens_per_batch: int = 8192) -> np.ndarray:
    """Perplexity of the scored tokens of every example, float64; each example must have one at least."""
    n = np.array([example.n_scored for example in examples], np.float64)
    return np.exp(-logprobs(model, examples, tokens_per_batch) / n)
