"""The warm worker group: one group for several stages, errors as sentences, a dead worker's work done again."""

import textwrap

import pytest

from ray_jobs import recipe as recipes
from ray_jobs import trainer
from ray_jobs.progress import Progress
from ray_jobs.run import Job
from ray_jobs.stages import STAGES

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
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    (tmp_path / "warm_functions.py").write_text(textwrap.dedent(FUNCTIONS))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    recipe = recipes.load("demo", ["cluster.cpus=2"])
    stage = next(stage for stage in STAGES if stage.name == "base")
    yield Job(recipe, str(tmp_path / "run"), stage, "f", Progress("base", lambda line: None))
    trainer.stop()
    import ray

    ray.shutdown()


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
