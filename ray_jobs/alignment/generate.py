"""Answers of a policy to prompts, with their rewards: engine "hf" (ours) or "vllm", a shard of prompts at a time.

    FOLDER/settings.json          what the answers depend on; another setting removes the folder
    FOLDER/drawn/part-*.jsonl     the engine's tokens of a shard of prompts, with their log-probabilities
    FOLDER/part-*.jsonl           the same as text, with rewards

Each file appears when it is whole, so a killed run loses the shards in flight. Engine and scoring are tasks of their own:
a GPU holds one model at a time. Before rewards are taken from a group of shards, the trainer's own model computes the
log-probabilities of some of its answers; when they are not those of the engine, the run stops.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

import torch

from cluster import storage
from ray_jobs.alignment import chats, reward_model
from ray_jobs.config.given import given
from ray_jobs.config.training import DraftAnswers
from ray_jobs.config.wildbench import Wildbench
from ray_jobs.run.job import Job
from ray_jobs.training.tokenizer import TokenizerSetting, load_tokenizer, tokenizer_of
from ray_jobs.work import device
from ray_jobs.work.tasks import map_on_ray, written
from train import model
from train.batches.decoder import CausalLM
from train.chat.conversations import encode_prompts
from train.generation import generate, vllm_engine

PROMPTS_PER_SHARD = 16
SHARDS_PER_TASK = {"hf": 1, "vllm": 64}  # vLLM takes a minute to start
PROBED = 8  # answers of each group of shards
GAP = {torch.float32: 1e-3, torch.bfloat16: 5e-2}  # mean of the absolute differences, some times what rounding does


class Shard(TypedDict):
    prompts: list[dict]
    drawn: str
    out: str


class Policy(TokenizerSetting):
    """A model, and how its answers are drawn and, where there is a reward model, scored."""

    policy: str
    reward: reward_model.RewardModel | None
    engine: str
    python: str | None
    dtype: str
    max_gap: float
    max_model_len: int
    sampling: dict[str, Any]  # fields of a Sampling


class Task(Policy):
    """A group of shards of prompts."""

    shards: list[Shard]


def samples(job: Job, policy: str, prompts: list[dict], folder: str, seed: int) -> list[dict]:
    """`train.dpo.on_policy.samples` scored answers to each prompt {id, lang, prompt, task}; a killed run goes on.

    `policy`: URI of a model. What is written lies in `folder`. Raises ValueError when the engine cannot run here, and when
    it runs other weights or another template than the trainer.
    """
    return of_models(job, {folder: policy}, prompts, {"seed": seed})[0]


def of_models(job: Job, policies: dict[str, str], prompts: list[dict], sampling: dict) -> list[list[dict]]:
    """`samples` of several models side by side. `policies`: folder -> URI of a model; `sampling`: fields of
    `train.generation.generate.Sampling` that are not to be the recipe's."""
    own, gpus = job.dpo.on_policy, _gpus_for(job, job.dpo.on_policy.engine, "train.dpo.on_policy.engine")
    settings = {
        "n": own.samples,
        "temperature": own.temperature,
        "top_p": own.top_p,
        "max_new_tokens": own.max_new_tokens,
        **sampling,
    }
    dtype = _dtype(job, own.engine, gpus)

    def asked(policy: str) -> Policy:
        return {
            **tokenizer_of(job),
            "policy": policy,
            "reward": reward_model.settings(job),
            "engine": own.engine,
            "python": own.vllm_python,
            "dtype": dtype,
            "max_gap": own.max_logprob_gap or GAP[getattr(torch, dtype)],
            "max_model_len": job.dpo.max_prompt_tokens + settings["max_new_tokens"],
            "sampling": settings,
        }

    of_each = [list(groups(asked(policy), prompts, folder)) for folder, policy in policies.items()]
    tasks = [task for of_model in of_each for task in of_model]
    # One engine goes first and is probed: if its weights are wrong, one group of shards is lost and not all.
    ahead = 1 if own.engine == "vllm" else len(tasks)
    for part in (tasks[:ahead], tasks[ahead:]):
        if part:
            before = written([shard["drawn"] for shard in task["shards"]] for task in part)
            map_on_ray(job, draw, part, "groups of prompts to answer", gpus=gpus, finished=before)
            before = written([shard["out"] for shard in task["shards"]] for task in part)
            map_on_ray(job, score, part, "groups of prompts to score", gpus=gpus, finished=before)
    return [
        [row for task in of_model for shard in task["shards"] for row in chats.read_rows(shard["out"])]
        for of_model in of_each
    ]


def greedy(
    job: Job,
    policies: Mapping[str, tuple[str, str]],
    prompts: list[dict],
    own: Wildbench | DraftAnswers,
    *,
    most: int,
    context: int,
    keys: tuple[str, ...] = ("id", "answer", "tokens", "finished"),
) -> dict[str, list[dict]]:
    """One greedy answer of each model to every prompt {id, lang, prompt}, without rewards; a killed run goes on.

    `policies`: a folder for what is written -> URI of a model and of its tokenizer. Answers have `most` tokens at most; `keys`
    are what is returned of each (`train.generation.generate`)."""
    section = "evaluate.wildbench" if isinstance(own, Wildbench) else "train.draft.answers"
    gpus = _gpus_for(job, own.engine, f"{section}.engine")
    of_each: dict[str, list[Task]] = {}
    for folder, (policy, tokenizer) in policies.items():
        asked: Policy = {
            "tokenizer": tokenizer,
            "policy": policy,
            "reward": None,
            "engine": own.engine,
            "python": own.vllm_python,
            "dtype": _dtype(job, own.engine, gpus),
            "max_gap": 0.0,
            "max_model_len": context,
            "sampling": {"n": 1, "temperature": 0.0, "top_p": 1.0, "seed": 0, "max_new_tokens": most},
        }
        of_each[folder] = list(groups(asked, prompts, folder))
    tasks = [task for of_model in of_each.values() for task in of_model]
    before = written([shard["drawn"] for shard in task["shards"]] for task in tasks)
    map_on_ray(job, draw, tasks, "groups of prompts to answer", gpus=gpus, finished=before)
    found = {}
    for folder, of_model in of_each.items():
        found[folder] = [
            {key: row[key] for key in keys}
            for task in of_model
            for reads in [load_tokenizer(task)]
            for shard in task["shards"]
            for row in _answers(reads, shard)
        ]
    return found


def _gpus_for(job: Job, engine: str, key: str) -> bool:
    gpus = device.wants_gpus(job)
    if engine == "vllm" and not gpus:
        raise ValueError(f"{key}: vllm needs a GPU, and this cluster has none; hf runs without.")
    return gpus


def _dtype(job: Job, engine: str, gpus: bool) -> str:
    return "float32" if engine == "hf" and not (gpus and job.train.precision != "fp32") else "bfloat16"


def groups(common: Policy, prompts: list[dict], folder: str) -> Iterator[Task]:
    """One task for each group of shards. What lies in `folder` from other settings or prompts is removed."""
    digest = hashlib.sha256(json.dumps(prompts, sort_keys=True).encode()).hexdigest()
    depends = ("tokenizer", "policy", "reward", "engine", "dtype", "max_model_len", "sampling")
    every: Mapping[str, object] = common
    settings = {"prompts": digest, "per_shard": PROMPTS_PER_SHARD, **{name: every[name] for name in depends}}
    marker = storage.join(folder, "settings.json")
    if not storage.exists(marker) or storage.read_json(marker) != settings:
        storage.remove(folder)
        storage.write_json(marker, settings)
    shards: list[Shard] = [
        {
            "prompts": prompts[i : i + PROMPTS_PER_SHARD],
            "drawn": storage.join(folder, "drawn", f"part-{number:05d}.jsonl"),
            "out": storage.join(folder, f"part-{number:05d}.jsonl"),
        }
        for number, i in enumerate(range(0, len(prompts), PROMPTS_PER_SHARD))
    ]
    n = SHARDS_PER_TASK[common["engine"]]
    for i in range(0, len(shards), n):
        yield {**common, "shards": shards[i : i + n]}


def draw(task: Task) -> dict:
    """The engine's answers to a group of shards, as tokens."""
    left = [s for s in task["shards"] if not storage.exists(s["drawn"]) and not storage.exists(s["out"])]
    if not left:
        return {}
    tokenizer = load_tokenizer(task)
    if task["engine"] == "vllm":
        _draw_by_vllm(task, tokenizer, left)
        return {}
    sampling = generate.Sampling(**task["sampling"])
    net = model.load(task["policy"], getattr(torch, task["dtype"])).to(device.here())
    for shard in left:
        rows = generate.generate(net, tokenizer, shard["prompts"], sampling)
        drawn = [
            {"id": r["id"], "sample": r["sample"], "ids": r["answer_ids"], "logprobs": r["answer_logprobs"]}
            for r in rows
        ]
        chats.write_rows(shard["drawn"], drawn)
    return {}


def _draw_by_vllm(task: Task, tokenizer, shards: list[Shard]) -> None:
    def published(shard: Shard, local: str) -> None:
        with open(local, "rb") as file:
            storage.write_bytes(shard["drawn"], file.read())

    request = {
        "model": storage.localize(task["policy"]),
        "max_model_len": task["max_model_len"],
        "sampling": task["sampling"],
        "stop": generate.stop_ids(tokenizer),
        "shards": [
            {
                "prompts": [
                    {"id": row["id"], "ids": ids}
                    for row, ids in zip(
                        shard["prompts"],
                        encode_prompts(tokenizer, [row["prompt"] for row in shard["prompts"]]),
                        strict=True,
                    )
                ]
            }
            for shard in shards
        ],
    }
    vllm_engine.run(request, task["python"], lambda number, local: published(shards[number], local))


def score(task: Task) -> dict:
    """Rewards of a group's answers, as rows, after the probe. Raises ValueError when the engine is not the trainer's model."""
    left = [shard for shard in task["shards"] if not storage.exists(shard["out"])]
    if not left:
        return {}
    tokenizer = load_tokenizer(task)
    by_shard = [_answers(tokenizer, shard) for shard in left]
    net = model.load(task["policy"], getattr(torch, task["dtype"])).to(device.here())
    gap = probe(net, [row for rows in by_shard for row in rows], task)
    del net  # a GPU may hold one model, not two
    rewards_of = reward_model.scorer(given(task["reward"]))
    for shard, rows in zip(left, by_shard, strict=True):
        conversations = [[*row["prompt"], {"role": "assistant", "content": row["answer"] or " "}] for row in rows]
        rewards = rewards_of(conversations)
        tokens = ("prompt_ids", "answer_ids", "answer_logprobs")
        chats.write_rows(
            shard["out"],
            [
                {**{k: v for k, v in row.items() if k not in tokens}, "reward": float(value), "gap": gap}
                for row, value in zip(rows, rewards, strict=True)
            ],
        )
    return {}


def _answers(tokenizer, shard: Shard) -> list[dict]:
    prompts = shard["prompts"]
    drawn: dict[str, list[generate.Drawn]] = {}
    for row in chats.read_rows(shard["drawn"]):
        drawn.setdefault(row["id"], []).append(generate.Drawn(row["ids"], row["logprobs"]))
    prompt_ids = encode_prompts(tokenizer, [row["prompt"] for row in prompts])
    return generate.answers(tokenizer, prompts, prompt_ids, [drawn[row["id"]] for row in prompts])


def probe(net: CausalLM, rows: list[dict], task: Policy) -> float:
    """The gap between engine and trainer (`net`) on some of `rows`. Raises ValueError when it is above `max_gap`."""
    probed = rows[:: max(1, len(rows) // PROBED)][:PROBED]
    gap = generate.logprob_gap(net, probed)
    if not gap <= task["max_gap"]:
        raise ValueError(
            f"The engine {task['engine']} does not sample from the model that is trained: on {len(probed)} answers their "
            f"log-probabilities of a token differ by {gap:.2g} on average (train.dpo.on_policy.max_logprob_gap is "
            f"{task['max_gap']:g}); it runs other weights ({task['policy']}) or another chat template."
        )
    return gap
