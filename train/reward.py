"""A Bradley-Terry reward model on any base: its body, and one number read from the last token of a conversation.

loss = - log sigmoid( r(x, y_w) - r(x, y_l) )          (Bradley and Terry 1952; Ouyang et al. 2022, Eq. 1)

The model is Hugging Face's sequence classifier with one label, so `AutoModelForSequenceClassification` opens a saved
folder, and reward models published in that form are scored by the same function. The last token is `<|im_end|>`.

Axes: B sequence, T position, D width; P pairs. A batch of pairs is [chosen; rejected], B = 2 P.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from cluster import storage
from train import attention
from train.chat import encode_answers
from train.examples import Example, collate, in_epochs, token_batches
from train.logprobs import hidden_states
from train.loop import Batch, BatchFn, LossParts


def build(base: nn.Module, pad_token_id: int, seed: int = 0) -> nn.Module:
    """A reward model with a copy of the body of `base` (a causal LM with the parts of Qwen2) and a fresh head.

    `train.model.save` writes it, `load` reads it.

    `pad_token_id` goes into the config: Hugging Face's own forward needs it to find the last token of a padded row, so
    it must not be `<|im_end|>`.
    """
    config = type(base.config).from_dict(base.config.to_dict())
    config.num_labels, config.pad_token_id = 1, pad_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention.NAME).float()
        # As small as in TRL and InstructGPT: rewards start near 0 and their differences too, so the loss at ln 2.
        nn.init.normal_(model.score.weight, std=(config.hidden_size + 1) ** -0.5)
    model.model.load_state_dict(base.model.state_dict())
    attention.attach(model)
    return model


def load(folder: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The reward model of a folder (any URI) or hub name: a sequence classifier with one label, safetensors only."""
    path = storage.localize(folder) if storage.exists(folder) else folder
    model = AutoModelForSequenceClassification.from_pretrained(
        path, dtype=dtype, attn_implementation=attention.NAME, use_safetensors=True, trust_remote_code=False
    )
    if model.num_labels != 1:
        raise ValueError(f"{folder} is not a reward model: it has {model.num_labels} labels instead of one.")
    attention.attach(model)
    return model


def rewards(model: nn.Module, batch: Batch) -> Tensor:
    """Reward [B] of each row (one example a row): the head at its last position."""
    hidden_BTD = hidden_states(model, batch)
    rows_B = torch.arange(len(hidden_BTD), device=hidden_BTD.device)
    return model.score(hidden_BTD[rows_B, batch["last"]]).squeeze(-1).float()


def loss(model: nn.Module, batch: Batch) -> LossParts:
    """Bradley-Terry loss over the pairs of a batch. Metrics: accuracy, margin, and the mean reward of either side."""
    chosen_P, rejected_P = rewards(model, batch).chunk(2)
    margin_P = chosen_P - rejected_P
    metrics = {
        "accuracy": (margin_P > 0).sum(),
        "margin": margin_P.sum(),
        "chosen_reward": chosen_P.sum(),
        "rejected_reward": rejected_P.sum(),
    }
    return LossParts(-logsigmoid(margin_P).sum(), len(margin_P), metrics)


def batch_fn(chosen: list[Example], rejected: list[Example], seed: int) -> BatchFn:
    """Pairs for the loop, padded; `chosen[i]` and `rejected[i]` answer one prompt. `count` is the number of pairs."""
    if not chosen:
        raise ValueError("There is no preference pair to train on.")

    def batch(numbers: list[int]) -> Batch:
        indices = [in_epochs(number, len(chosen), seed) for number in numbers]
        examples = [chosen[i] for i in indices] + [rejected[i] for i in indices]
        return {**_whole(examples), "count": torch.tensor(len(indices))}

    return batch


def _whole(examples: list[Example]) -> Batch:
    """Padded rows that have the last token as input too: a reward is read at the end, no label is needed after it."""
    rows = [[e._replace(ids=np.append(e.ids, 0), scored=np.append(e.scored, False))] for e in examples]
    return {**collate(rows), "last": torch.tensor([len(e.ids) - 1 for e in examples])}


@torch.no_grad()
def score(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[list[dict]],
    max_tokens: int = 4096,
    tokens_per_batch: int = 8192,
) -> np.ndarray:
    """Reward of every conversation (messages that end with an assistant turn), float32, in the order given.

    Of a conversation over `max_tokens` the last ones are read. The model is left in evaluation mode.
    """
    model.eval()
    device = next(model.parameters()).device
    rows = [{"id": str(i), "lang": "", "prompt": turns[:-1]} for i, turns in enumerate(conversations)]
    examples = [
        e._replace(ids=e.ids[-max_tokens:], scored=e.scored[-max_tokens:])
        for e in encode_answers(tokenizer, rows, [turns[-1]["content"] for turns in conversations])
    ]
    out = np.zeros(len(examples), np.float32)
    for indices in token_batches(examples, tokens_per_batch):
        batch = {name: value.to(device) for name, value in _whole([examples[i] for i in indices]).items()}
        out[indices] = rewards(model, batch).cpu().numpy()
    return out


def accuracy(chosen_rewards: np.ndarray, rejected_rewards: np.ndarray) -> float:
    """Share of pairs whose chosen answer has the higher reward; a tie is half a hit."""
    return float(np.mean((chosen_rewards > rejected_rewards) + 0.5 * (chosen_rewards == rejected_rewards)))
