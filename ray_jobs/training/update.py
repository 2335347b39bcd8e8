"""What `train.pretrain.update` makes of a model before it is pre-trained, and of the trained one before it is saved."""

from __future__ import annotations

import copy

from ray_jobs.config.training import Update
from train.batches.decoder import CausalLM
from train.kernels import low_rank


def begin(net: CausalLM, own: Update, seed: int) -> None:
    """Let only what the rule says learn, in place."""
    if own.rule == "lora":
        low_rank.attach(net, own.rank, own.vocabulary, seed)


def sized(net: CausalLM, own: Update) -> CausalLM:
    """A model without memory as `begin` makes it: a copy, unless the rule changes nothing."""
    if own.rule == "all":
        return net
    changed = copy.deepcopy(net)
    begin(changed, own, seed=0)
    return changed


def finish(net: CausalLM) -> None:
    """Make the model that is saved, which has the shape of the base. Call it on every rank."""
    low_rank.merge(net)
