"""What preference tuning and the probe that watches it leave for one another and for the report."""

from __future__ import annotations

import json

from cluster import storage
from ray_jobs.run import adopted
from ray_jobs.run.graph import DPO_WATCH

SNAPSHOTS = "snapshots"  # folder of <update>/, models on the way
RECORDS = "probe.jsonl"  # in metrics/
QUESTIONS = (
    "questions.jsonl"  # in dpo/watch: of each language one question, and what the first and the last model answer
)


def records(uri: str) -> list[dict]:
    """The records of a run: "step" (updates of all rounds so far), "stage", "update" (of that stage), and
    `train.generation.probe.facts`."""
    path = storage.join(adopted.home(uri, DPO_WATCH), "metrics", RECORDS)
    if not storage.exists(path):
        return []
    return [json.loads(line) for line in storage.read_bytes(path).decode().split("\n") if line]
