"""Which items of evaluation sets stand in what a run trains on, so that a score is read beside what may be memory.

`decontaminate` takes such documents out before training; this looks at what was left in, or was never asked to leave.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TypedDict

from cluster import storage
from curation import decontaminate
from ray_jobs.run import row_files
from ray_jobs.run.graph import QUALITY, SFT_DATA
from ray_jobs.run.job import Job
from ray_jobs.work.tasks import map_on_ray, written
from train.tasks.task import Item

BATCH_ROWS = 1024

Key = tuple[str, str, str]
"""Task, language and id of an item."""


class Work(TypedDict):
    """A part of the corpus or the chats, and where the numbers of the items found in it are written."""

    source: str
    items: str
    out: str


def search(job: Job, items: Sequence[tuple[str, Item]]) -> dict[Key, list[str]]:
    """Where each of (task, item) stands, among "documents" and "chats" of the run; those that stand nowhere are left out.

    A killed stage goes on behind the last part."""
    sources = {part: "documents" for part in _parts(job)}
    if SFT_DATA in job.stage.inputs:
        sources[job.input(SFT_DATA, "rows.jsonl")] = "chats"
    if not sources:
        return {}
    uri = job.path("contamination", "items.json")
    storage.write_json(uri, [list(decontaminate.strings([*item.row.values()])) for _, item in items])
    work: list[Work] = [
        {"source": source, "items": uri, "out": job.path("contamination", f"{i:05d}.json")}
        for i, source in enumerate(sources)
    ]
    map_on_ray(job, _search, work, "parts searched for items", finished=written([one["out"]] for one in work))
    found: dict[Key, list[str]] = {}
    for one in work:
        for number in storage.read_json(one["out"]):
            name, item = items[number]
            where = found.setdefault((name, item.lang, item.id), [])
            if sources[one["source"]] not in where:
                where.append(sources[one["source"]])
    return found


def _parts(job: Job) -> list[str]:
    return storage.glob(job.input(QUALITY, "part-*.parquet")) if QUALITY in job.stage.inputs else []


def _search(work: Work) -> None:
    if storage.exists(work["out"]):
        return
    index, found = _index(storage.read_bytes(work["items"])), set()
    if work["source"].endswith(".jsonl"):
        rows = [row for _, row, _ in row_files.read(work["source"]) if row]
        said = ["\n".join(turn["content"] for turn in row["messages"]) for row in rows]
        found |= decontaminate.items_in(said, index)
    else:
        with storage.open_parquet(work["source"]) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=["text"]):
                found |= decontaminate.items_in(batch["text"].to_pylist(), index)
    storage.write_json(work["out"], sorted(found))


@lru_cache(maxsize=1)
def _index(items: bytes) -> decontaminate.Index:
    """The index of texts in JSON, made once for each process."""
    texts = json.loads(items)
    return decontaminate.of_items([("", str(i)) for i in range(len(texts))], texts)
