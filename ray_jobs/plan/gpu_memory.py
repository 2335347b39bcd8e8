"""Memory of a GPU in pre-training, from the model's shape: what the dry run prints and the plan checks.

Bytes, of each worker:

    weights, gradients, Adam's two moments    4 each a parameter that is held, learns, learns (with 8-bit moments 1 each and
                                              their scales); divided by the workers under `parallel: fsdp`
    sums that wait (exact)                    4 a parameter that learns, for each open level of the tree
    gathered (fsdp)                           two layers in the precision of the products, the head whole in fp32 with it
    activations                               what the layers keep of `micro_rows` rows (train/kernels/layers.py), and, with
                                              checkpointing, all of the one layer that is computed again; both divided
                                              by `context_parallel` n, then with the keys and values of the other parts
                                              of the row, 2 K T (n - 1) / n numbers in each layer that keeps all
    head                                      a chunk of logits, its gradient, and the gradient of the head's matrix

An estimate of what is live at the end of a forward pass: fragments and the libraries' own buffers come on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import NamedTuple

import torch

from ray_jobs.config.given import given
from ray_jobs.config.training import Train
from train.distributed import exact
from train.kernels import adamw, cross_entropy, layers
from train.monitor import flops

GB = 1e9


class Memory(NamedTuple):
    """GB of a GPU: `state` is there always, `row` comes for each row of a micro-batch (its part of it), `rest` once."""

    state: dict[str, float]
    row: float
    rest: dict[str, float]


def of_worker(train: Train, shape: Mapping, vocab_size: int) -> Memory:
    """What one of `train.workers` needs for the model of `shape`, expanded if the recipe expands."""
    fsdp = train.parallel == "fsdp"
    ranks = train.workers if fsdp else 1
    number = 4 if train.precision == "fp32" else 2
    total, count = flops.parameters(shape, vocab_size), shape["num_hidden_layers"]
    layer = total - flops.parameters({**shape, "num_hidden_layers": count - 1}, vocab_size)
    grown = train.expand
    learning = grown.new_layers * layer if grown and grown.trainable == "new_blocks" else total
    head = shape["hidden_size"] * vocab_size
    config, mode = SimpleNamespace(**shape), train.activation_checkpointing
    kept = layers.kept_bytes_per_token(config, mode, number)
    again = layers.kept_bytes_per_token(config, "none", number) if mode != "none" else 0
    chunk = cross_entropy.default_chunk(torch.empty(vocab_size, 0, device="meta"))
    state = {
        "weights (fp32)": 4 * total / ranks,
        "gradients (fp32)": 4 * learning / ranks,
        f"Adam's moments ({train.optimiser_states})": adamw.STATES[train.optimiser_states] * learning / ranks,
    }
    if train.exact and train.pretrain:
        asked = train.pretrain.stage1.rows_per_step, train.pretrain.micro_rows
        waiting = max(exact.Sum(*asked, rank, train.workers).most_open for rank in range(train.workers))
        state["sums that wait (exact)"] = 4 * waiting * learning
    rest = {
        "gathered by FSDP": fsdp * (2 * number * layer + 4 * head),
        f"logits, chunks of {chunk}": chunk * vocab_size * (4 + 2 * number),
        "gradient of the head, and its cast": head * ((4 if fsdp else 0) + (2 if number == 2 else 0)),
    }
    n = train.context_parallel
    keys = shape["hidden_size"] // shape["num_attention_heads"] * shape["num_key_value_heads"]
    gathered = number * 2 * keys * train.context * (n - 1) / n * (count if mode == "none" else 1)
    row = train.context * (kept * count + again) / n + gathered
    return Memory({k: v / GB for k, v in state.items()}, row / GB, {k: v / GB for k, v in rest.items()})


def micro_rows(train: Train) -> tuple[str, int]:
    """The key that says how many rows a micro-batch has, and its value: of pre-training; of SFT where there is none."""
    if train.pretrain:
        return "train.pretrain.micro_rows", train.pretrain.micro_rows
    if train.sft:
        return "train.sft.stage1.optimiser.micro_rows", train.sft.stage1.optimiser.micro_rows
    optimiser = given(train.reward).optimiser
    return "train.reward.optimiser.micro_rows", optimiser.micro_rows if optimiser else 0


def table(train: Train, shape: Mapping, vocab_size: int) -> dict[str, float]:
    """The same by part for the rows of a micro-batch, and the sum `in all`."""
    found = of_worker(train, shape, vocab_size)
    activations = {f"activations ({train.activation_checkpointing})": micro_rows(train)[1] * found.row}
    made = found.state | activations | found.rest
    return made | {"in all": sum(made.values())}
