"""pretrain/stage1, pretrain/stage2: continual pre-training of the expanded model (paper section 4.4); control/…: the same
tokens for the base without expansion, which shows what expansion is worth."""

from __future__ import annotations

import functools

from ray_jobs.config.optimiser import Optimiser
from ray_jobs.config.training import Update
from ray_jobs.run.graph import BASE, grown
from ray_jobs.run.job import Job
from ray_jobs.training import budget, data_order, fit, update
from ray_jobs.work.trainer import launch
from train import model
from train.methods import expand
from train.methods.pretrain import loss


class Settings(update.Settings):
    trainable: str
    new_layers: int
    z_loss: float


def run(job: Job) -> dict:
    recipe = job.pretrain
    branch, stage_name = job.stage.name.split("/")
    first = stage_name == "stage1"
    stage = recipe.stage1 if first else recipe.stage2
    own = branch == "pretrain"
    expanded = job.train.expand if own else None
    start = (grown(job.recipe) if own else BASE) if first else f"{branch}/stage1"
    lr = stage.lr or (recipe.lr if first else recipe.lr / 10)
    optimiser = Optimiser(
        rows_per_step=stage.rows_per_step,
        micro_rows=recipe.micro_rows,
        lr=lr,
        min_lr=lr / 10 if stage.min_lr is None else stage.min_lr,
        schedule=stage.schedule,
        warmup_steps=stage.warmup_steps,
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
        checkpoint_every=recipe.checkpoint_every,
    )
    tokens = budget.of_stage(job.run_uri, "stage1" if first else "stage2", job.train)
    steps = fit.steps_for(tokens, stage.rows_per_step, job.train.context)
    settings: Settings = {
        **fit.settings(job, fit.loop_config(job, optimiser, steps)),
        **data_order.settle(job, job.seed + (1 if first else 2)),
        "model": job.input(start, "model"),
        "trainable": expanded.trainable if expanded else "all",
        "new_layers": expanded.new_layers if expanded else 0,
        "update": recipe.update.model_dump(),
        "choice": job.path(update.FILE) if first else job.input(f"{branch}/stage1", update.FILE),
        "replay": job.recipe.mixture.replay_languages,
        "z_loss": recipe.z_loss,
    }
    return launch(job, train_worker, settings, steps)


def train_worker(settings: Settings) -> dict:
    own, choice = Update(**settings["update"]), update.choose(settings)
    net = fit.start_model(settings)
    expand.set_trainable(net, settings["new_layers"], settings["trainable"])
    update.begin(net, own, settings["seed"], choice["chosen"] if choice else None)
    learning = sum(p.numel() for p in net.parameters() if p.requires_grad)
    objective = functools.partial(loss, z_loss=settings["z_loss"])
    rows, pools = fit.packed_rows(settings), data_order.pool_names(settings)
    heldout = fit.heldout_text(settings)
    summary = fit.fit_and_save(
        net,
        rows,
        objective,
        settings,
        pools=pools,
        validation=heldout,
        after_step=update.after_step,
        finish=update.finish,
    )
    return {**summary, "parameters": model.parameters(net), "learning": learning, **update.said(own, choice)}
