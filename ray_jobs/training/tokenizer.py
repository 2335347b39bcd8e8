"""The run's tokenizer, where it lies and how workers load it."""

from __future__ import annotations

from cluster import storage
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.run.job import Job


def tokenizer_of(job: Job) -> dict:
    """The setting that `load_tokenizer` reads: where the run's tokenizer lies."""
    return {"tokenizer": storage.join(job.run_uri, "tokenize", "tokenizer")}


def load_tokenizer(settings: dict):
    return tokenizers.load(storage.localize(settings["tokenizer"]))
