"""Watching a training stage: the held-out text that it is measured on, and where its records go (docs/training.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypedDict

import torch
import torch.distributed as dist

from cluster import document_tokens, gauges, storage
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.run import adopted
from ray_jobs.run.graph import MIXED, TOKENIZE
from ray_jobs.run.job import Job
from ray_jobs.training import task_suite
from ray_jobs.training.heldout import chosen
from train.batches.decoder import Decoder
from train.monitor import throughput, trackers
from train.monitor.heldout_text import Validation
from train.monitor.metrics import JsonLines
from train.scores import evaluate

BATCH_ROWS = 8


class WatchSettings(TypedDict):
    """What `validation` and `reporting` read of the recipe."""

    trackers: Sequence[str]
    project: str
    peak: float | None  # FLOP/s of a device
    eval_every: int
    eval_bytes: int  # of each language
    heldout: str
    replay: list[str]
    alarm: float  # bits per byte
    tasks: list[task_suite.Cell]


def settings(job: Job) -> WatchSettings:
    """Those of the recipe. Raises ValueError for a tracker that is not
    installed here, before any worker starts."""
    train = job.train
    trackers.check(train.trackers)
    return {
        "trackers": train.trackers,
        "project": job.recipe.name,
        "peak": train.peak_tflops and train.peak_tflops * 1e12,
        "eval_every": train.eval_every,
        "eval_bytes": train.eval_bytes_per_language,
        "heldout": adopted.path(job.run_uri, TOKENIZE, "heldout.parquet"),
        "replay": job.recipe.mixture.replay_languages,
        "alarm": train.forgetting_alarm,
        "tasks": task_suite.cells(job) if train.eval_tasks and job.stage.job in MIXED else [],
    }


def validation(watch: WatchSettings, context: int, tokenizer) -> Validation | None:
    """The held-out text of `settings`, packed; None when it is not to be measured."""
    if not watch["eval_every"]:
        return None
    columns = ["doc_id", "lang", "text"]
    rows = chosen(storage.read_table(watch["heldout"], columns).to_pylist(), watch["eval_bytes"])
    ids = tokenizers.encode(tokenizer, [text for _, text in rows])
    documents = [(lang, tokens, len(text.encode())) for (lang, text), tokens in zip(rows, ids, strict=True)]
    begin, eod = document_tokens.begin(tokenizer), document_tokens.end(tokenizer)
    heldout = evaluate.pack(documents, context=context, eod=eod, begin=begin, batch_rows=BATCH_ROWS)
    also = task_suite.suite(watch["tasks"], tokenizer, context).measure if watch["tasks"] else None
    return Validation(heldout, watch["eval_every"], tuple(watch["replay"]), watch["alarm"], also)


@contextmanager
def reporting(
    net: Decoder, watch: WatchSettings, *, metrics_uri: str, context: int, config: dict, device: torch.device
) -> Iterator[Callable[[dict], None]]:
    """A function for `fit`'s `on_log`: records, with their utilisation, go to the run's JSON Lines, to Ray's metrics endpoint
    and to the trackers. Call it on every rank."""
    metrics = JsonLines(metrics_uri)
    folder, _, file = metrics_uri.rpartition("/")
    stage = file.removesuffix(".jsonl")
    world = dist.get_world_size() if dist.is_initialized() else 1
    utilisation = throughput.utilisation(net, context, world, watch["peak"] or throughput.device_peak(device))
    with trackers.opened(watch["trackers"], trackers.Curves(watch["project"], stage, folder, config), device) as track:

        def report(record: dict) -> None:
            record = record | utilisation(record)
            metrics(record | {"steps": config["steps"]})  # of which `step` is one, for whoever follows
            gauges.training(stage, record)
            track(record)

        yield report
