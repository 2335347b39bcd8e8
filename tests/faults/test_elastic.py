"""Ray Train's elastic group on a simulated cluster: a node is lost and training goes on with one worker, another comes and
it grows again; a node that says it will go leaves a checkpoint. The loss list is that of the undisturbed run."""

import contextlib
import json
import subprocess
import sys
import textwrap
import threading

import pytest
from simulated_cluster import complete, lose, simulated, wait_for

from cluster.engines import embedded
from ray_jobs.config import reader as recipes
from ray_jobs.run.graph import STAGES
from ray_jobs.run.job import Job
from ray_jobs.run.progress import Progress
from ray_jobs.work import trainer
from train.checkpoint import checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]

WORKER = """
import time
import torch
import torch.distributed as dist
from train.batches.parts import LossParts
from train.loop import LoopConfig, fit
from train.monitor.metrics import JsonLines

def train(settings):
    torch.manual_seed(3)
    net = torch.nn.Linear(8, 1)
    def batch(rows):
        time.sleep(settings["pause"] / dist.get_world_size())
        x = torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(row)) for row in rows])
        return {"x": x, "count": torch.tensor(len(rows))}
    def loss(net, batch):
        return LossParts((net(batch["x"]) - batch["x"].sum(1, keepdim=True)).square().sum(), len(batch["x"]), {})
    records = JsonLines(settings["metrics_uri"])
    world = dist.get_world_size()
    config = LoopConfig(steps=settings["steps"], rows_per_step=4, micro_rows=4, lr=0.01, eps=1e-5, log_every=1,
                        checkpoint_every=settings["every"])
    return fit(net, batch, loss, config, settings["out"], on_log=lambda record: records(record | {"world": world}))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worker")
    (folder / "elastic_worker.py").write_text(textwrap.dedent(WORKER))
    with pytest.MonkeyPatch.context() as patch, simulated(2, PYTHONPATH=str(folder)) as nodes:
        patch.syspath_prepend(folder)
        yield nodes


def records(folder):
    path = folder / "metrics" / "base.jsonl"
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return [json.loads(line) for line in path.read_text().splitlines()]
    return []


def launch(cluster, folder, disturb, **settings):
    """Train on the cluster in a thread while `disturb()` runs here, as nodes are only added in the main thread."""
    import elastic_worker

    complete(cluster, 2)
    embedded.start(cluster.address)
    sets = ["train.workers=2", "train.min_workers=1", "train.resize_seconds=4", "train.device=cpu"]
    stage = next(stage for stage in STAGES if stage.name == "base")
    progress = Progress("base", lambda line: None)
    job = Job(recipes.load("demo", sets), str(folder), stage, "f", progress, address=cluster.address)
    results = []
    run = threading.Thread(
        target=lambda: results.append(
            trainer.launch(
                job, elastic_worker.train, {"out": str(folder / "out"), "metrics_uri": job.metrics_uri, **settings}
            )
        )
    )
    run.start()
    disturb()
    run.join()
    assert len(results) == 1
    return results[0]


def test_from_two_workers_to_one_to_two(cluster, tmp_path):
    def disturb():
        wait_for(lambda: len(records(tmp_path / "run")) >= 10)
        lose(cluster, next(iter(cluster.worker_nodes)))
        wait_for(lambda: any(r["world"] == 1 for r in records(tmp_path / "run")))
        complete(cluster, 2)
        wait_for(lambda: records(tmp_path / "run")[-1]["world"] == 2)

    launch(cluster, tmp_path / "quiet", lambda: None, steps=80, every=5, pause=0.0)
    launch(cluster, tmp_path / "run", disturb, steps=80, every=5, pause=1.6)
    want, got = records(tmp_path / "quiet"), records(tmp_path / "run")
    assert {r["world"] for r in want} == {2} and {r["world"] for r in got} == {1, 2} and got[-1]["world"] == 2
    for mine, theirs in zip(got, want, strict=True):
        assert (mine["step"], mine["lr"]) == (theirs["step"], theirs["lr"])
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=2e-5)


def test_a_node_that_says_it_will_go_leaves_a_checkpoint(cluster, tmp_path):
    steps = []

    def disturb():
        wait_for(lambda: len(records(tmp_path)) >= 3)
        node = next(iter(cluster.worker_nodes))
        words = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", cluster.address]
        subprocess.run([*command, "--node-id", node.node_id, *words, "300"], check=True)
        found = wait_for(lambda: checkpoint.latest(str(tmp_path / "out" / "checkpoints")))
        steps.append(found.step)

    launch(cluster, tmp_path, disturb, steps=60, every=1000, pause=0.5)
    assert 3 <= steps[0] < 60  # far from a multiple of 1000, and training went on
