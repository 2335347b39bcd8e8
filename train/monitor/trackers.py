"""Training records in TensorBoard, Weights & Biases and MLflow, besides the run's own JSON Lines.

A tracker is two functions, `log(step, values)` and `close()`. Each is opened by one function below, which imports its library
only then. A run that was stopped goes on in the same curves: TensorBoard forgets what lies after the step that it goes on
from, W&B and MLflow are given the same run again. Accounts and servers are the libraries' own affair, by their environment
variables (WANDB_API_KEY, WANDB_MODE, MLFLOW_TRACKING_URI).
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple

import torch
from xxhash import xxh3_64_hexdigest

from cluster import storage
from train.distributed import data_parallel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Curves:
    """Whose curves these are: `project` and `name` are shown, `uri` (folder of the run's metrics) makes them unique."""

    project: str
    name: str
    uri: str
    config: Mapping

    @property
    def key(self) -> str:
        return xxh3_64_hexdigest(f"{self.uri}\n{self.name}".encode())


class Tracker(NamedTuple):
    log: Callable[[int, dict[str, float]], None]
    close: Callable[[], None]


def _tensorboard(curves: Curves) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    writers: list[SummaryWriter] = []

    def write(step: int, values: dict[str, float]) -> None:
        if not writers:
            folder = storage.join(curves.uri, "tensorboard", curves.name.replace("/", "-"))
            writers.append(SummaryWriter(folder, purge_step=step))
        for name, value in values.items():
            writers[0].add_scalar(name, value, step)
        writers[0].flush()

    def close() -> None:
        for writer in writers:
            writer.close()

    return Tracker(write, close)


def _wandb(curves: Curves) -> Tracker:
    import wandb

    folder = storage.local(curves.uri) if storage.is_local(curves.uri) else None
    if folder:
        os.makedirs(folder, exist_ok=True)  # W&B makes a folder of its own in it, or goes elsewhere when there is none
    run = wandb.init(
        project=curves.project, name=curves.name, id=curves.key, resume="allow", dir=folder, config=dict(curves.config)
    )
    return Tracker(lambda step, values: run.log(values, step=step), run.finish)


def _mlflow(curves: Curves) -> Tracker:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise ValueError("set MLFLOW_TRACKING_URI to the MLflow server")
    client = MlflowClient()
    found = client.get_experiment_by_name(curves.project)
    experiment = found.experiment_id if found else client.create_experiment(curves.project)
    runs = client.search_runs([experiment], filter_string=f"tags.pinisi = '{curves.key}'")
    if runs:
        run = runs[0].info.run_id
        client.update_run(run, status="RUNNING")
    else:
        run = client.create_run(experiment, run_name=curves.name, tags={"pinisi": curves.key}).info.run_id
        client.log_batch(run, params=[Param(name, str(value)) for name, value in curves.config.items()])

    def write(step: int, values: dict[str, float]) -> None:
        now = int(time.time() * 1000)
        client.log_batch(run, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    return Tracker(write, lambda: client.set_terminated(run))


TRACKERS = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}


def check(names: Sequence[str]) -> None:
    """Raises ValueError for a tracker whose library is not installed, without importing it."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"There is no tracker {name!r}; there are {', '.join(TRACKERS)}.")
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"The tracker {name} is not installed: pip install 'pinisi[trackers]' (or {name} alone).")


@contextmanager
def opened(names: Sequence[str], curves: Curves, device: torch.device) -> Iterator[Callable[[dict], None]]:
    """A function that gives a record of the loop to every tracker in `names`; rank 0 has them, every rank calls this.

    Raises ValueError on every rank for a tracker that cannot be opened. One that fails later is left out with a warning:
    a lost server must not stop the training.
    """
    check(names)
    trackers: dict[str, Tracker] = {}
    problem = None
    if data_parallel.rank_world()[0] == 0:
        try:
            for name in names:
                trackers[name] = TRACKERS[name](curves)
        except Exception as error:  # each library has its own ways to say that there is no server or no account
            problem = f"The tracker {name} cannot be opened: {error}"

    def write(record: dict) -> None:
        values = flat(record)
        for name in list(trackers):
            try:
                trackers[name].log(record["step"], values)
            except Exception as error:
                log.warning("the tracker %s is left out from update %d on: %s", name, record["step"], error)
                del trackers[name]

    try:
        if names and data_parallel.sum_over_ranks([problem is not None], device)[0]:
            raise ValueError(problem or "A tracker cannot be opened on rank 0.")
        yield write
    finally:
        for tracker in trackers.values():
            with suppress(Exception):
                tracker.close()


def flat(record: Mapping, prefix: str = "") -> dict[str, float]:
    """The numbers of a record; {"loss_by_language": {"lo": 2.5}} becomes {"loss_by_language/lo": 2.5}.

    >>> flat({"step": 7, "loss": 2.0, "bits_per_byte": {"lo": 1.5}, "note": "text"})
    {'loss': 2.0, 'bits_per_byte/lo': 1.5}
    """
    values: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and f"{prefix}{name}" != "step":
            values[f"{prefix}{name}"] = float(value)
    return values
