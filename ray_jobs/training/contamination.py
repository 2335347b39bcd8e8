"""Which items of evaluation sets stand in what a run trains on, so that a score is read beside what may be memory.

`decontaminate` takes such documents out before training; this looks at what was left in, or was never asked to leave.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from curation import decontaminate
from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe
from ray_jobs.run import row_files
from ray_jobs.run.graph import QUALITY, SFT_DATA, SYNTHESIZE
from ray_jobs.run.job import Job
from ray_jobs.work.tasks import map_on_ray, written
from train.tasks.task import Item

BATCH_ROWS = 1024
ROUNDS = 16  # of looking again where something was found

Key = tuple[str, str, str]
"""Task, language and id of an item."""


class Work(TypedDict):
    """A part of the corpus or the chats, and where the numbers of the items found in it are written."""

    source: str
    items: str
    langs: list[str]  # of documents that a model is trained on
    out: str


def search(job: Job, items: Sequence[tuple[str, Item]]) -> dict[Key, list[str]]:
    """Where each of (task, item) stands, among "documents" and "chats" of the run; those that stand nowhere are left out.

    A killed stage goes on behind the last part."""
    langs = sorted(read_languages(job.recipe))
    read = [stage for stage in (QUALITY, SYNTHESIZE) if stage in job.stage.inputs and langs]
    parts = [part for stage in read for part in storage.glob(job.input(stage, "part-*.parquet"))]
    sources = dict.fromkeys(parts, "documents")
    if SFT_DATA in job.stage.inputs:
        sources[job.input(SFT_DATA, "rows.jsonl")] = "chats"
    if not sources:
        return {}
    uri = job.path("contamination", "items.json")
    storage.write_json(uri, [list(decontaminate.strings([*item.row.values()])) for _, item in items])
    work: list[Work] = [
        {"source": source, "items": uri, "langs": langs, "out": job.path("contamination", f"{i:05d}.json")}
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


def read_languages(recipe: Recipe) -> set[str]:
    """Of which languages a model of the run reads documents: all with pre-training, else those of a base that is made here."""
    train = given(recipe.train)
    return set(recipe.languages if train.pretrain else train.base.languages if train.base.shape else ())


def _search(work: Work) -> None:
    if storage.exists(work["out"]):
        return
    texts, index = _index(storage.read_bytes(work["items"]))
    found: set[int] = set()
    if work["source"].endswith(".jsonl"):
        rows = [row for _, row, _ in row_files.read(work["source"]) if row]
        said = ["\n".join(turn["content"] for turn in row["messages"]) for row in rows]
        found |= _found(said, texts, index)
    else:
        with storage.open_parquet(work["source"]) as parquet:
            langs = pa.array(work["langs"], pa.string())
            for batch in parquet.iter_batches(BATCH_ROWS, columns=["lang", "text"]):
                read = batch["text"].filter(pc.is_in(batch["lang"], langs))
                found |= _found(read.to_pylist(), texts, index)
    storage.write_json(work["out"], sorted(found))


def _found(read: list[str], texts: list[list[str]], index: decontaminate.Index) -> set[int]:
    """The items that stand in texts. An index says of a place which item it is of first, so what shares a passage with those
    found, or stands beside them, is looked for without them, until nothing new is found."""
    found = new = decontaminate.items_in(read, index)
    for _ in range(ROUNDS):
        if not new or len(found) == len(texts):
            break
        numbers = [i for i in range(len(texts)) if i not in found]
        rest = decontaminate.of_items([("", str(i)) for i in numbers], [texts[i] for i in numbers])
        new = {numbers[i] for i in decontaminate.items_in(read, rest)}
        found = found | new
    return found


@lru_cache(maxsize=1)
def _index(items: bytes) -> tuple[list[list[str]], decontaminate.Index]:
    """Texts of items in JSON and their index, made once for each process."""
    texts = json.loads(items)
    return texts, decontaminate.of_items([("", str(i)) for i in range(len(texts))], texts)
