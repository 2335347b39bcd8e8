"""How near the sides of a pair are for a model of sentence embeddings: any encoder of Hugging Face, such as LaBSE or BGE-M3.

The embedding of a text is the mean of the last hidden states of its tokens, of length 1; the score of a pair is the cosine.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from cluster import storage
from cluster.shards import Kernel, ledger_rows
from curation import encoder
from curation.parallel.schema import named

STAGE = "parallel/align"
ROWS = 32  # of a pass
MOST_TOKENS = 512


class Encoder:
    """A model of `transformers` by name or folder, on a GPU where this process has one."""

    def __init__(self, model: str) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        folder = storage.localize(model) if "://" in model else model
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).to(self.device).eval()
        self.most = min(MOST_TOKENS, encoder.room(self.model.config, MOST_TOKENS))
        encoder.can_pad(self.tokenizer)

    def embeddings(self, texts: list[str]) -> np.ndarray:
        """float32 [N, D], each of length 1. Texts are read by length, so that a pass has little padding."""
        import torch

        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
        found: list[np.ndarray] = [np.zeros(0, np.float32)] * len(texts)
        for begin in range(0, len(order), ROWS):
            mine = order[begin : begin + ROWS]
            tokens = self.tokenizer(
                [texts[i] for i in mine], padding=True, truncation=True, max_length=self.most, return_tensors="pt"
            ).to(self.device)
            with torch.inference_mode():
                states_NTD = self.model(**tokens).last_hidden_state.float()
            mask_NT1 = tokens["attention_mask"].unsqueeze(-1)
            mean_ND = (states_NTD * mask_NT1).sum(1) / mask_NT1.sum(1).clamp(min=1)
            for i, row in zip(mine, torch.nn.functional.normalize(mean_ND, dim=-1).cpu().numpy(), strict=True):
                found[i] = row
        return np.stack(found)


def kernel(model: str, least: float) -> Kernel:
    """A kernel PAIR batch -> (pairs whose cosine is `least` or more, ledger). Rule `alignment`."""
    model_of = Encoder(model)

    def clean(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        if not batch.num_rows:
            return batch, ledger_rows(STAGE, [])
        a, b = (model_of.embeddings(batch[side].to_pylist()) for side in ("text_a", "text_b"))
        cosine = (a * b).sum(1)
        rows = [
            {**named(batch, i), "rule": "alignment", "value": float(cosine[i]), "threshold": least}
            for i in np.flatnonzero(cosine < least).tolist()
        ]
        return batch.filter(pa.array(cosine >= least)), ledger_rows(STAGE, rows)

    return clean
