"""tasks: public tasks and one's own, answered by the models of a run, with intervals and paired differences from the base.

items.parquet                     every item that was asked, as the models read it
models/MODEL/TASK.LANGUAGE.json   answers of one model; a killed run goes on behind the last
results.parquet                   all answers, item by item
lm_eval.json                      {model: {task: {metric: value}}}, of tasks that lm-eval runs
metrics.json                      {task: {language: {items, chance, models: {model: …}, differences: {model: …}}}}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import pyarrow as pa

from cluster import storage
from curation.lid.tags import code
from curation.text import words
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.config.given import given
from ray_jobs.config.recipe import Tasks
from ray_jobs.errors import UserError
from ray_jobs.run import files, row_files, task_choice
from ray_jobs.run.graph import BASE, TOKENIZE
from ray_jobs.run.job import Job
from ray_jobs.training.tokenizer import TokenizerSetting, load_tokenizer, tokenizer_of
from ray_jobs.work import device
from ray_jobs.work.rows import sampled, write_ledger
from ray_jobs.work.tasks import map_on_ray, written
from train import model
from train.tasks import answers, compare, harness, measure, rows
from train.tasks import task as task_files
from train.tasks.task import Item, RowError, Task

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
    found, rejects = _items(job, settings, known)
    write_ledger(job, rejects, "part-items")
    if not found:
        raise UserError(
            f"evaluate.tasks.rows: no row of a task in the recipe's languages; see {job.ledger} for what is wrong with each"
        )
    _write_items(job, found)
    stages = task_choice.models(settings, (stage for stage in job.stage.inputs if stage != TOKENIZE))
    work: list[Work] = [
        {
            **tokenizer_of(job),
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
    every = [
        {"model": stage, "task": task, "lang": lang, **result, "scores": list(result["scores"].items())}
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
    storage.write_json(job.path(METRICS), _metrics(answered, known, found))
    rules = Counter(one["rule"] for one in (*rejects, *too_long))
    return {
        "models": len(stages),
        "items": sum(len(scored) for _, scored in found.values()),
        "answers": len(every),
        "tasks": sorted({name for name, _ in found}),
        "dropped_by_rule": dict(sorted(rules.items())),
    }


def _items(job: Job, settings: Tasks, known: dict[str, Task]):
    """{(task, language): (solved examples, items to score)} of the recipe's rows, and the ledger of the others."""
    languages = job.recipe.languages
    names = rows.names({name: task.known_as for name, task in known.items()})
    cells: dict[tuple[str, str], dict[str, Item]] = {}
    sentences: dict[str, list[tuple[str, dict]]] = {}
    rejects: list[dict] = []

    def add(task: Task, lang: str, row: dict, where: str) -> None:
        try:
            item = task.item(row, lang)
        except RowError as error:
            detail = f"{where}: {error}"
            rejects.append({"doc_id": str(row.get("id", where)), "lang": lang, "rule": "not_an_item", "detail": detail})
            return
        here = cells.setdefault((task.name, lang), {})
        name = item.id or Path(where).name
        name = name if name not in here else f"{name} of {where}"  # ids of two files may be the same
        here[name] = item._replace(id=name)

    for uri in files.named(settings.rows, "evaluate.tasks.rows"):
        strangers = 0
        for where, row, wrong in _rows(uri):
            if row is None:
                rejects.append({"doc_id": where, "rule": "not_a_row", "detail": wrong})
                continue
            name = rows.task_of(row, uri, names)
            if name is None:
                strangers += 1
                continue
            lang = rows.language_of(row, uri, languages, code)
            if known[name].kind == "translation" and "text" in row and lang:
                if row.get("id") is None:
                    detail = "a sentence of one language needs an id, by which its translations are found"
                    rejects.append({"doc_id": where, "lang": lang, "rule": "not_an_item", "detail": detail})
                    continue
                split = row.get("split") or rows.split_of(uri)
                sentences.setdefault(name, []).append((lang, {**row, "split": split} if split else row))
            elif lang not in languages:
                detail = f"its language is {lang}" if lang else "it names no language"
                rejects.append({"doc_id": where, "lang": lang, "rule": "language_outside", "detail": detail})
            else:
                add(known[name], lang, row, where)
        if strangers:
            detail = f"{strangers} rows of no task that the recipe includes"
            rejects.append({"doc_id": uri, "rule": "no_task", "detail": detail})
    for name, found in sentences.items():
        pairs = [(a, b) for one in languages if one != "en" for a, b in (("en", one), (one, "en"))]
        for lang, row in rows.translations(found, pairs):
            add(known[name], lang, row, row["id"])
    out = {}
    for (name, lang), items in sorted(cells.items()):
        n = known[name].shots if settings.shots is None else settings.shots
        shots, scored = task_files.shots(items.values(), n)
        scored = [scored[i] for i in sampled([item.id for item in scored], settings.limit)]
        if scored:
            out[name, lang] = shots, scored
        else:
            detail = f"{len(items)} rows, all of them solved examples"
            rejects.append({"doc_id": name, "lang": lang, "rule": "all_are_examples", "detail": detail})
    return out, rejects


def _outputs(work: Work) -> list[str]:
    return [cell["out"] for cell in work["cells"]] + ([work["lm_eval"]["out"]] if work["lm_eval"] else [])


def _rows(uri: str) -> Iterator[row_files.Found]:
    try:
        yield from row_files.read(uri)
    except ValueError as error:
        raise UserError(f"evaluate.tasks.rows: {error}") from None


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


def _metrics(answered: dict, tasks: dict[str, Task], found: dict) -> dict:
    """metrics.json: means with intervals, and of each model but the first the paired difference from it."""
    out: dict[str, dict] = {name: {} for name, _ in found}
    for name, lang in found:
        task, scored = tasks[name], found[name, lang][1]
        by_model = {
            stage: {one["id"]: one for one in cells[name, lang]["results"]} for stage, cells in answered.items()
        }
        ids = [item.id for item in scored if all(item.id in of for of in by_model.values())]
        if not ids:
            continue
        scores = {stage: [of[i]["correct"] for i in ids] for stage, of in by_model.items()}
        first = BASE if BASE in scores else next(iter(scores))
        cell: dict = {
            "items": len(ids),
            "measure": task.measure,
            "chance": _chance(task, scored),
            "against": first,
            "models": {
                stage: {
                    **compare.mean(values)._asdict(),
                    "scores": {
                        key: compare.mean([by_model[stage][i]["scores"][key] for i in ids]).value for key in keys
                    },
                }
                for stage, values in scores.items()
                for keys in [by_model[stage][ids[0]]["scores"]]
            },
            "differences": {
                stage: {**(one := compare.difference(scores[first], values))._asdict(), "certain": one.certain}
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


def _chance(task: Task, items: list[Item]) -> float | None:
    """The share of options that one who guesses gets right; None for tasks without options."""
    return sum(1 / len(item.options) for item in items) / len(items) if task.kind == "options" else None


def _folder(stage: str) -> str:
    return stage.replace("/", "-")
