"""How likely a model finds the two answers of a preference pair, together."""

from __future__ import annotations

import numpy as np
from transformers import PreTrainedTokenizerBase

from train.batches.decoder import CausalLM
from train.chat.conversations import encode_answers
from train.scores.logprobs import logprobs


def pair_perplexity(model: CausalLM, tokenizer: PreTrainedTokenizerBase, rows: list[dict]) -> np.ndarray:
    """Perplexity of each pair's two answers together, given the prompt: exp(-log p / tokens) over both, float64."""
    examples = [
        example
        for side in ("chosen", "rejected")
        for example in encode_answers(tokenizer, rows, [row[side] for row in rows], score_end=False)
    ]
    logp = logprobs(model, examples).astype(np.float64).reshape(2, -1).sum(0)
    return np.exp(-logp / np.array([e.n_scored for e in examples], np.float64).reshape(2, -1).sum(0))
