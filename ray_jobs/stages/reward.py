"""reward: our own Bradley-Terry reward model on preference pairs, on the model that is aligned, or one that the recipe names.

Either is measured on held-out pairs. These are chosen by a hash of their prompt, so no prompt is on both sides.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import xxhash

from cluster import storage
from ray_jobs.alignment import chats, held_out, measures, reward_model
from ray_jobs.config.alignment import Reward
from ray_jobs.config.given import given
from ray_jobs.run.graph import foundation
from ray_jobs.run.job import Job
from ray_jobs.training import fit as training
from ray_jobs.training.tokenizer import load_tokenizer
from ray_jobs.work.trainer import launch
from train import model
from train.batches import examples
from train.batches.examples import Example
from train.batches.parts import BatchFn
from train.chat import conversations
from train.methods import reward
from train.monitor.heldout_rows import LossValidation
from train.scores import reward_quality

HELDOUT = 10  # one prompt in so many is held out
SIDES = ("chosen", "rejected")


class Settings(training.Settings):
    model: str
    rows: str
    watched: str  # held-out rows that are measured while training
    eval_every: int
    epochs: int


def run(job: Job) -> dict:
    recipe = job.reward
    read = chats.preferences(job, recipe.preference) if recipe.preference else chats.Pairs([], 0, Counter(), Counter())
    seen, held = split(read.rows)
    seen, held = chats.sample(seen, recipe.max_rows), chats.sample(held, recipe.heldout_rows)
    if recipe.model:
        return {"model": recipe.model, **chats.account(*read[1:]), **_measure(job, held)}
    chats.write_rows(job.path("rows.jsonl"), seen)
    chats.write_rows(job.path("watched.jsonl"), _watched(held, recipe))
    settings: Settings = {
        **training.settings(job, training.loop_config(job, given(recipe.optimiser))),
        "model": job.input(foundation(job.recipe), "model"),
        "rows": job.path("rows.jsonl"),
        "watched": job.path("watched.jsonl"),
        "eval_every": recipe.eval_every,
        "epochs": recipe.epochs,
    }
    result = launch(job, train_worker, settings)
    facts = chats.account(read.rows_in, read.rules + Counter(too_long=result["left_out"]), read.ignored)
    return {"pairs": len(seen), "per_language": chats.per_language(seen), **facts, **result, **_measure(job, held)}


def split(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """(pairs to train on, pairs to measure): all pairs of a prompt are on one side."""
    held = [xxhash.xxh3_64_intdigest(conversations.render(row["prompt"])[0].encode()) % HELDOUT == 0 for row in rows]
    seen = [row for row, out in zip(rows, held, strict=True) if not out]
    return seen, [row for row, out in zip(rows, held, strict=True) if out]


def _watched(held: list[dict], recipe: Reward) -> list[dict]:
    """Held-out pairs that are measured while training too: `eval_rows_per_language` at most."""
    langs = sorted({row["lang"] for row in held}) if recipe.eval_every else []
    by_lang = [[row for row in held if row["lang"] == lang] for lang in langs]
    return [row for rows in by_lang for row in chats.sample(rows, recipe.eval_rows_per_language)]


def train_worker(settings: Settings) -> dict:
    tokenizer = load_tokenizer(settings)
    rows = chats.read_rows(settings["rows"])
    chosen, rejected = _pairs(tokenizer, rows, settings["context"])
    steps = examples.steps(len(chosen), settings["epochs"], settings["loop"]["rows_per_step"])
    settings["loop"] = training.with_steps(settings["loop"], steps)
    net = reward.build(model.load(settings["model"]), tokenizer.pad_token_id, settings["seed"])
    batch_fn = reward.batch_fn(chosen, rejected, settings["seed"])
    validation = _validation(_pairs(tokenizer, chats.read_rows(settings["watched"]), settings["context"]), settings)
    summary = training.fit_and_save(net, batch_fn, reward.loss, settings, validation=validation)
    return {**summary, "left_out": len(rows) - len(chosen)}


def _pairs(tokenizer, rows: list[dict], context: int) -> list[list[Example]]:
    """Chosen and rejected conversations of the pairs that fit in the context."""
    sides = [reward.encode(tokenizer, rows, [row[side] for row in rows]) for side in SIDES]
    fits = [max(c.positions, r.positions) < context for c, r in zip(*sides, strict=True)]
    return [[example for example, fit in zip(side, fits, strict=True) if fit] for side in sides]


def _validation(pairs: list[list[Example]], settings: Settings) -> LossValidation | None:
    def rows_of(indices: list[int]) -> tuple[BatchFn, int]:
        chosen, rejected = ([side[i] for i in indices] for side in pairs)
        return reward.batch_fn(chosen, rejected, settings["seed"]), len(indices)

    metrics = {"accuracy": "validation_accuracy", "margin": "validation_margin"}
    return held_out.validation([example.lang for example in pairs[0]], rows_of, reward.loss, settings, metrics)


def _measure(job: Job, rows: list[dict]) -> dict:
    """Rewards of held-out pairs to heldout.parquet, and what they say of the model."""
    if not rows:
        return {}
    talks = [
        {"id": f"{row['id']}/{side}", "messages": [*row["prompt"], {"role": "assistant", "content": row[side]}]}
        for side in SIDES
        for row in rows
    ]
    folder = job.path("measures")
    chats.write_rows(job.path("heldout.jsonl"), talks)
    names = measures.split(job.path("heldout.jsonl"), folder)
    measures.measure(job, names, folder, {"reward": {"reward": reward_model.settings(job)}})
    chosen_P, rejected_P = measures.column(folder, "reward", names, "reward").reshape(2, -1)
    lengths = [np.array([len(row[side]) for row in rows]) for side in SIDES]
    columns = {
        "id": [row["id"] for row in rows],
        "lang": [row["lang"] for row in rows],
        "chosen_reward": chosen_P,
        "rejected_reward": rejected_P,
        "chosen_characters": lengths[0],
        "rejected_characters": lengths[1],
    }
    storage.write_table(job.path("heldout.parquet"), pa.table(columns))
    storage.remove(folder)
    margin_P, langs_P = chosen_P.astype(np.float64) - rejected_P, np.array(columns["lang"])
    share = reward_quality.accuracy(margin_P)
    low, high = reward_quality.interval(share, len(rows))
    bias = reward_quality.length_bias(chosen_P, rejected_P, *lengths)
    return {
        "heldout_pairs": len(rows),
        "heldout_accuracy": share,
        "heldout_accuracy_from": low,
        "heldout_accuracy_to": high,
        "heldout_accuracy_per_language": {
            str(lang): reward_quality.accuracy(margin_P[langs_P == lang]) for lang in np.unique(langs_P)
        },
        "calibration_error": reward_quality.calibration_error(margin_P),
        "length_bias": {key: value for key, value in bias.items() if value is not None},
    }
