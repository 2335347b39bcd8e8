"""The run's tokenizer, where it lies and how workers load it."""

from __future__ import annotations

from typing import TypedDict

from cluster import storage
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.run import adopted
from ray_jobs.run.graph import TOKENIZE
from ray_jobs.run.job import Job


class TokenizerSetting(TypedDict):
    """What of a task's settings says where the run's tokenizer lies."""

    tokenizer: str


def tokenizer_of(job: Job) -> TokenizerSetting:
    """The setting that `load_tokenizer` reads: where the run's tokenizer lies."""
    return {"tokenizer": adopted.path(job.run_uri, TOKENIZE, "tokenizer")}


def load_tokenizer(settings: TokenizerSetting):
    return tokenizers.load(storage.localize(settings["tokenizer"]))
