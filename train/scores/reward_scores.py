"""Rewards by any Hugging Face sequence classifier with one label, used as its authors use it.

A conversation goes through the chat template of the model's own tokenizer and through the model's own forward pass, which
reads the reward at the last token. Batches are padded on the right; the result is that of one conversation at a time
(`tests/equality/test_reward_equality.py`). Our own reward models (`train/methods/reward.py`) are saved in this form too.
"""

from __future__ import annotations

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from cluster import storage
from train.batches.decoder import RewardModel
from train.batches.examples import Example, token_batches
from train.chat.tokens import template_tokens


def load(
    name: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[RewardModel, PreTrainedTokenizerBase]:
    """The reward model of a folder (any URI) or hub name, and its tokenizer; safetensors only, no code of the model's own.

    Raises ValueError when there is none, when it has more than one label, or its tokenizer no chat template.
    """
    path = storage.localize(name) if storage.exists(name) else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        model = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except OSError as error:
        raise ValueError(f"{name}: no reward model in this folder, nor at Hugging Face by this name") from error
    if model.num_labels != 1:
        raise ValueError(f"{name} is not a reward model: it has {model.num_labels} labels instead of one.")
    if not tokenizer.chat_template:
        raise ValueError(f"{name}: its tokenizer has no chat template, so it does not say how it reads a conversation.")
    return model.to(device), tokenizer


@torch.no_grad()
def score(
    model: RewardModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[list[dict]],
    tokens_per_batch: int = 8192,
) -> np.ndarray:
    """Reward of every conversation (messages that end with an assistant turn), float32, in the order given.

    Of a conversation longer than the model's context the last tokens are read. The model is left in evaluation mode.
    """
    if not conversations:
        return np.zeros(0, np.float32)
    model.eval()
    device = next(model.parameters()).device
    rows = template_tokens(tokenizer, conversations)
    config = model.config.get_text_config()
    if (context := getattr(config, "max_position_embeddings", None)) is not None:
        rows = [ids[-context:] for ids in rows]
    padding = config.pad_token_id
    if padding is None:  # then any token will do that ends no row: the model reads the last one that is not padding
        ends = {ids[-1] for ids in rows}
        padding = next(i for i in range(len(ends) + 1) if i not in ends)
    examples = [Example("", "", np.asarray(ids), np.zeros(len(ids), bool)) for ids in rows]
    out = np.zeros(len(rows), np.float32)
    before, config.pad_token_id = config.pad_token_id, padding
    for indices in token_batches(examples, tokens_per_batch):
        width = max(len(rows[i]) for i in indices)
        input_ids = torch.tensor([rows[i] + [padding] * (width - len(rows[i])) for i in indices])
        mask = torch.tensor([[1] * len(rows[i]) + [0] * (width - len(rows[i])) for i in indices])
        logits = model(input_ids=input_ids.to(device), attention_mask=mask.to(device)).logits
        out[indices] = logits[:, 0].float().cpu().numpy()
    config.pad_token_id = before
    return out
