"""reward: our own Bradley-Terry reward model on preference pairs, on the base of stage 2; its accuracy on held-out pairs."""

from __future__ import annotations

import numpy as np
import xxhash

from ray_jobs import chats, training
from ray_jobs.run import Job
from ray_jobs.trainer import launch
from train import chat, examples, model, reward

HELDOUT = 10  # one pair in so many is held out, by a hash of its id


def run(job: Job) -> dict:
    recipe = job.recipe.train.reward
    rows = chats.preferences(job, recipe.preference, recipe.max_rows)
    chats.write_rows(job.path("rows.jsonl"), rows)
    settings = training.settings(
        job,
        training.loop_config(job, recipe.optimiser),
        model=job.input("pretrain/stage2", "model"),
        rows=job.path("rows.jsonl"),
        epochs=recipe.epochs,
    )
    return {"pairs": len(rows), "per_language": chats.per_language(rows), **launch(job, train_worker, settings)}


def train_worker(settings: dict) -> dict:
    tokenizer = training.load_tokenizer(settings)
    rows = chats.read_rows(settings["rows"])
    held = [xxhash.xxh3_64_intdigest(row["id"].encode()) % HELDOUT == 0 for row in rows]
    seen = [row for row, out in zip(rows, held, strict=True) if not out]
    sides = [chat.encode_answers(tokenizer, seen, [row[side] for row in seen]) for side in ("chosen", "rejected")]
    fits = [max(c.positions, r.positions) < settings["context"] for c, r in zip(*sides, strict=True)]
    chosen, rejected = ([e for e, fit in zip(side, fits, strict=True) if fit] for side in sides)
    steps = examples.steps(len(chosen), settings["epochs"], settings["loop"]["rows_per_step"])
    settings["loop"] = training.with_steps(settings["loop"], steps)
    net = reward.build(model.load(settings["model"]), tokenizer.pad_token_id, settings["seed"])
    batch_fn = reward.batch_fn(chosen, rejected, settings["seed"])
    summary = training.fit_and_save(net, batch_fn, reward.loss, settings)
    unseen = [row for row, out in zip(rows, held, strict=True) if out]
    return {**summary, "left_out": fits.count(False), **_measure(net, tokenizer, unseen, settings["context"])}


def _measure(net, tokenizer, rows: list[dict], context: int) -> dict:
    """Accuracy on held-out pairs, in all and per language, and what choosing the longer answer would have got."""
    if not rows:
        return {}
    scores = [
        reward.score(
            net, tokenizer, [[*row["prompt"], {"role": "assistant", "content": row[side]}] for row in rows], context
        )
        for side in ("chosen", "rejected")
    ]
    lengths = [np.array([len(row[side]) for row in rows]) for side in ("chosen", "rejected")]
    langs = np.array([row["lang"] for row in rows])
    return {
        "heldout_pairs": len(rows),
        "heldout_accuracy": reward.accuracy(*scores),
        "heldout_accuracy_of_longer": reward.accuracy(*lengths),
        "heldout_accuracy_per_language": {
            str(lang): reward.accuracy(scores[0][langs == lang], scores[1][langs == lang]) for lang in np.unique(langs)
        },
    }


if __name__ == "__main__":
    from ray_jobs.job import main

    main(__file__)
