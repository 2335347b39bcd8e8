"""draft: a small model that proposes what the aligned one will say, so that it says it in fewer passes (GliDe, EAGLE-3).

model              the draft (`train.drafts.folders`) and its card, read beside the aligned model; an EAGLE-3 one is as vLLM
                   reads it
trained.json       what the training said, so that a run that is killed while it measures does not train again
acceptance.json    of each language: tokens a pass of the model, proposals accepted by position, coverage of the draft's
                   vocabulary, seconds with and without the draft, and whether the text was the same

Each language counts alike: in the tokens that the draft may propose, and in what it is trained on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cluster import storage
from ray_jobs.alignment import chats
from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe
from ray_jobs.run.graph import DRAFT_ANSWERS, aligned
from ray_jobs.run.job import Job
from ray_jobs.training import fit
from ray_jobs.training.tokenizer import TokenizerSetting, load_tokenizer, tokenizer_of
from ray_jobs.work import device
from ray_jobs.work.tasks import map_on_ray, written
from ray_jobs.work.trainer import launch
from train import loader, loop, model
from train.batches import examples
from train.batches.decoder import CausalLM
from train.batches.examples import Example
from train.checkpoint import checkpoint
from train.distributed import data_parallel
from train.drafts import eagle3, folders, glide, learn, measure, vocabulary
from train.generation.generate import stop_ids
from train.monitor.metrics import JsonLines

ALONE = {"parallel": "replicate", "shard_within": None, "compile": False, "activation_checkpointing": "none"}
"""A draft is one layer: each worker has it and the model that it reads from."""


class Settings(fit.StartSettings):
    rows: str
    size: int | None  # of the draft's vocabulary
    method: str
    gamma: int
    kind: str  # of loss
    final_norm: bool
    epochs: int
    stage: str  # that made the model


class Task(TokenizerSetting):
    """The prompts of a language, to be answered with and without the draft."""

    model: str
    draft: str
    dtype: str
    lang: str
    prompts: list[list[int]]
    most: int
    out: str


def run(job: Job) -> dict:
    own, stage = given(job.train.draft), aligned(job.recipe)
    rows = chats.read_rows(job.input(DRAFT_ANSWERS, "rows.jsonl"))
    learnt, measured = _split(rows, own.eval_prompts_per_language)
    chats.write_rows(job.path("rows.jsonl"), learnt)
    settings: Settings = {
        **fit.settings(job, fit.loop_config(job, own.optimiser) | ALONE),
        **tokenizer_of(job, stage),
        "model": job.input(stage, "model"),
        "rows": job.path("rows.jsonl"),
        "size": own.vocabulary,
        "method": own.method,
        "gamma": own.gamma,
        "kind": own.loss,
        "final_norm": own.final_norm,
        "epochs": own.epochs,
        "stage": stage,
    }
    trained = job.path("trained.json")
    if not storage.exists(trained):
        storage.write_json(trained, launch(job, train_worker, settings))
    result = storage.read_json(trained)
    found = _measured(job, settings, measured, own.answers.max_new_tokens)
    words = folders.vocabulary(job.path("model"))
    for lang, of in found.items():
        answers = [row["answer_ids"] for row in measured if row["lang"] == lang]
        of["coverage"] = 1.0 if words is None else round(measure.covered(answers, words), 4)
    worst = measure.worst(found)
    facts = {"method": own.method, "gamma": own.gamma, "model": stage, "languages": found, "worst": worst}
    storage.write_json(job.path("acceptance.json"), facts)
    storage.write_text(job.path("model", "README.md"), card(job.recipe, {**result, **facts}))
    unmeasured = sorted({row["lang"] for row in rows} - found.keys())
    said = [f"draft: {lang} has one answer only, so nothing was measured in it" for lang in unmeasured]
    return {**result, **facts, "warnings": [*measure.warnings(found), *said]}


def card(recipe: Recipe, facts: dict) -> str:
    """The draft's README.md: which model it is for, and what it is worth in each language. `facts` are those of the manifest."""
    measured = [
        f"| {lang} | {of['tokens_per_call']:.2f} | {of['coverage']:.1%} | {of['equal']} of {of['prompts']} | {of['looping']} |"
        for lang, of in facts["languages"].items()
    ]
    return "\n".join(
        [
            "---",
            f"language: [{', '.join(recipe.languages)}]",
            f"license: {recipe.export.licence or 'unknown'}",
            f"base_model: {recipe.name}-chat",
            "tags: [pinisi, speculative-decoding]",
            "---",
            f"# {recipe.name}-draft",
            "",
            f"A draft for the model `{recipe.name}-chat` (`export/chat`, stage `{facts['model']}`) and for no other: it reads "
            f"that model's {'states' if facts['method'] == 'eagle3' else 'keys, embedding and head'}. Method {facts['method']}, "
            f"{facts['parameters']:,} parameters; it proposes {facts['gamma']} tokens at a time out of {facts['vocabulary']:,}.",
            "",
            "Greedy answers are those of the model alone. Measured on prompts that it was not trained on; where most answers "
            "repeat themselves, the numbers say little about real text.",
            "",
            "| language | tokens a pass of the model | tokens it can propose | same answers | repeat themselves |",
            "|---|--:|--:|--:|--:|",
            *measured,
            "",
        ]
    )


def _split(rows: list[dict], per_language: int) -> tuple[list[dict], list[dict]]:
    """(rows to learn from, rows to be measured on): of each language `per_language`, a fifth at most but one of two, by a hash of
    their id."""
    measured: set[str] = set()
    for lang in sorted({row["lang"] for row in rows}):
        own = [row for row in rows if row["lang"] == lang]
        measured |= {row["id"] for row in chats.sample(own, min(per_language, max(len(own) // 5, len(own) // 2 and 1)))}
    return [row for row in rows if row["id"] not in measured], [row for row in rows if row["id"] in measured]


def train_worker(settings: Settings) -> dict:
    to, loop_settings = device.here(), settings["loop"]
    rows = chats.read_rows(settings["rows"])
    precision = loop_settings["precision"]
    precision = data_parallel.native_precision(to) if precision == "auto" else precision
    target = _target(settings["model"], "float32" if precision == "fp32" else "bfloat16", to)
    words = _words(rows, settings["size"], target.config.vocab_size, stop_ids(load_tokenizer(settings)))
    numbers = None if words is None else vocabulary.numbers(words, target.config.vocab_size)
    fitting, too_long = examples.within([_example(row) for row in rows], settings["context"])
    evened = learn.evened(fitting)
    batch_fn, packed = learn.batch_fn(evened, settings["context"], settings["seed"], settings["gamma"], numbers)
    steps = examples.steps(packed, settings["epochs"], loop_settings["rows_per_step"])
    config = loop.LoopConfig(**fit.with_steps(loop_settings, steps))
    draft = _draft(settings, target, words)
    metrics = JsonLines(settings["metrics_uri"])
    eagle = settings["method"] == "eagle3"
    objective: Any = eagle3.loss if eagle else learn.loss_fn(settings["gamma"], settings["kind"])
    with loader.ahead(batch_fn, config) as batches:
        summary = loop.fit(
            draft,
            batches,
            objective,
            config,
            settings["out"],
            device=to,
            on_log=lambda record: metrics(record | {"steps": steps}),
        )
    if fit.rank() == 0:
        folder = storage.join(settings["out"], "model")
        if isinstance(draft, eagle3.Eagle3):
            eagle3.save(draft, folder, settings["gamma"], settings["model"])
        else:
            glide.save(draft, folder, settings["gamma"], {"of": settings["stage"], "loss": settings["kind"]})
    checkpoint.clear(storage.join(settings["out"], "checkpoints"))
    return {
        **summary,
        "parameters": model.parameters(draft),
        "vocabulary": target.config.vocab_size if words is None else len(words),
        "packed_rows": packed,
        "left_out": len(too_long),
    }


def _target(uri: str, dtype: str, to: torch.device) -> CausalLM:
    return model.load(uri, getattr(torch, dtype)).to(to).requires_grad_(False).eval()


def _draft(settings: Settings, target: CausalLM, words: np.ndarray | None) -> glide.Glide | eagle3.Eagle3:
    """The draft before it has learnt anything, in fp32."""
    if settings["method"] == "eagle3":
        torch.manual_seed(settings["seed"])
        whole = np.arange(target.config.vocab_size)
        return eagle3.Eagle3(target, torch.from_numpy(whole if words is None else words)).float()
    return glide.Glide(target, None if words is None else torch.from_numpy(words), settings["final_norm"]).float()


def _words(rows: list[dict], size: int | None, whole: int, always: list[int]) -> np.ndarray | None:
    """The draft's vocabulary, None for all: counted in prompts and answers, with what ends an answer."""
    if size is None or size >= whole:
        return None
    texts: dict[str, list[np.ndarray]] = {}
    for row in rows:
        texts.setdefault(row["lang"], []).append(np.asarray([*row["prompt_ids"], *row["answer_ids"]], np.int64))
    return vocabulary.balanced(vocabulary.count(texts, whole), size, always)


def _example(row: dict) -> Example:
    ids = np.asarray([*row["prompt_ids"], *row["answer_ids"]], np.int64)
    return Example(row["id"], row["lang"], ids, np.arange(len(ids)) >= len(row["prompt_ids"]))


def _measured(job: Job, settings: Settings, rows: list[dict], most: int) -> dict[str, dict]:
    """What the draft does in each language."""
    gpus = device.wants_gpus(job)
    tasks: list[Task] = [
        {
            "tokenizer": settings["tokenizer"],
            "model": settings["model"],
            "draft": job.path("model"),
            "dtype": "bfloat16" if gpus and job.train.precision != "fp32" else "float32",
            "lang": lang,
            "prompts": [row["prompt_ids"] for row in rows if row["lang"] == lang],
            "most": most,
            "out": job.path("measured", f"{lang}.json"),
        }
        for lang in sorted({row["lang"] for row in rows})
    ]
    before = written([task["out"]] for task in tasks)
    map_on_ray(job, measure_language, tasks, "languages to answer in", gpus=gpus, finished=before)
    return {task["lang"]: storage.read_json(task["out"]) for task in tasks}


def measure_language(task: Task) -> dict:
    """Answers to the prompts of a language, with and without the draft, one prompt at a time, as a chat asks."""
    if not storage.exists(task["out"]):
        target = _target(task["model"], task["dtype"], device.here())
        proposer, gamma = folders.proposer(task["draft"], target)
        found = measure.acceptance(
            target, proposer, task["prompts"], stop_ids(load_tokenizer(task)), task["most"], gamma
        )
        storage.write_json(task["out"], found)
    return {}
