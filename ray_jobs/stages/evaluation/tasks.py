"""tasks: public tasks and one's own, answered by the models of a run, with intervals and paired differences from the base.

items.parquet                     every item that was asked, as the models read it
models/MODEL/TASK.LANGUAGE.json   answers of one model; a killed run goes on behind the last
results.parquet                   all answers, item by item
lm_eval.json                      {model: {task: {metric: value}}}, of tasks that lm-eval runs
metrics.json                      {task: {language: {items, seen, chance, models: {model: …}, differences: {model: …}}}}
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container
from typing import TypedDict

import pyarrow as pa

from cluster import storage
from curation import decontaminate
from curation.text import words
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.config.given import given
from ray_jobs.errors import UserError
from ray_jobs.run import task_choice
from ray_jobs.run.graph import BASE
from ray_jobs.run.job import Job
from ray_jobs.training import contamination, task_items
from ray_jobs.training.tokenizer import TokenizerSetting, load_tokenizer, tokenizer_of
from ray_jobs.work import device
from ray_jobs.work.rows import write_ledger
from ray_jobs.work.tasks import map_on_ray, written
from train import model
from train.tasks import answers, compare, harness, measure
from train.tasks.task import Item, Task

RESULTS = "results.parquet"
METRICS = "metrics.json"
ITEMS = pa.schema(
    [
        *[(name, pa.string()) for name in ("task", "lang", "id", "prompt")],
        ("options", pa.list_(pa.string())),
        ("gold", pa.list_(pa.string())),
        ("shot", pa.bool_()),
    ]
)
COLUMNS = pa.schema(
    [
        *[(name, pa.string()) for name in ("model", "task", "lang", "id", "prompt", "answer", "gold")],
        ("correct", pa.float64()),
        ("scores", pa.map_(pa.string(), pa.float64())),
        ("logprobs", pa.list_(pa.float64())),
        ("group", pa.string()),  # a digest of the passage, that of all questions about it
        ("seen", pa.list_(pa.string())),  # where the item stands in what was trained on: documents, chats
    ]
)


class Cell(TypedDict):
    """What is asked of one model in one language of one task: paths of the file that is written, and of its items."""

    task: str
    lang: str
    out: str


class Work(TokenizerSetting):
    model: str
    precision: str
    items: str
    tasks: dict[str, Task]
    lm_eval: harness.Setting | None
    cells: list[Cell]


def run(job: Job) -> dict:
    settings = given(job.recipe.evaluate.tasks)
    known = task_choice.specifications(settings)
    found, rejects = task_items.read(settings, job.recipe.languages, known, "evaluate.tasks")
    write_ledger(job, rejects, "part-items")
    if not found:
        raise UserError(
            f"evaluate.tasks.rows: no row of a task in the recipe's languages; see {job.ledger} for what is wrong with each"
        )
    _write_items(job, found)
    stages = task_choice.models(settings, job.stage.inputs)
    work: list[Work] = [
        {
            **tokenizer_of(job, stage),
            "model": job.input(stage, "model"),
            "precision": job.train.precision,
            "items": job.path("items.parquet"),
            "tasks": {name: known[name] for name, _ in found},
            "lm_eval": {
                "tasks": settings.lm_eval,
                "include_path": settings.lm_eval_tasks,
                "shots": settings.shots,
                "limit": settings.limit,
                "out": job.path("models", _folder(stage), "lm_eval.json"),
            }
            if settings.lm_eval
            else None,
            "cells": [
                {"task": name, "lang": lang, "out": job.path("models", _folder(stage), f"{name}.{lang}.json")}
                for name, lang in found
            ],
        }
        for stage in stages
    ]
    done = written(_outputs(one) for one in work)
    map_on_ray(job, _answer, work, "models", gpus=device.wants_gpus(job), finished=done)
    answered = {
        stage: {(cell["task"], cell["lang"]): storage.read_json(cell["out"]) for cell in one["cells"]}
        for stage, one in zip(stages, work, strict=True)
    }
    long = {
        (cell, one["id"]): one["reason"]
        for of in answered.values()
        for cell, said in of.items()
        for one in said["long"]
    }
    too_long = [
        {"doc_id": name, "lang": cell[1], "rule": "too_long", "detail": why} for (cell, name), why in long.items()
    ]
    write_ledger(job, too_long, "part-long")
    asked = [(name, item) for (name, _), (_, scored) in found.items() for item in scored]
    seen = contamination.search(job, asked)
    passages = {cell: _passages(scored) for cell, (_, scored) in found.items()}
    every = [
        {
            **{"model": stage, "task": task, "lang": lang, **result},
            "scores": list(result["scores"].items()),
            "seen": seen.get((task, lang, result["id"]), []),
            "group": passages[task, lang][result["id"]],
        }
        for stage, cells in answered.items()
        for (task, lang), said in cells.items()
        for result in said["results"]
    ]
    storage.write_table(job.path(RESULTS), pa.Table.from_pylist(every, COLUMNS))
    if settings.lm_eval:
        theirs = {
            stage: storage.read_json(path)
            for stage, one in zip(stages, work, strict=True)
            for path in _outputs(one)[-1:]
        }
        storage.write_json(job.path("lm_eval.json"), theirs)
    storage.write_json(job.path(METRICS), _metrics(answered, known, found, passages, seen))
    rules = Counter(one["rule"] for one in (*rejects, *too_long))
    return {
        "models": len(stages),
        "items": sum(len(scored) for _, scored in found.values()),
        "answers": len(every),
        "seen": len(seen),
        "tasks": sorted({name for name, _ in found}),
        "dropped_by_rule": dict(sorted(rules.items())),
    }


def _outputs(work: Work) -> list[str]:
    return [cell["out"] for cell in work["cells"]] + ([work["lm_eval"]["out"]] if work["lm_eval"] else [])


def _write_items(job: Job, found: dict[tuple[str, str], tuple[list[Item], list[Item]]]) -> None:
    table = [
        {
            "task": name,
            "lang": lang,
            "id": item.id,
            "prompt": item.prompt,
            "options": item.options,
            "gold": [str(item.gold)] if isinstance(item.gold, int) else list(item.gold),
            "shot": shot,
        }
        for (name, lang), (shots, scored) in found.items()
        for shot, items in ((True, shots), (False, scored))
        for item in items
    ]
    storage.write_table(job.path("items.parquet"), pa.Table.from_pylist(table, ITEMS))


def _answer(work: Work) -> dict:
    """The answers of one model, a file a cell; those that are there are not made again."""
    if work["lm_eval"] and not storage.exists(work["lm_eval"]["out"]):
        found = harness.run(storage.localize(work["model"]), work["lm_eval"], device.here())
        storage.write_json(work["lm_eval"]["out"], found)
    waiting = [cell for cell in work["cells"] if not storage.exists(cell["out"])]
    if not waiting:
        return {}
    tokenizer = load_tokenizer(work)
    where = device.here()
    net = model.load(work["model"], device.dtype(work["precision"], where)).to(where)
    most = int(getattr(net.config, "max_position_embeddings", 1 << 30))
    asked: dict[tuple[str, str], list[dict]] = {}
    for row in storage.read_table(work["items"]).to_pylist():
        asked.setdefault((row["task"], row["lang"]), []).append(row)
    for cell in waiting:
        task = work["tasks"][cell["task"]]
        here = [(row["shot"], _item(task, cell["lang"], row)) for row in asked[cell["task"], cell["lang"]]]
        results, long = measure.measure(
            net,
            tokenizer,
            task,
            [item for shot, item in here if shot],
            [item for shot, item in here if not shot],
            encode=lambda texts: tokenizers.encode(tokenizer, texts),  # type: ignore[arg-type,return-value]
            split=words.split_words,
            max_tokens=most,
        )
        storage.write_json(
            cell["out"], {"results": results, "long": [{"id": name, "reason": reason} for name, reason in long]}
        )
    return {}


def _item(task: Task, lang: str, row: dict) -> Item:
    gold = int(row["gold"][0]) if task.kind == "options" else tuple(row["gold"])
    return Item(row["id"], lang, row["prompt"], tuple(row["options"]), gold, row["shot"])


def _metrics(
    answered: dict, tasks: dict[str, Task], found: dict, passages: dict, seen: Container[contamination.Key]
) -> dict:
    """metrics.json: means with intervals, and of each model but the first the paired difference from it.

    `seen` items count; `without_seen` is the mean of the others."""
    out: dict[str, dict] = {name: {} for name, _ in found}
    for name, lang in found:
        task, scored = tasks[name], found[name, lang][1]
        by_model = {
            stage: {one["id"]: one for one in cells[name, lang]["results"]} for stage, cells in answered.items()
        }
        ids = [item.id for item in scored if all(item.id in of for of in by_model.values())]
        if not ids:
            continue
        of_passage = [passages[name, lang][i] for i in ids]
        scores = {stage: [of[i]["correct"] for i in ids] for stage, of in by_model.items()}
        clean = [k for k, i in enumerate(ids) if (name, lang, i) not in seen]
        first = BASE if BASE in scores else next(iter(scores))
        cell: dict = {
            "items": len(ids),
            "seen": len(ids) - len(clean),
            "measure": task.measure,
            "chance": _chance(task, scored),
            "against": first,
            "models": {
                stage: {
                    **compare.grouped(values, of_passage)._asdict(),
                    "without_seen": compare.mean([values[k] for k in clean]).value if clean else None,
                    "scores": {
                        key: compare.mean([by_model[stage][i]["scores"][key] for i in ids]).value for key in keys
                    },
                }
                for stage, values in scores.items()
                for keys in [by_model[stage][ids[0]]["scores"]]
            },
            "differences": {
                stage: {
                    **(one := compare.difference(scores[first], values, of_passage))._asdict(),
                    "certain": one.certain,
                }
                for stage, values in scores.items()
                if stage != first
            },
        }
        if task.kind == "translation":
            golds = {item.id: item.gold for item in scored}
            for stage, of in by_model.items():
                for words_, label in ((0, "chrf"), (2, "chrf++")):
                    value, signature = answers.chrf([of[i]["answer"] for i in ids], [golds[i] for i in ids], words_)
                    cell["models"][stage][f"corpus_{label}"] = {"value": value, "signature": signature}
        out[name][lang] = cell
    return out


def _passages(items: list[Item]) -> dict[str, str]:
    """Item -> what items that are about one text have in common: the longest text of its row."""
    longest = {item.id: max(decontaminate.strings([*item.row.values()]), key=len, default="") for item in items}
    return {name: hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for name, text in longest.items()}


def _chance(task: Task, items: list[Item]) -> float | None:
    """The share of options that one who guesses gets right; None for tasks without options."""
    return sum(1 / len(item.options) for item in items) / len(items) if task.kind == "options" else None


def _folder(stage: str) -> str:
    return stage.replace("/", "-")
