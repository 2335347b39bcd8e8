"""`pinisi run RECIPE --dry-run`: what training will be, from the real model on torch's meta device; nothing is read or started.

The base, and the expanded model where the recipe expands, are built without memory, so shapes and parameters are those that
training will have. Memory of a GPU is what ray_jobs/plan/gpu_memory.py counts, as in `pinisi plan`.
"""

from __future__ import annotations

import math

import torch
from rich.text import Text

from cluster import terminal
from cluster.terminal import Column
from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe
from ray_jobs.config.training import PretrainStage, Train
from ray_jobs.plan import gpu_memory
from ray_jobs.plan import training as plan_training
from ray_jobs.training import fit
from train import model
from train.batches.decoder import CausalLM
from train.kernels import adamw
from train.methods import expand

GB = 1e9


def describe(recipe: Recipe) -> dict:
    """Models, memory and stages of `recipe` as plain data. Raises ValueError for a recipe without training."""
    train = recipe.train
    if train is None:
        raise ValueError("This recipe has no `train`, so there is nothing to try; `pinisi plan` is for the rest.")
    base, grown = models(recipe)
    pretrain = train.pretrain
    _, of_model = plan_training.model(recipe)
    return {
        "models": {"base": _model(base), "model": _model(grown)} if train.expand else {"model": _model(grown)},
        "workers": train.workers,
        "part": f", a part of {train.context_parallel} of each," if train.context_parallel > 1 else "",
        "memory": gpu_memory.table(train, of_model.shape, of_model.vocab_size),
        "stages": [
            _stage(train, name, stage, grown)
            for name, stage in ((("stage1", pretrain.stage1), ("stage2", pretrain.stage2)) if pretrain else ())
        ],
    }


def models(recipe: Recipe) -> tuple[CausalLM, CausalLM]:
    """The base and the model that is trained, on the meta device."""
    of_base, of_model = plan_training.model(recipe)
    nets = []
    for _ in range(2):
        with torch.device("meta"):
            nets.append(model.build({**of_base.shape, "vocab_size": of_base.vocab_size}))
    settings = given(recipe.train).expand
    if settings is None:
        return nets[0], nets[0]
    untie, vocabulary = settings.untie_embeddings, settings.vocab_size
    grown = expand.expand(nets[1], settings.new_layers, settings.trainable, untie=untie, vocab_size=vocabulary)
    assert model.parameters(grown) == of_model.parameters, "the plan counts other parameters than the model has"
    return nets[0], grown


def show(described: dict) -> None:
    """Print what `describe` found."""
    lines = []
    for name, made in described["models"].items():
        title = f"{name}: {made['layers']} layers, {terminal.short(made['parameters'])} parameters, "
        title += f"{terminal.short(made['trainable'])} learn"
        tensors = [(tensor, " x ".join(map(terminal.count, shape))) for tensor, shape in made["tensors"].items()]
        lines += [*terminal.table([Column("tensor"), Column("shape", free=True)], tensors, title=title), Text()]
    workers = described["workers"]
    title = "memory of the GPU" if workers == 1 else f"memory of each of {workers} GPUs"
    memory = [(what, size * GB) for what, size in described["memory"].items()]
    lines += [*terminal.table([Column("what"), terminal.sizes("size")], memory, title=title), Text()]
    if not described["stages"]:
        text = (
            "no pre-training; the steps of reward, SFT and DPO follow from their rows (`--only sft/data` counts them)"
        )
        lines += terminal.paragraph(text)
    for stage in described["stages"]:
        tokens, saved = terminal.short(stage["tokens"]), terminal.size(stage["checkpoint_bytes"])
        lines += terminal.paragraph(
            f"{stage['name']}: {stage['steps']:,} steps of {stage['tokens_per_step']:,} tokens = {tokens}; "
            f"{stage['rows_per_worker']} rows{described['part']} a worker and step in {stage['micro_batches']} micro-batches; "
            f"{stage['checkpoints']} checkpoints of {saved}, {stage['kept']} are kept"
        )
    terminal.show(lines)


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


def _stage(train: Train, name: str, stage: PretrainStage, net: CausalLM) -> dict:
    pretrain = given(train.pretrain)
    steps = fit.steps_for(stage.tokens, stage.rows_per_step, train.context)
    rows = math.ceil(stage.rows_per_step * train.context_parallel / train.workers)
    every = pretrain.checkpoint_every
    return {
        "name": f"pretrain/{name}",
        "steps": steps,
        "tokens_per_step": stage.rows_per_step * train.context,
        "tokens": steps * stage.rows_per_step * train.context,
        "rows_per_worker": rows,  # or a part of each
        "micro_batches": math.ceil(rows / pretrain.micro_rows),
        "checkpoints": steps // every if every else 0,
        "checkpoint_bytes": 4 * model.parameters(net) + adamw.STATES[train.optimiser_states] * _learning(net),
        "kept": train.checkpoints.keep,
    }


def _learning(net: CausalLM) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
