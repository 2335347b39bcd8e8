"""Which reward model a run scores with: the one that it trained, or the one that `train.reward.model` names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import numpy as np

from ray_jobs.run.graph import REWARD
from ray_jobs.run.job import Job
from ray_jobs.work import device
from train.scores import reward_scores


class RewardModel(TypedDict):
    """What `scorer` needs to know."""

    model: str
    precision: str


def settings(job: Job) -> RewardModel:
    """The reward model of the run."""
    trained = job.path("model") if job.stage.name == REWARD else job.input(REWARD, "model")
    return {"model": job.reward.model or trained, "precision": job.train.precision}


def scorer(of: RewardModel) -> Callable[[list[list[dict]]], np.ndarray]:
    """conversations -> rewards, with the model loaded where this task runs."""
    where = device.here()
    model, tokenizer = reward_scores.load(of["model"], where, device.dtype(of["precision"], where))
    return lambda conversations: reward_scores.score(model, tokenizer, conversations, device.BATCH_TOKENS[where.type])
