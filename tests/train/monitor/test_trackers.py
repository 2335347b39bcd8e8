import importlib.util
import sys
import time
import types

import pytest
import torch

from train.monitor import trackers

CPU = torch.device("cpu")
RECORDS = [
    {"step": step, "loss": 4.0 - step / 10, "loss_by_language": {"id": 3.0, "lo": 5.0}, "forgetting": {}, "x": "text"}
    for step in (2, 4, 6)
]


def curves(folder, **more) -> trackers.Curves:
    settings = {"project": "demo", "name": "pretrain/stage1", "uri": str(folder), "config": {"lr": 1e-3, "steps": 6}}
    return trackers.Curves(**settings | more)


def write(names, folder, records=RECORDS) -> None:
    with trackers.opened(names, curves(folder), CPU) as log:
        for record in records:
            log(record)


def needs(name: str):
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


def test_numbers_of_a_record():
    assert trackers.flat(RECORDS[0]) == {"loss": 3.8, "loss_by_language/id": 3.0, "loss_by_language/lo": 5.0}


@needs("tensorboard")
def test_tensorboard_reads_back_what_was_written_also_after_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(["tensorboard"], tmp_path)
    # stopped after update 6, resumed from a checkpoint of update 3: updates 4 and 6 are written again
    write(["tensorboard"], tmp_path, [{"step": 4, "loss": 9.0}, {"step": 6, "loss": 8.0}])
    events = EventAccumulator(str(tmp_path / "tensorboard" / "pretrain-stage1"))
    events.Reload()
    assert [(e.step, round(e.value, 4)) for e in events.Scalars("loss")] == [(2, 3.8), (4, 9.0), (6, 8.0)]
    assert [e.step for e in events.Scalars("loss_by_language/lo")] == [2]


@needs("wandb")
def test_wandb_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    write(["wandb"], tmp_path)
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert file.stem == f"run-{curves(tmp_path).key}"
    until = time.monotonic() + 240
    while b"loss_by_language/lo" not in file.read_bytes():  # W&B's own process writes it, soon after `finish` returns
        assert time.monotonic() < until
        time.sleep(0.1)


@needs("mlflow")
def test_mlflow_on_files(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    write(["mlflow"], tmp_path)
    write(["mlflow"], tmp_path, [{"step": 8, "loss": 1.0}])
    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
    assert run.data.params == {"lr": "0.001", "steps": "6"} and run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, round(m.value, 4)) for m in history] == [(2, 3.8), (4, 3.6), (6, 3.4), (8, 1.0)]


class FakeWandb(types.ModuleType):
    """What we use of wandb's interface (0.30)."""

    def __init__(self):
        super().__init__("wandb")
        self.__spec__ = types.SimpleNamespace(name="wandb")
        self.runs: list = []

    def init(self, *, project, name, id, resume, dir, config):
        run = types.SimpleNamespace(
            id=id, project=project, name=name, resume=resume, config=config, rows=[], done=False
        )
        run.log = lambda values, step: run.rows.append((step, values))
        run.finish = lambda: setattr(run, "done", True)
        self.runs.append(run)
        return run


def test_wandb_is_given_the_same_run_again(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    write(["wandb"], tmp_path)
    write(["wandb"], tmp_path, RECORDS[1:])
    first, second = fake.runs
    assert first.id == second.id and first.resume == "allow" and first.done and second.done
    assert first.id != curves(tmp_path, name="pretrain/stage2").key != curves(tmp_path / "other").key
    assert first.rows[0] == (2, {"loss": 3.8, "loss_by_language/id": 3.0, "loss_by_language/lo": 5.0})
    assert (first.project, first.name, first.config["lr"]) == ("demo", "pretrain/stage1", 1e-3)


def test_a_tracker_that_fails_while_training_is_left_out(tmp_path, monkeypatch, caplog):
    fake, seen = FakeWandb(), []
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", lambda c: trackers.Tracker(lambda *a: seen.append(a), list))
    with trackers.opened(["wandb", "tensorboard"], curves(tmp_path), CPU) as log:
        log(RECORDS[0])
        fake.runs[0].log = lambda *a, **k: 1 / 0
        log(RECORDS[1])
        log(RECORDS[2])
    assert caplog.text.count("the tracker wandb is left out from update 4 on") == 1
    assert [step for step, _ in seen] == [2, 4, 6] and len(fake.runs[0].rows) == 1


def test_what_cannot_be_opened_is_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"The tracker mlflow is not installed: pip install 'pinisi\[trackers\]'"):
        write(["mlflow"], tmp_path)
    with pytest.raises(ValueError, match="There is no tracker 'wandbb'"):
        write(["wandbb"], tmp_path)
    monkeypatch.undo()
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(fake, "init", lambda **_: 1 / 0, raising=False)
    with pytest.raises(ValueError, match="The tracker wandb cannot be opened: division by zero"):
        write(["wandb"], tmp_path)


def test_no_tracker_needs_no_library(tmp_path):
    write([], tmp_path)
    assert list(tmp_path.iterdir()) == []
