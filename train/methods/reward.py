"""A Bradley-Terry reward model on any base: its body, and one number read from the last token of a conversation.

loss = - log sigmoid( r(x, y_w) - r(x, y_l) )          (Bradley and Terry 1952; Ouyang et al. 2022, Eq. 1)

The model is Hugging Face's sequence classifier with one label, and what it reads is the chat template's rendering, to the
newline after the last `<|im_end|>`: a saved folder is used as published reward models are (`train/scores/reward_scores.py`).

Axes: B row, T position, D width; S example, P pair. A batch of pairs is [chosen; rejected], S = 2 P.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from train.batches.decoder import CausalLM, RewardModel
from train.batches.examples import Example, collate, in_epochs
from train.batches.parts import Batch, BatchFn, LossParts
from train.chat.conversations import encode_answers
from train.kernels import attention
from train.scores.logprobs import hidden_states


def build(base: CausalLM, pad_token_id: int, seed: int = 0) -> RewardModel:
    """A reward model with a copy of the body of `base` (a causal LM with the parts of Qwen2) and a fresh head.

    `train.model.save` writes it, with a tokenizer that has our chat template.

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


def rewards(model: RewardModel, batch: Batch) -> Tensor:
    """Reward [S] of each example: the head at its last position."""
    hidden_BTD = hidden_states(model, batch)
    return model.score(hidden_BTD.flatten(0, 1)[batch["last"]]).squeeze(-1).float()


def loss(model: RewardModel, batch: Batch) -> LossParts:
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


def encode(tokenizer: PreTrainedTokenizerBase, rows: list[dict], answers: list[str]) -> list[Example]:
    """One example a row {"id", "lang", "prompt"}: the whole conversation as the chat template renders it."""
    return encode_answers(tokenizer, rows, answers, newline=True)


def batch_fn(chosen: list[Example], rejected: list[Example], seed: int, packed: bool = False) -> BatchFn:
    """Pairs for the loop; `chosen[i]` and `rejected[i]` answer one prompt. `count` is the number of pairs.

    `packed` lays all examples of a micro-batch end to end in one row instead of padding each to the longest.
    """
    if not chosen:
        raise ValueError("There is no preference pair to train on.")

    def batch(numbers: list[int]) -> Batch:
        indices = [in_epochs(number, len(chosen), seed) for number in numbers]
        examples = [chosen[i] for i in indices] + [rejected[i] for i in indices]
        return {**whole(examples, packed), "count": torch.tensor(len(indices))}

    return batch


def whole(examples: list[Example], packed: bool = False) -> Batch:
    """Rows that have the last token as input too, where the reward is read: no label is needed after it.

    `last` [S]: where each example ends among the B T positions.
    """
    longer = [e._replace(ids=np.append(e.ids, 0), scored=np.append(e.scored, False)) for e in examples]
    batch = collate([longer] if packed else [[e] for e in longer])
    ends = np.array([len(e.ids) - 1 for e in examples])
    width = batch["input_ids"].shape[1]
    starts = np.cumsum(ends + 1) - (ends + 1) if packed else np.arange(len(ends)) * width
    return {**batch, "last": torch.from_numpy(starts + ends)}
