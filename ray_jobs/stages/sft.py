"""sft/stage1: breadth, all valid conversations; sft/stage2: the selected ones (paper section 5.1)."""

from __future__ import annotations

from ray_jobs.alignment import chats, held_out
from ray_jobs.config.given import given
from ray_jobs.run.graph import SFT_1, SFT_DATA, SFT_SELECT, foundation
from ray_jobs.run.job import Job
from ray_jobs.training import fit
from ray_jobs.training.tokenizer import load_tokenizer
from ray_jobs.work.trainer import launch
from train.batches import examples
from train.batches.parts import BatchFn
from train.chat import conversations
from train.methods import sft
from train.monitor.heldout_rows import LossValidation


class Settings(fit.Settings):
    model: str
    rows: str
    heldout: str
    eval_every: int
    epochs: int


def run(job: Job) -> dict:
    recipe = job.sft
    if job.stage.name == SFT_1:
        stage, start = recipe.stage1, job.input(foundation(job.recipe), "model")
        rows = chats.read_rows(job.input(SFT_DATA, "rows.jsonl"))
        rows, measured = held_out.split(rows, recipe.eval_every, recipe.eval_rows_per_language)
        chats.write_rows(job.path("heldout.jsonl"), measured)
        heldout = job.path("heldout.jsonl")
    else:
        stage, start = given(recipe.stage2), job.input(SFT_1, "model")
        rows = chats.read_rows(job.input(SFT_SELECT, "rows.jsonl"))
        heldout = job.input(SFT_1, "heldout.jsonl")  # selection sees only what stage 1 was trained on
    chats.write_rows(job.path("rows.jsonl"), rows)
    settings: Settings = {
        **fit.settings(job, fit.loop_config(job, stage.optimiser)),
        "model": start,
        "rows": job.path("rows.jsonl"),
        "heldout": heldout,
        "eval_every": recipe.eval_every,
        "epochs": stage.epochs,
    }
    result = launch(job, train_worker, settings)
    facts = chats.account(len(rows), {"too_long": result["left_out"]})
    return {"conversations": len(rows), "per_language": chats.per_language(rows), **facts, **result}


def train_worker(settings: Settings) -> dict:
    tokenizer = load_tokenizer(settings)
    encoded = conversations.encode(tokenizer, chats.read_rows(settings["rows"]))
    fitting, too_long = examples.within(encoded, settings["context"])
    packed = sft.pack([example.positions for example in fitting], settings["context"])
    steps = examples.steps(len(packed), settings["epochs"], settings["loop"]["rows_per_step"])
    settings["loop"] = fit.with_steps(settings["loop"], steps)
    batch_fn = sft.batch_fn(fitting, packed, settings["context"], settings["seed"])
    validation = _validation(tokenizer, settings)
    summary = fit.fit_and_save(fit.start_model(settings), batch_fn, sft.loss, settings, validation=validation)
    used = sum(example.positions for example in fitting) / (len(packed) * settings["context"])
    return {**summary, "packed_rows": len(packed), "positions_used": round(used, 4), "left_out": len(too_long)}


def _validation(tokenizer, settings: Settings) -> LossValidation | None:
    """The held-out conversations, packed by language."""
    rows = chats.read_rows(settings["heldout"])
    fitting, _ = examples.within(conversations.encode(tokenizer, rows), settings["context"])

    def rows_of(indices: list[int]) -> tuple[BatchFn, int]:
        chosen = [fitting[i] for i in indices]
        packed = sft.pack([example.positions for example in chosen], settings["context"])
        return sft.batch_fn(chosen, packed, settings["context"], settings["seed"]), len(packed)

    return held_out.validation([example.lang for example in fitting], rows_of, sft.loss, settings)
