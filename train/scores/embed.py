"""Embeddings of conversations, whose cosines say which are alike, and the perplexity that comes in the same pass.

By default the base model's last hidden states, averaged over a conversation. Raw hidden states of a language model all
point the same way (Ethayarajh 2019), so the mean of each language is taken off them (`centre`). Or any sentence-embedding
model of Hugging Face, pooled as its folder says (sentence-transformers' `1_Pooling/config.json`; the mean without it).

Axes: N examples, B row, T position, E embedding width.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file

from cluster import storage
from train.batches.decoder import CausalLM
from train.batches.examples import Example, collate, token_batches
from train.kernels import head
from train.scores.logprobs import hidden_states, sum_by_example

POOLINGS = {"pooling_mode_cls_token": "first", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "last"}
CENTRED_ROWS = 16_384  # at a time, of a file that may be larger than memory


@torch.no_grad()
def surprise(model: CausalLM, examples: list[Example], tokens_per_batch: int = 8192) -> tuple[np.ndarray, np.ndarray]:
    """(perplexity of the scored tokens, float64 [N]; mean of the last hidden states, float32 [N, E]), in one pass."""
    model.eval()
    device = next(model.parameters()).device
    nll_N = np.zeros(len(examples))
    pooled_NE = np.zeros((len(examples), model.config.hidden_size), np.float32)
    for indices in token_batches(examples, tokens_per_batch):
        batch = {k: v.to(device) for k, v in collate([[examples[i]] for i in indices]).items()}
        hidden_BTE = hidden_states(model, batch)
        logp_BT = head.token_logprobs(model, hidden_BTE, batch["labels"])
        nll_N[indices] = -sum_by_example(logp_BT, batch["doc_ids"], len(indices)).float().cpu().numpy()
        pooled_NE[indices] = _pool(hidden_BTE, batch["doc_ids"] < len(indices), "mean").cpu().numpy()
    return np.exp(nll_N / np.array([example.n_scored for example in examples], np.float64)), pooled_NE


def centre(embeddings_NE: np.ndarray, langs: list[str]) -> None:
    """Take the mean of each language off its rows, in place; the array may be memory-mapped."""
    langs_N = np.array(langs)
    for lang in np.unique(langs_N):
        rows = np.flatnonzero(langs_N == lang)
        parts = [rows[i : i + CENTRED_ROWS] for i in range(0, len(rows), CENTRED_ROWS)]
        mean_E = sum(embeddings_NE[part].sum(0, dtype=np.float64) for part in parts) / len(rows)
        for part in parts:
            embeddings_NE[part] = embeddings_NE[part] - mean_E


class SentenceModel:
    """A sentence-embedding model of a folder (any URI) or hub name; safetensors only, no code of the model's own."""

    def __init__(self, name: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        path = storage.localize(name) if storage.exists(name) else name
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        self.model = AutoModel.from_pretrained(path, dtype=dtype, use_safetensors=True, trust_remote_code=False)
        self.model.to(device).eval()
        self.pooling = _pooling_of(path)
        # A length is given twice, and either may be missing: the tokenizer then says 10^30.
        self.length = min(self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", 512))

    @torch.no_grad()
    def embed(self, conversations: list[list[dict]], tokens_per_batch: int = 8192) -> np.ndarray:
        """Embeddings float32 [N, E] of the turns' texts; of what is too long the first tokens are read."""
        texts = ["\n".join(turn["content"] for turn in turns) for turns in conversations]
        rows = self.tokenizer(texts, truncation=True, max_length=self.length)["input_ids"] if texts else []
        examples = [Example("", "", np.asarray(ids, np.int64), np.zeros(len(ids), bool)) for ids in rows]
        out_NE = np.zeros((len(texts), self.model.config.hidden_size), np.float32)
        device = next(self.model.parameters()).device
        for indices in token_batches(examples, tokens_per_batch):
            width = max(len(rows[i]) for i in indices)
            inside_BT = torch.tensor([[1] * len(rows[i]) + [0] * (width - len(rows[i])) for i in indices])
            input_ids_BT = torch.tensor([rows[i] + [0] * (width - len(rows[i])) for i in indices])
            inside_BT = inside_BT.to(device)
            hidden_BTE = self.model(input_ids=input_ids_BT.to(device), attention_mask=inside_BT).last_hidden_state
            out_NE[indices] = _pool(hidden_BTE, inside_BT > 0, self.pooling).cpu().numpy()
        return out_NE


def _pool(hidden_BTE: Tensor, inside_BT: Tensor, pooling: str) -> Tensor:
    """One vector [B, E] a row, in fp32, of the positions where `inside_BT`; these begin each row."""
    hidden_BTE = hidden_BTE.float()
    if pooling == "first":
        return hidden_BTE[:, 0]
    if pooling == "last":
        return hidden_BTE[torch.arange(len(hidden_BTE)), inside_BT.sum(1) - 1]
    inside_BT1 = inside_BT.unsqueeze(-1)
    return (hidden_BTE * inside_BT1).sum(1) / inside_BT1.sum(1)


def _pooling_of(path: str) -> str:
    """The model's own pooling. Raises ValueError for one that we do not have."""
    found = cached_file(path, "1_Pooling/config.json", _raise_exceptions_for_missing_entries=False)
    if found is None:
        return "mean"
    modes = [
        key for key, value in json.loads(Path(found).read_text()).items() if key.startswith("pooling_mode") and value
    ]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ValueError(f"{path} pools by {', '.join(modes)}; only one of {', '.join(POOLINGS)} is known.")
    return POOLINGS[modes[0]]
