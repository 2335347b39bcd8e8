"""Learning from preference pairs by one of the losses of train/preference_losses, which are DPO and its kin.

The reference is the model that training starts from; its log-probabilities are computed once and cached. An on-policy round
samples from the model of the round before and takes that model as its reference: the reference is reset at the start of every
round, so beta holds each round to its own start, not to the SFT model.

Axes: B row, T position; P pairs. A batch has the examples [chosen; rejected], so 2 P of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from xxhash import xxh3_128

from cluster import storage
from train.batches.decoder import CausalLM
from train.batches.examples import Example, collate, in_epochs, within
from train.batches.parts import Batch, BatchFn, LossFn, LossParts
from train.chat.conversations import encode_answers
from train.distributed.data_parallel import rank_world
from train.methods.shared_prompts import collate_pairs, pair_logprobs
from train.preference_losses.answers import Answers
from train.preference_losses.table import LOSSES
from train.scores.logprobs import example_logprobs

PAIRS_PER_PART = 512  # of the cache of reference log-probabilities


@dataclass(frozen=True)
class Objective:
    """Which loss of `LOSSES`, and its numbers: `beta`, and `alpha` or `gamma` where it reads one. Sailor2's values: table 8."""

    loss: str = "lr_dpo"
    beta: float = 0.01
    alpha: float = 0.0
    gamma: float = 0.0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"The preference loss must be one of {', '.join(LOSSES)}, not {self.loss!r}.")
        if self.beta <= 0:
            raise ValueError(f"beta must be positive, not {self.beta}.")
        for name in ("alpha", "gamma"):
            if getattr(self, name) and name not in LOSSES[self.loss].numbers:
                raise ValueError(f"{name} has no effect on the loss {self.loss}; leave it out.")

    def __call__(self, chosen: Answers, rejected: Answers) -> Tensor:
        own = {name: getattr(self, name) for name in LOSSES[self.loss].numbers}
        return LOSSES[self.loss].load()(chosen, rejected, beta=self.beta, **own)


class Pairs(NamedTuple):
    """Tokenised pairs: `chosen[i]` and `rejected[i]` begin with the same prompt."""

    chosen: list[Example]
    rejected: list[Example]

    @property
    def examples(self) -> list[Example]:
        return [*self.chosen, *self.rejected]


def encode_pairs(tokenizer: PreTrainedTokenizerBase, rows: list[dict], length: int) -> tuple[Pairs, list[dict]]:
    """Rows {"id", "lang", "prompt", "chosen", "rejected"} as pairs whose sides both fit in `length` positions, and the
    ledger rows {doc_id, lang, rule, …} of the others. The end of an answer with "rejected_finished": False is not scored."""
    sides = [
        encode_answers(
            tokenizer, rows, [row[side] for row in rows], [row.get(f"{side}_finished", True) for row in rows]
        )
        for side in ("chosen", "rejected")
    ]
    rejects = {reject["doc_id"]: reject for side in sides for reject in within(side, length)[1]}
    chosen, rejected = ([example for example in side if example.id not in rejects] for side in sides)
    return Pairs(chosen, rejected), list(rejects.values())


def batch_fn(pairs: Pairs, reference: np.ndarray | None, seed: int, packed: bool = True) -> BatchFn:
    """Pairs for the loop. A row number is a pair; `count` is the number of pairs.

    `reference`: log-probabilities [2, pairs] as `reference_logprobs` gives them, None for a loss without. `packed` computes the
    prompt of a pair once (train/methods/shared_prompts.py); without it every side is a row, padded to the longest. The loss
    is the same.
    """
    if not pairs.chosen:
        raise ValueError("There is no preference pair to train on.")
    if reference is None:
        reference = np.zeros((2, len(pairs.chosen)), np.float32)

    def batch(numbers: list[int]) -> Batch:
        indices = [in_epochs(number, len(pairs.chosen), seed) for number in numbers]
        chosen, rejected = ([side[i] for i in indices] for side in pairs)
        rows = [[example] for example in chosen + rejected]
        return {
            **(collate_pairs(chosen, rejected) if packed else collate(rows)),
            "reference": torch.from_numpy(reference[:, indices]).flatten(),
            "length": torch.tensor([example.n_scored for (example,) in rows]),
            "count": torch.tensor(len(indices)),
        }

    return batch


def loss_fn(objective: Objective) -> LossFn:
    """The loss for the loop, summed over pairs. Metrics, as means over pairs: reward_margin beta (r_w - r_l), accuracy
    (share with r_w > r_l), and log-probability and length of either side."""

    def loss(model: CausalLM, batch: Batch) -> LossParts:
        sides = (example_logprobs(model, batch, len(batch["length"])), batch["reference"], batch["length"])
        chosen, rejected = (Answers(*side) for side in zip(*(values.chunk(2) for values in sides), strict=True))
        margin_P = chosen.ratio_P - rejected.ratio_P
        metrics = {
            "reward_margin": objective.beta * margin_P.sum(),
            "accuracy": (margin_P > 0).sum(),
            "chosen_logp": chosen.logp_P.sum(),
            "rejected_logp": rejected.logp_P.sum(),
            "chosen_length": chosen.length_P.sum(),
            "rejected_length": rejected.length_P.sum(),
        }
        return LossParts(objective(chosen, rejected).sum(), len(margin_P), metrics)

    return loss


def reference_logprobs(model: CausalLM, pairs: Pairs, folder: str, precision: str = "fp32") -> np.ndarray:
    """log pi_ref of every answer, float32 [2 (chosen, rejected), pairs], kept in `folder` (any URI).

    The cache's name is `reference_key`, so it can never belong to other weights, other data or another template. With
    torch.distributed every rank calls this with the whole model, computes its share of the parts and gets all of them; parts
    that are there are not computed again. `precision` is "fp32" or "bf16" (matrix products), best that of the training.
    """
    cache = storage.join(folder, f"reference_{reference_key(model, pairs, precision)}")
    rank, world = rank_world()
    parts = []
    for number, start in enumerate(range(0, len(pairs.chosen), PAIRS_PER_PART)):
        chosen, rejected = (side[start : start + PAIRS_PER_PART] for side in pairs)
        parts.append(storage.join(cache, f"part-{number:05d}.parquet"))
        if number % world == rank and not storage.exists(parts[-1]):
            device = next(model.parameters()).device
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                logp = pair_logprobs(model, chosen, rejected)
            ids = [example.id for example in chosen]
            storage.write_table(parts[-1], pa.table({"id": ids, "chosen": logp[0], "rejected": logp[1]}))
    if dist.is_initialized():
        dist.barrier()
    tables = [storage.read_table(part) for part in parts]
    return np.stack([np.concatenate([table[side].to_numpy() for table in tables]) for side in ("chosen", "rejected")])


def reference_key(model: CausalLM, pairs: Pairs, precision: str = "fp32") -> str:
    """Hash (32 hex) of all that reference log-probabilities depend on.

    Of the model its config, every weight, dtype, device and `precision`; of every pair the tokens and which are scored, and
    so the tokenizer, the template and the length limit.
    """
    config = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}
    key = xxh3_128(json.dumps([precision, config], sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        key.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.device.type}".encode())
        key.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    for example in pairs.examples:
        key.update(f"{example.id} {len(example.ids)}".encode())
        key.update(np.ascontiguousarray(example.ids).data)
        key.update(np.ascontiguousarray(example.scored).data)
    return key.hexdigest()
