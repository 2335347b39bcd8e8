"""Memory of a GPU in each training stage: what the dry run prints and the plan checks.

Bytes, of each worker:

    weights, gradients, Adam's two moments    4 each a parameter that is held, learns, learns (with 8-bit moments 1 each and
                                              their scales); divided by the workers under `parallel: fsdp`
    sums that wait (exact)                    4 a parameter that learns, for each open level of the tree
    teacher (pruning)                         its weights in the precision of the products, divided by the workers too
    model (draft)                             the same, whole on each worker as the draft is, whose head is a copy in fp32
    gathered (fsdp)                           two layers and the head in the precision of the products, of a teacher also its
                                              embedding
    activations, and the rest                 the peak of a forward and backward pass of a micro-batch, counted on the real
                                              modules without memory (ray_jobs/plan/traced.py); with `context_parallel` n that of
                                              a part, and the keys and values of the other parts, 2 K T (n - 1) / n numbers
                                              in each layer that keeps all

Beside it a host holds copies of what checkpoints write, in buffers whose sizes are powers of two, and reads models.
What the libraries take for themselves, and fragments, come on top.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe
from ray_jobs.config.training import Train
from ray_jobs.plan import traced
from ray_jobs.plan.model import Model, context_of_pruning, drafted, learning, model, students, teacher
from ray_jobs.run.graph import BASE, CONTROL_1, DRAFT, LONG_CONTEXT, OFF_POLICY, PRETRAIN_1, PRUNE, REWARD, SFT_1
from ray_jobs.run.graph import rounds as rounds_of
from train.distributed import exact
from train.drafts import eagle3
from train.kernels import adamw, cross_entropy
from train.methods.prune_target import Target

GB = 1e9
READ_TOKENS = (
    65_536  # of a batch that a model only reads, or of the answers that it writes together (ray_jobs/work/device.py)
)


class Memory(NamedTuple):
    """GB of a GPU: `state` is there always, `row` comes for each row of a micro-batch (its part of it), `rest` once."""

    state: dict[str, float]
    row: float
    rest: dict[str, float]

    def total(self, rows: int) -> float:
        return sum(self.state.values()) + rows * self.row + sum(self.rest.values())


class Work(NamedTuple):
    """The model that a stage trains, and its micro-batch: `rows` of `length` positions, a number that `key` gives."""

    stage: str
    model: Model
    key: str
    rows: int
    length: int
    what: traced.What = "packed"
    target: Target | None = None
    per_row: int = 1  # rows of a number in the recipe: two of a pair
    update: tuple[int, int] = (0, 0)  # rows of an update, and of a micro-batch
    parts: int = 1  # of a row, by context parallelism
    teacher: Model | None = None  # that is only read
    whole: bool = False  # on each worker, whatever `train.parallel` says: a draft, and the model that it is for


def works(recipe: Recipe) -> list[Work]:
    """Of each kind of training that the recipe asks for, in the order of the stages; of stages that need the same the first, but
    every round of preference tuning."""
    train, (base, grown) = given(recipe.train), model(recipe)
    context, found = train.context, []

    def add(stage: str, of: Model, key: str, own, factor: int = 1, **more) -> None:
        parts = more.get("parts", train.context_parallel)
        most = math.ceil(own.rows_per_step * parts / train.workers)
        micro = train.pretrain.micro_rows if key == "train.pretrain" and train.pretrain else own.micro_rows
        rows = factor * min(micro, most)
        found.append(
            Work(
                stage,
                of,
                f"{key}.micro_rows",
                rows,
                **{"length": context, "parts": parts} | more,
                per_row=factor,
                update=(own.rows_per_step, micro),
            )
        )

    if train.base.optimiser and train.base.shape:
        add(BASE, base, "train.base.optimiser", train.base.optimiser)
    if train.pretrain:
        widest = max(train.pretrain.stage1, train.pretrain.stage2, key=lambda stage: stage.rows_per_step)
        add(PRETRAIN_1, learning(recipe), "train.pretrain", widest)
        if train.pretrain.update.rule == "contrast" and train.pretrain.update.probe_updates:
            add(f"{PRETRAIN_1}/probe", grown, "train.pretrain", widest)  # the whole base learns, a row at a time
            found[-1] = found[-1]._replace(rows=1)
        if train.pretrain.control:
            add(CONTROL_1, base, "train.pretrain", widest)
    if long := train.long_context:
        key = "train.long_context.optimiser"
        add(LONG_CONTEXT, grown, key, long.optimiser, length=long.context, parts=long.context_parallel)
    if train.reward and train.reward.optimiser and not train.reward.model:
        add(REWARD, grown, "train.reward.optimiser", train.reward.optimiser, 2, what="reward")
    if train.sft:
        add(SFT_1, grown, "train.sft.stage1.optimiser", train.sft.stage1.optimiser)
        if (
            train.reward
            and train.sft.stage2
            and train.sft.stage2.optimiser.micro_rows > train.sft.stage1.optimiser.micro_rows
        ):
            add("sft/stage2", grown, "train.sft.stage2.optimiser", train.sft.stage2.optimiser)
    if train.dpo:  # both sides of the longest pairs, at most a context each
        for stage in (OFF_POLICY, *rounds_of(recipe)):
            add(stage, grown, "train.dpo.optimiser", train.dpo.optimiser, 2, what="pairs")
    if train.draft:
        add(DRAFT, drafted(recipe), "train.draft.optimiser", train.draft.optimiser, teacher=grown, whole=True, parts=1)
    if train.prune:
        own, key, rows = train.prune, "train.prune.optimiser", {"length": context_of_pruning(train), "parts": 1}
        if own.method == "masks":
            name = "train.prune.mask_optimiser" if own.mask_optimiser else key
            add(
                f"{PRUNE}/masks",
                grown,
                name,
                own.mask_optimiser or own.optimiser,
                what="masks",
                target=own.target,
                **rows,
            )
        else:
            add(f"{PRUNE}/activations", dataclasses.replace(grown, learning=0), key, own.optimiser, what="read", **rows)
        smaller, taught = students(recipe), teacher(recipe)
        if own.rounds > 1:  # the largest student
            add(f"{PRUNE}/round 1", smaller[0], key, own.optimiser, teacher=taught, **rows)
        add(f"{PRUNE}/heal", smaller[-1], key, own.optimiser, teacher=taught, **rows)
    return found


def main(found: list[Work]) -> Work:
    """The work that a table is shown of: pre-training, else SFT, else what there is."""
    order = (PRETRAIN_1, SFT_1, *(work.stage for work in found))
    return min(found, key=lambda work: order.index(work.stage))


def of_worker(train: Train, work: Work) -> Memory:
    """What one of `train.workers` needs for `work`."""
    fsdp = train.parallel == "fsdp" and not work.whole
    ranks = (train.shard_within or train.workers) if fsdp else 1
    checkpointing = "none" if work.whole else train.activation_checkpointing
    number = 4 if train.precision == "fp32" else 2
    of, n, gpu = work.model, work.parts if work.what == "packed" else 1, train.device != "cpu"
    one = traced.Pass(
        rows=work.rows,
        length=work.length // n,
        what="packed" if work.what == "pairs" and gpu else work.what,  # there the head holds the same
        bf16=number == 2,
        sharded=fsdp,
        checkpointing=checkpointing,
        gpu=gpu,
        z_loss=bool(train.pretrain and train.pretrain.z_loss and work.stage.startswith("pretrain")),
        update=of.update,
    )
    if work.teacher and not work.whole:
        one = one._replace(taught=work.teacher.shape["hidden_size"])
    peak, row = _peak_and_row(of, one, work.target)
    keys = of.keys_width
    count = of.shape["num_hidden_layers"] if checkpointing == "none" else 1
    gathered_keys = number * 2 * keys * work.length * (n - 1) / n * count
    trained = of.parameters - (of.head if work.what == "reward" and not of.tied else 0)
    learns = min(of.learning, trained)
    state = {
        "weights (fp32)": 4 * trained / ranks,
        "gradients (fp32)": 4 * learns / ranks,
        f"Adam's moments ({train.optimiser_states})": adamw.STATES[train.optimiser_states] * learns / ranks,
    }
    gathered = 2 * of.layer + of.head
    if work.teacher and work.whole:
        state["the model that it is for"] = (number if gpu else 4) * work.teacher.parameters
        if given(train.draft).method == "glide":  # an EAGLE-3 draft learns a head of its own
            state["its head (fp32)"] = 4 * of.head
        seen = 2 if given(train.draft).method == "glide" else 1 + eagle3.STEPS
        row += seen * (1 + number) * work.length**2  # which keys are seen, of the draft's own and of the model's
    elif work.teacher:
        state["teacher"] = (number if gpu else 4) * work.teacher.parameters / ranks
        gathered += 2 * work.teacher.layer + 2 * work.teacher.head
    if train.exact and work.update[0]:
        waiting = max(exact.Sum(*work.update, rank, train.workers).most_open for rank in range(train.workers))
        state["sums that wait (exact)"] = 4 * waiting * learns
    rest = {
        "gathered by FSDP": fsdp * number * gathered,
        "logits, casts of weights, what one layer needs": max(0.0, peak - work.rows * row),
    }
    return Memory(
        {k: v / GB for k, v in state.items()}, (row + gathered_keys) / GB, {k: v / GB for k, v in rest.items()}
    )


def _peak_and_row(of: Model, one: traced.Pass, target: Target | None) -> tuple[float, float]:
    """(bytes of a pass, bytes that a row more takes). On a GPU both are linear in positions, from two chunks of logits on."""
    if not one.gpu:
        first, two, four = (traced.peak(of.config, one._replace(rows=times * one.rows), target) for times in (1, 2, 4))
        return first, (four - two) / (2 * one.rows)
    chunk = cross_entropy.default_chunk(torch.empty(of.vocab_size, 0, device="meta"))
    some, positions = max(4096, 2 * chunk), one.rows * one.length

    def of_positions(count: int) -> float:
        return traced.peak(of.config, one._replace(rows=1, length=count), target)

    each = (of_positions(2 * some) - of_positions(some)) / some
    least = min(some, positions)
    return of_positions(least) + (positions - least) * each, each * one.length


def table(train: Train, work: Work) -> dict[str, float]:
    """The same by part for the rows of a micro-batch, and the sum `in all`."""
    found = of_worker(train, work)
    kept = "none" if work.whole else train.activation_checkpointing
    made = found.state | {f"activations ({kept})": work.rows * found.row} | found.rest
    return made | {"in all": sum(made.values())}


def read_only(train: Train, of: Model, gpu: bool = True) -> dict[str, float]:
    """GB of a GPU that holds a model whole and only reads with it or lets it write: its weights, in 2 bytes a number on a GPU
    unless `train.precision` is fp32, and the keys and values of its answers."""
    number = 2 if gpu and train.precision != "fp32" else 4
    cache = number * 2 * of.keys_width * of.shape["num_hidden_layers"] * READ_TOKENS
    return {"weights": number * of.parameters / GB, "keys and values": cache / GB}


def pinned(train: Train, of: Model, workers_here: int) -> float:
    """GB of host memory of a node that `workers_here` workers take for copies of a checkpoint's tensors, each in a buffer of a
    power of two."""
    if not train.checkpoints.asynchronous:
        return 0.0
    fsdp = train.parallel == "fsdp"
    moments = adamw.STATES[train.optimiser_states] / 2
    total = 0.0
    for size, learns in of.sizes:
        part = size / train.workers if fsdp else size
        each = (4.0, *((moments, moments) if learns else ()))
        total += sum(2 ** math.ceil(math.log2(max(1.0, width * part))) for width in each)
    return total * (workers_here if fsdp else workers_here / train.workers) / GB


def rows_of(recipe: Recipe) -> Iterator[tuple[Work, dict[str, float]]]:
    """Each work of the recipe with its table."""
    for work in works(recipe):
        yield work, table(given(recipe.train), work)
