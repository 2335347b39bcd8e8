"""`pinisi run RECIPE --dry-run`: what training will be, from the real model on torch's meta device; nothing is read or started.

The base, and the expanded model where the recipe expands, are built without memory, so shapes and parameters are those that
training will have. Memory of a GPU is what ray_jobs/plan/gpu_memory.py counts, as in `pinisi plan`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich.text import Text

from cluster import terminal
from cluster.terminal import Column
from mixture.weights import Auto
from ray_jobs.alignment import judged
from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe
from ray_jobs.config.training import Pretrain, PretrainStage, Train
from ray_jobs.errors import UserError
from ray_jobs.plan import alignment, gpu_memory, rates
from ray_jobs.plan import model as sizes
from ray_jobs.plan.model import nets, updated
from ray_jobs.run import bases, graph, preflight, wildbench_choice
from ray_jobs.run.graph import BASE, CONTROL_1, LONG_CONTEXT, PRETRAIN_1, PRUNE
from ray_jobs.stages.synthetic import synthesize
from ray_jobs.training import budget, fit, longer
from train import model
from train.batches.decoder import CausalLM
from train.kernels import adamw

GB = 1e9


def describe(recipe: Recipe, run_uri: str | None = None) -> dict:
    """Models, memory and stages of `recipe` as plain data. Of a recipe without training what its models are asked; raises
    ValueError where there is nothing of that either.

    Budgets that are `auto` are those of the run at `run_uri` when its mixture is planned, else unknown."""
    train = recipe.train
    if train is None and recipe.synthesize:
        stages = graph.enabled(recipe)
        for sentence in preflight.languages(recipe, stages):
            raise ValueError(sentence)
        return {
            "missing": list(preflight.absent(recipe, stages, stages)),
            "synthesis": synthesize.before(recipe, run_uri),
        }
    if train is None:
        raise ValueError("This recipe has no `train`, so there is nothing to try; `pinisi plan` is for the rest.")
    stages = graph.enabled(recipe)
    for sentence in (*bases.faults(recipe, weights=False), *preflight.languages(recipe, stages)):
        raise ValueError(sentence)
    (base, grown), learns = nets(recipe), updated(recipe)
    pretrain = train.pretrain
    tables = list(gpu_memory.rows_of(recipe))
    shown = gpu_memory.main([work for work, _ in tables])
    return {
        "rotation": _rotation(train, grown),
        "pruning": _pruning(recipe),
        "missing": list(preflight.absent(recipe, stages, stages)),
        "judging": _judging(recipe, stages, run_uri),
        "synthesis": synthesize.before(recipe, run_uri) if recipe.synthesize else [],
        "added_tokens": bases.added_tokens(recipe),
        "models": {"base": _model(base), "model": _model(grown)} if train.expand else {"model": _model(learns)},
        "workers": train.workers,
        "part": f", a part of {train.context_parallel} of each," if train.context_parallel > 1 else "",
        "memory_of": shown.stage,
        "memory": next(table for work, table in tables if work is shown),
        "training": [_trained(recipe, work, table, run_uri) for work, table in tables],
        "stages": [
            {**_stage(train, stage, learns, *_tokens(train, name, run_uri)), "name": f"pretrain/{name}"}
            for name, stage in (_stages(pretrain) if pretrain else ())
        ],
    }


def show(described: dict) -> None:
    """Print what `describe` found."""
    if "models" not in described:
        terminal.show(_sentences(described["synthesis"], described["missing"]))
        return
    lines = []
    for name, made in described["models"].items():
        title = f"{name}: {made['layers']} layers, {terminal.short(made['parameters'])} parameters, "
        title += f"{terminal.short(made['trainable'])} learn"
        tensors = [(tensor, " x ".join(map(terminal.count, shape))) for tensor, shape in made["tensors"].items()]
        lines += [*terminal.table([Column("tensor"), Column("shape", free=True)], tensors, title=title), Text()]
    if described["added_tokens"]:
        named = " and ".join(described["added_tokens"])
        text = f"{named} are added to the tokenizer; their rows begin as the mean of the others"
        lines += [*terminal.paragraph(text), Text()]
    workers = described["workers"]
    title = "memory of the GPU" if workers == 1 else f"memory of each of {workers} GPUs"
    title += f" in {described['memory_of']}"
    memory = [(what, size * GB) for what, size in described["memory"].items()]
    lines += [*terminal.table([Column("what"), terminal.sizes("size")], memory, title=title), Text()]
    columns = [
        Column("stage"),
        terminal.numbers("layers"),
        Column("parameters", terminal.short, right=True),
        Column("tokens", right=True),
        Column("steps", right=True),
        Column("batch", right=True),
        terminal.sizes("a GPU"),
    ]
    trained = [
        (
            one["name"],
            one["layers"],
            one["parameters"],
            _bound(one["tokens"], one["at_most"]),
            _bound(one["steps"], one["at_most"]),
            f"{one['rows']} x {one['length']:,}",
            one["memory"] * GB,
        )
        for one in described["training"]
    ]
    lines += [
        *terminal.table(columns, trained, title="trained models, and rows x positions of a micro-batch"),
        Text(),
    ]
    if not described["stages"]:
        text = (
            "no pre-training; the steps of reward, SFT and DPO follow from their rows (`--only sft/data` counts them)"
        )
        lines += terminal.paragraph(text)
    for stage in described["stages"]:
        saved, each = terminal.size(stage["checkpoint_bytes"]), f"{stage['tokens_per_step']:,} tokens"
        if stage["steps"] is None:
            lines += terminal.paragraph(f"{stage['name']}: auto, known after tokenize, in steps of {each}")
            continue
        lines += terminal.paragraph(
            f"{stage['name']}: {'auto, known after tokenize, at most ' if stage['at_most'] else ''}"
            f"{stage['steps']:,} steps of {each} = {terminal.short(stage['tokens'])}; "
            f"{stage['rows_per_worker']} rows{described['part']} a worker and step in {stage['micro_batches']} micro-batches; "
            f"{stage['checkpoints']} checkpoints of {saved}, {stage['kept']} are kept"
        )
    said = (*described["rotation"], *described["pruning"], *described["synthesis"], *described["judging"])
    terminal.show([*lines, *_sentences(said, described["missing"])])


def _sentences(said: Iterable[str], missing: Iterable[str]) -> list[Text]:
    lines = [line for sentence in said for line in terminal.paragraph(sentence)]
    for sentence in missing:
        lines += terminal.paragraph(f"not here yet: {sentence}", style="yellow")
    return lines


def _rotation(train: Train, net: CausalLM) -> list[str]:
    """How a longer context rotates positions, and what is wrong with that."""
    if train.long_context is None:
        return []
    found, warning = longer.rotation(train, net.config)
    if found is None:
        return [warning] if warning else []
    stretched = f", YaRN {found.factor:g} over {found.original:,} positions" if found.factor else ""
    return [f"long_context: a rotation of base {found.theta:.3g}{stretched}", *([warning] if warning else [])]


def _pruning(recipe: Recipe) -> list[str]:
    """What pruning takes away, how that is chosen, and who heals it."""
    own = given(recipe.train).prune
    if own is None:
        return []
    smaller = sizes.students(recipe)
    before, after = sizes.model(recipe)[1].parameters, [one.parameters for one in smaller]
    how = "masks that are learnt"
    if own.method == "activations":
        how = f"activations on {own.calibration_rows:,} rows, equally many of each language"
    healed = "the model before pruning, whose memory counts too" if sizes.teacher(recipe) else "the text alone"
    way = ", then ".join(map(terminal.short, after))
    of = "the longer context's model, " if own.start == "long_context" else ""
    shape = f"{own.hidden_size:,} wide, {own.num_attention_heads} heads, FFNs of {own.intermediate_size:,}"
    return [
        f"prune: {of}{terminal.short(before)} parameters to {way}, {1 - after[-1] / before:.0%} fewer, by {how}; healed by "
        f"{healed}. It becomes {shape}: {after[-1]:,} parameters"
    ]


def _judging(recipe: Recipe, stages: list[graph.Stage], run_uri: str | None) -> list[str]:
    """What judged answers will ask and cost; why that is not known here, where rows or models are missing."""
    for stage in stages:
        if stage.name == graph.WILDBENCH:
            try:
                found = judged.read(recipe)
                models = wildbench_choice.models(recipe, stage.inputs)
            except UserError as error:
                return [f"wildbench: {error}"]
            return (
                judged.announced(recipe, run_uri, found.kept, models)
                if found.kept
                else [judged.none_left(found.rejects)]
            )
    return []


def _bound(value: float | None, at_most: bool) -> str:
    return "auto" if value is None else f"{'≤ ' * at_most}{terminal.short(value)}"


def _trained(recipe: Recipe, work: gpu_memory.Work, table: dict[str, float], run_uri: str | None) -> dict:
    """What one kind of training is: its model, tokens and updates as far as they are known here, a micro-batch, memory in GB.

    Rows of chats and pairs are counted by the run, so theirs are the numbers that a plan assumes."""
    train = given(recipe.train)
    tokens, steps, at_most = _size(recipe, train, work, run_uri)
    return {
        "name": work.stage,
        "layers": work.model.shape["num_hidden_layers"],
        "hidden_size": work.model.shape["hidden_size"],
        "vocabulary": work.model.vocab_size,
        "parameters": work.model.parameters,
        "tokens": tokens,
        "steps": steps,
        "at_most": at_most,
        "rows": work.rows,
        "length": work.length,
        "memory": table["in all"],
        "memory_by_part": table,
    }


def _size(
    recipe: Recipe, train: Train, work: gpu_memory.Work, run_uri: str | None
) -> tuple[float | None, float | None, bool]:
    """(tokens, updates, whether these are only bounds)."""
    tokens: float | None
    names: dict[str, budget.PlanStage] = {BASE: "base", PRETRAIN_1: "stage1", CONTROL_1: "stage1"}
    if work.stage in names:
        tokens, at_most = _tokens(train, names[work.stage], run_uri)
        own = given(train.base.optimiser) if work.stage == BASE else given(train.pretrain).stage1
        return tokens, None if tokens is None else fit.steps_for(tokens, own.rows_per_step, train.context), at_most
    if work.stage.endswith("/probe"):
        update = given(train.pretrain).update
        rows_read = update.probe_updates * update.rows * len(recipe.languages)
        return rows_read * train.context, update.probe_updates, True
    if work.stage == LONG_CONTEXT:
        long = given(train.long_context)
        return long.tokens, fit.steps_for(long.tokens, long.optimiser.rows_per_step, long.context), False
    numbers = rates.numbers(recipe.extract.engine, {}, None, recipe.fetch.gap_bytes)
    tokens, rows, rows_per_step = alignment.size(recipe, work.stage, numbers)
    known = work.stage.startswith(PRUNE) and given(train.prune).heal_tokens != "auto"
    return tokens, max(1, math.ceil(rows / rows_per_step)), not known


def _model(net: CausalLM) -> dict:
    """Sizes, and the shapes of the tensors outside the layers and of one layer."""
    shown = {n: p for n, p in net.named_parameters() if not n.startswith("model.layers.") or ".layers.0." in n}
    return {
        "layers": len(net.model.layers),
        "vocabulary": net.config.vocab_size,
        "tied": net.lm_head.weight is net.model.embed_tokens.weight,
        "parameters": model.parameters(net),
        "trainable": _learning(net),
        "tensors": {name.replace(".0.", ".*."): list(p.shape) for name, p in shown.items()},
    }


def _stages(pretrain: Pretrain) -> tuple[tuple[budget.PlanStage, PretrainStage], ...]:
    return ("stage1", pretrain.stage1), ("stage2", pretrain.stage2)


def _tokens(train: Train, name: budget.PlanStage, run_uri: str | None) -> tuple[int | None, bool]:
    """(tokens, whether that is only a bound)."""
    asked = budget.asked(train, name)
    if not isinstance(asked, Auto):
        return asked, False
    found = budget.known(run_uri, name, train) if run_uri else None
    return (asked.most, True) if found is None else (found, False)


def _stage(train: Train, stage: PretrainStage, net: CausalLM, tokens: int | None, at_most: bool) -> dict:
    pretrain = given(train.pretrain)
    step = stage.rows_per_step * train.context
    steps = None if tokens is None else fit.steps_for(tokens, stage.rows_per_step, train.context)
    rows = math.ceil(stage.rows_per_step * train.context_parallel / train.workers)
    every = pretrain.checkpoint_every
    return {
        "steps": steps,
        "at_most": at_most,
        "tokens_per_step": step,
        "tokens": None if steps is None else steps * step,
        "rows_per_worker": rows,  # or a part of each
        "micro_batches": math.ceil(rows / pretrain.micro_rows),
        "checkpoints": None if steps is None else steps // every if every else 0,
        "checkpoint_bytes": 4 * model.parameters(net) + adamw.STATES[train.optimiser_states] * _learning(net),
        "kept": train.checkpoints.keep,
    }


def _learning(net: CausalLM) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
