"""The warm worker group: one group for several stages, errors as sentences, a dead worker's work done again, and SIGTERM
(what `ray job stop` sends) leaves a checkpoint."""

import asyncio
import os
import signal
import textwrap
import threading

import pytest

from cluster.engines import embedded
from ray_jobs import exits
from ray_jobs.config import reader as recipes
from ray_jobs.run.graph import STAGES
from ray_jobs.run.job import Job
from ray_jobs.run.progress import Progress
from ray_jobs.work import trainer
from train.checkpoint import checkpoint

pytestmark = pytest.mark.slow

FUNCTIONS = """
import os, pathlib
import torch.distributed as dist

def ranks(settings):
    return {"world": dist.get_world_size(), "double": 2 * settings["number"], "process": os.getpid()}

def fail(settings):
    raise ValueError("the number must be even")

def die_once(settings):
    mark = pathlib.Path(settings["mark"])
    if dist.get_rank() == 1 and not mark.exists():
        mark.touch()
        os._exit(1)
    dist.barrier()
    return {"done": True}

def train(settings):
    import time
    import torch
    from train.batches.parts import LossParts
    from train.loop import LoopConfig, fit

    net = torch.nn.Linear(1, 1)
    def batch(rows):
        time.sleep(0.1)
        return {"x": torch.ones(len(rows), 1), "count": torch.tensor(len(rows))}
    def loss(net, batch):
        return LossParts(net(batch["x"]).square().sum(), len(batch["x"]), {})
    config = LoopConfig(steps=10**6, rows_per_step=4, micro_rows=4, lr=0.1, checkpoint_every=10**6)
    return fit(net, batch, loss, config, settings["out"])
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    (tmp_path / "warm_functions.py").write_text(textwrap.dedent(FUNCTIONS))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    recipe = recipes.load("demo", ["cluster.cpus=2"])
    stage = next(stage for stage in STAGES if stage.name == "base")
    former = signal.signal(signal.SIGTERM, exits.terminate)
    yield Job(recipe, str(tmp_path / "run"), stage, "f", Progress("base", lambda line: None))
    signal.signal(signal.SIGTERM, former)
    trainer.stop()
    embedded.stop()


def test_a_group_runs_command_after_command(job, tmp_path):
    import warm_functions as functions

    first = trainer.launch(job, functions.ranks, {"number": 21})
    assert (first["world"], first["double"]) == (2, 42)
    with pytest.raises(ValueError, match="the number must be even"):
        trainer.launch(job, functions.fail, {})
    assert trainer.launch(job, functions.ranks, {"number": 1})["process"] == first["process"]  # the same, still warm
    assert trainer.launch(job, functions.die_once, {"mark": str(tmp_path / "mark")}) == {"done": True}
    assert trainer.launch(job, functions.ranks, {"number": 2})["process"] != first["process"]
    assert list((tmp_path / "run" / "base").glob("_result-*")) == []

    threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(KeyboardInterrupt):
        trainer.launch(job, functions.train, {"out": str(tmp_path / "out")})
    assert checkpoint.latest(str(tmp_path / "out" / "checkpoints")).step >= 1


def test_a_command_that_nobody_has_taken_is_not_waited_for():
    """SIGTERM while a group waits for its GPU nodes: there is no update to end and no checkpoint to write."""

    async def talk():
        mailbox = trainer._Mailbox()
        await mailbox.post({"function": "f"})
        assert not await mailbox.request_stop()
        assert await mailbox.after(0) == (1, {"function": "f"})
        assert await mailbox.request_stop()
        waiting = asyncio.create_task(mailbox.after(1))
        await asyncio.sleep(0)
        assert not waiting.done()
        await mailbox.post(None)
        assert await waiting == (2, None)

    asyncio.run(talk())
