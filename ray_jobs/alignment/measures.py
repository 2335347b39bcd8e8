"""Rewards, perplexities and embeddings of chat rows: each measured by shards of rows, so that a killed run goes on.

A shard is `ROWS` rows; a task loads one model and measures several shards with it, writing a file for each. Which rows a
batch holds does not depend on workers or restarts, so neither do the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypedDict

import numpy as np
import pyarrow as pa

from cluster import storage
from ray_jobs.alignment import chats, reward_model
from ray_jobs.run.job import Job
from ray_jobs.training.tokenizer import TokenizerSetting, load_tokenizer, tokenizer_of
from ray_jobs.work import device
from ray_jobs.work.tasks import map_on_ray, written
from train import model
from train.batches import examples
from train.chat import conversations
from train.scores import embed

ROWS = 1024  # of a shard
SHARDS = 4  # of a task

Measure = Callable[[list[dict]], pa.Table]  # rows -> their table


class Kind(TypedDict, total=False):
    """What a measure needs of its own."""

    reward: reward_model.RewardModel
    model: str
    embed: bool


class Task(Kind, TokenizerSetting):
    """Shards of rows, and one measure of them."""

    folder: str
    context: int
    precision: str
    measure: str
    names: list[str]


def split(rows_uri: str, folder: str) -> list[str]:
    """Copy a file of chat rows to `folder/rows/<name>.jsonl`, `ROWS` each; returns the names of the shards."""
    names: list[str] = []
    lines: list[bytes] = []

    def flush() -> None:
        names.append(f"part-{len(names):05d}")
        storage.write_bytes(storage.join(folder, "rows", f"{names[-1]}.jsonl"), b"".join(lines))
        lines.clear()

    fs, path = storage.filesystem(rows_uri)
    with fs.open(path, "rb") as file:
        for line in file:
            lines.append(line)
            if len(lines) == ROWS:
                flush()
    if lines:
        flush()
    return names


def rows(folder: str, names: list[str]) -> Iterator[dict]:
    """The rows of all shards, one shard in memory at a time."""
    for name in names:
        yield from chats.read_rows(storage.join(folder, "rows", f"{name}.jsonl"))


def measure(job: Job, names: list[str], folder: str, kinds: dict[str, Kind]) -> None:
    """Measure all shards on the cluster. `kinds`: a measure -> its own settings; each becomes a folder with a table a shard.

    `reward`: id, reward; of `messages`. `surprise`: id, perplexity (null where a row does not fit in the context), and with
    `embed` embedding. `embedding`: id, embedding.
    """
    tasks: list[Task] = [
        {
            **tokenizer_of(job),
            **own,
            "folder": folder,
            "context": job.train.context,
            "precision": job.train.precision,
            "measure": kind,
            "names": names[i : i + SHARDS],
        }
        for i in range(0, len(names), SHARDS)
        for kind, own in kinds.items()
    ]
    before = written(list(_out(task).values()) for task in tasks)
    map_on_ray(job, measure_shards, tasks, "tasks of measures", gpus=device.wants_gpus(job), finished=before)


def _out(task: Task) -> dict[str, str]:
    """The table of each shard of a task."""
    return {name: storage.join(task["folder"], task["measure"], f"{name}.parquet") for name in task["names"]}


def measure_shards(task: Task) -> dict:
    """Measure those shards of a task that are not there yet."""
    out = _out(task)
    missing = [name for name in task["names"] if not storage.exists(out[name])]
    if missing:
        function = _MEASURES[task["measure"]](task)
        for name in missing:
            table = function(chats.read_rows(storage.join(task["folder"], "rows", f"{name}.jsonl")))
            storage.write_table(out[name], table)
    return {}


def _rewards(task: Task) -> Measure:
    score = reward_model.scorer(task["reward"])

    def function(found: list[dict]) -> pa.Table:
        return pa.table(
            {"id": _ids(found), "reward": score([conversations.up_to_trained(row["messages"]) for row in found])}
        )

    return function


def _surprise(task: Task) -> Measure:
    """Perplexity of the answers under the base model, and its embeddings."""
    tokenizer, where = load_tokenizer(task), device.here()
    net = model.load(task["model"], device.dtype(task["precision"], where)).to(where)

    def function(found: list[dict]) -> pa.Table:
        fitting, _ = examples.within(conversations.encode(tokenizer, found, score="content"), task["context"])
        perplexity, embeddings = embed.surprise(net, fitting, device.BATCH_TOKENS[where.type])
        place = {example.id: i for i, example in enumerate(fitting)}
        places = [place.get(one) for one in _ids(found)]
        columns = {
            "id": _ids(found),
            "perplexity": pa.array([None if i is None else perplexity[i] for i in places], pa.float64()),
        }
        if task["embed"]:
            every = np.zeros((len(found), embeddings.shape[1]), np.float32)
            every[[k for k, i in enumerate(places) if i is not None]] = embeddings
            columns["embedding"] = _vectors(every)
        return pa.table(columns)

    return function


def _embeddings(task: Task) -> Measure:
    where = device.here()
    net = embed.SentenceModel(task["model"], where, device.dtype(task["precision"], where))

    def function(found: list[dict]) -> pa.Table:
        vectors = net.embed([row["messages"] for row in found], device.BATCH_TOKENS[where.type])
        return pa.table({"id": _ids(found), "embedding": _vectors(vectors)})

    return function


_MEASURES = {"reward": _rewards, "surprise": _surprise, "embedding": _embeddings}


def _ids(found: list[dict]) -> list[str]:
    return [row["id"] for row in found]


def _vectors(values_NE: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values_NE.reshape(-1)), values_NE.shape[1])


def column(folder: str, kind: str, names: list[str], name: str) -> np.ndarray:
    """One number of every row, in order; NaN where it is null."""
    tables = [storage.read_table(storage.join(folder, kind, f"{one}.parquet"), [name]) for one in names]
    return np.concatenate([table[name].to_numpy() for table in tables])


def embeddings(folder: str, kind: str, names: list[str], keep_N: np.ndarray, to: str) -> np.ndarray:
    """The embeddings of the rows kept, in order, float32 [kept, E], in a file of this machine at `to`, memory-mapped."""
    start = width = 0
    with open(to, "wb") as file:
        for name in names:
            vectors = storage.read_table(storage.join(folder, kind, f"{name}.parquet"), ["embedding"])["embedding"]
            width = vectors.type.list_size
            every = vectors.combine_chunks().flatten().to_numpy().reshape(-1, width)
            file.write(every[keep_N[start : start + len(every)]].tobytes())
            start += len(every)
    return np.memmap(to, np.float32, "r+").reshape(-1, width)
