"""dpo/watch: the SFT model, every round of preference tuning and every snapshot of a round, on one fixed set of prompts.

The prompts are held out of all rounds (`ray_jobs/alignment/pairs.py`). Each model answers them greedily; its answers are
scored by the reward model, and compared with the SFT model's by a judge if there is one. Records go to metrics/probe.jsonl,
to the gauges and to the trackers; `step` counts updates through all rounds. The answers of a model that did not change are
not made again, and no verdict is paid twice.
"""

from __future__ import annotations

import json
from typing import TypedDict

import numpy as np
import torch

from cluster import gauges, storage
from ray_jobs.alignment import chats, generate, pairs
from ray_jobs.alignment.probe_records import QUESTIONS, RECORDS, SNAPSHOTS
from ray_jobs.config.given import given
from ray_jobs.run import identifier
from ray_jobs.run.fingerprint import code, digest
from ray_jobs.run.graph import OFF_POLICY, REWARD, SFT_2, rounds
from ray_jobs.run.job import Job
from ray_jobs.training.tokenizer import TokenizerSetting, load_tokenizer, tokenizer_of
from ray_jobs.work import device
from ray_jobs.work.tasks import map_on_ray, written
from train import model
from train.generation import judge, probe
from train.generation.continuations import BROKEN
from train.methods import dpo
from train.monitor import trackers
from train.scores import logprobs
from train.selection import preference

GREEDY = {"n": 1, "temperature": 0.0, "top_p": 1.0, "seed": 0}


class Task(TokenizerSetting):
    prompts: list[dict]
    context: int
    model: str
    precision: str
    out: str


class Point(TypedDict):
    """A model on the way, and where what it says is kept."""

    step: int  # updates of all rounds so far
    stage: str
    update: int  # of its round
    model: str
    folder: str


def run(job: Job) -> dict:
    recipe = job.dpo
    held_out = chats.read_rows(job.input(OFF_POLICY, pairs.PROBE))
    prompts = _prompts(job, held_out)
    rows = chats.account(len(held_out), {"too_long": len(held_out) - len(prompts)})
    if not prompts:
        why = "no held-out prompt fits" if held_out else "no language has four prompts, so none is held out to watch"
        return {"prompts": 0, "note": why, **rows}
    points = _points(job, prompts)
    wanted = {point["folder"].rsplit("/", 1)[1] for point in points}
    for stale in {
        path.split("/")[-3] for path in storage.glob(job.path("answers", "*", "samples", "settings.json"))
    } - wanted:
        storage.remove(job.path("answers", stale))
    answers = _answers(job, points, prompts)
    namer = pairs.namer(identifier.of(job.recipe))
    records = [
        {"step": point["step"], "stage": point["stage"], "update": point["update"]}
        | probe.facts(rows, answers[0], recipe.beta, namer)
        for point, rows in zip(points, answers, strict=True)
    ]
    if given(recipe.watch).judge:
        for record, said in zip(records[1:], _judged(job, answers), strict=True):
            record |= said
    _publish(job, records)
    chats.write_rows(job.path(QUESTIONS), _questions(answers[0], answers[-1]))
    warnings = [sentence for record in records for sentence in probe.warnings(record, records[0])]
    return {"prompts": len(prompts), "models": len(points), **rows, "warnings": warnings, "last": records[-1]}


def _questions(first: list[dict], last: list[dict]) -> list[dict]:
    """Of each language the first question: {lang, question (its last turn), before, after: the answers of two models}."""
    found: dict[str, dict] = {}
    for row, other in zip(first, last, strict=True):
        question = row["prompt"][-1]["content"]
        said = {"before": row["answer"].rstrip(BROKEN), "after": other["answer"].rstrip(BROKEN)}
        found.setdefault(row["lang"], {"lang": row["lang"], "question": question, **said})
    return [found[lang] for lang in sorted(found)]


def _prompts(job: Job, held_out: list[dict]) -> list[dict]:
    """The rows of the probe that all models can read."""
    tokenizer = load_tokenizer(tokenizer_of(job))
    rows, _ = preference.cut_prompts(held_out, tokenizer, job.dpo.max_prompt_tokens)
    fits = {pair.id for pair in dpo.encode_pairs(tokenizer, rows, job.train.context)[0].chosen}
    return [row for row in rows if row["id"] in fits]


def _points(job: Job, prompts: list[dict]) -> list[Point]:
    """The models in the order of their updates, from the SFT model on; `folder` is where what they say is kept."""
    own = job.dpo.on_policy
    of_all = [prompts, job.manifest(REWARD)["fingerprint"], code("dpo_watch"), own.engine, own.max_new_tokens]
    points: list[Point] = []
    before = 0
    for stage in (SFT_2, OFF_POLICY, *rounds(job.recipe)):
        manifest = job.manifest(stage)
        updates = 0 if stage == SFT_2 else manifest.get("steps", 0)
        found = {
            int(path.split("/")[-2]): path for path in storage.glob(job.input(stage, SNAPSHOTS, "*", "config.json"))
        }
        models = {update: path.rsplit("/", 1)[0] for update, path in sorted(found.items()) if update < updates}
        for update, uri in (models | {updates: job.input(stage, "model")}).items():
            made = digest([manifest["fingerprint"], update, of_all])
            folder = job.path("answers", made)
            points.append({"step": before + update, "stage": stage, "update": update, "model": uri, "folder": folder})
        before += updates
    return points


def _answers(job: Job, points: list[Point], prompts: list[dict]) -> list[list[dict]]:
    """Of each model its answer to every prompt, with the reward and the log-probabilities of the prompt's pair."""
    shown = [{key: row.get(key) for key in ("id", "lang", "prompt", "task")} for row in prompts]
    policies = {storage.join(point["folder"], "samples"): point["model"] for point in points}
    said = generate.of_models(job, policies, shown, GREEDY)
    tasks: list[Task] = [
        {
            **tokenizer_of(job),
            "prompts": prompts,
            "context": job.train.context,
            "model": point["model"],
            "precision": job.train.precision,
            "out": storage.join(point["folder"], "logprobs.json"),
        }
        for point in points
    ]
    before = written([task["out"]] for task in tasks)
    map_on_ray(job, _logprobs, tasks, "models", gpus=device.wants_gpus(job), finished=before)
    answers = []
    for rows, task in zip(said, tasks, strict=True):
        found = storage.read_json(task["out"])
        columns = zip(rows, found["chosen"], found["rejected"], strict=True)
        answers.append([{**row, "chosen_logp": chosen, "rejected_logp": rejected} for row, chosen, rejected in columns])
    return answers


def _logprobs(task: Task) -> dict:
    """Log-probabilities of the probe's pairs under one model, written to `out`."""
    if storage.exists(task["out"]):
        return {}
    encoded, _ = dpo.encode_pairs(load_tokenizer(task), task["prompts"], task["context"])
    where = device.here()
    net = model.load(task["model"], device.dtype(task["precision"], where)).to(where)
    chosen, rejected = logprobs.logprobs(net, encoded.examples).astype(np.float64).reshape(2, -1).tolist()
    storage.write_json(task["out"], {"chosen": chosen, "rejected": rejected})
    return {}


def _judged(job: Job, answers: list[list[dict]]) -> list[dict]:
    """What the judge says of each model but the first, against the first."""
    own, baseline = judge.Judge(**given(given(job.dpo.watch).judge).model_dump()), answers[0]
    job.progress.start(len(baseline) * (len(answers) - 1), "verdicts")
    found = []
    for i, rows in enumerate(answers[1:]):
        compared = [
            {**row, "baseline": other["answer"], "baseline_finished": other["finished"]}
            for row, other in zip(rows, baseline, strict=True)
        ]

        def on_done(done: int, before: int = i * len(baseline)) -> None:
            job.progress.set(before + done)

        judgements = judge.compare(own, compared, storage.join(job.run_uri, "judge"), on_done)
        verdicts = [{"id": row["id"], **judgement._asdict()} for row, judgement in zip(rows, judgements, strict=True)]
        chats.write_rows(job.path("verdicts", f"{i + 1:03d}.jsonl"), verdicts)
        found.append(probe.judged(rows, baseline, [judgement.verdict for judgement in judgements]))
    return found


def _publish(job: Job, records: list[dict]) -> None:
    """The records as JSON Lines, gauges and in the trackers."""
    storage.write_text(storage.join(job.metrics, RECORDS), "".join(json.dumps(record) + "\n" for record in records))
    gauges.probe(records)
    names, config = job.train.trackers, given(job.dpo.watch).model_dump(exclude={"judge"})
    curves = trackers.Curves(job.recipe.name, "dpo-watch", job.metrics, config)
    with trackers.opened(names, curves, torch.device("cpu")) as track:
        for record in records:
            track(record)
