"""The run's tokenizer, where it lies and how workers load it."""

from __future__ import annotations

from typing import TypedDict

from cluster import storage
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.run import adopted
from ray_jobs.run.graph import LONG_CONTEXT, TOKENIZE, lengthened
from ray_jobs.run.job import Job


class TokenizerSetting(TypedDict):
    """What of a task's settings says where the run's tokenizer lies."""

    tokenizer: str


def tokenizer_of(job: Job, stage: str | None = None) -> TokenizerSetting:
    """The setting that `load_tokenizer` reads: where the tokenizer lies that the model of `stage` (of this one where it is left
    out) is trained and served with. Behind an anchor that is one that puts the anchor before each text."""
    own = lengthened(job.recipe, stage or job.stage.name)
    maker = LONG_CONTEXT if own and own.mask == "anchor" else TOKENIZE
    return {"tokenizer": adopted.path(job.run_uri, maker, "tokenizer")}


def load_tokenizer(settings: TokenizerSetting):
    return tokenizers.load(storage.localize(settings["tokenizer"]))
