"""No CPU work lands on a GPU node of a labelled cluster, although it has free CPUs; one node without labels serves both.

The cluster is simulated: nodes are Ray processes of this machine, one of them with a GPU that does not exist.
"""

import textwrap

import pytest
from simulated_cluster import simulated

from cluster.engines import placement

pytestmark = pytest.mark.slow

FUNCTIONS = """
import time
import ray

def where(row=None):
    time.sleep(0.2)  # so that more tasks wait than the CPU node has CPUs
    return {"node": ray.get_runtime_context().get_node_id()}

def gpus(item):
    return {"gpus": ray.get_gpu_ids()}

def role(settings):
    here = ray.get_runtime_context().get_node_id()
    labels = next(node["Labels"] for node in ray.nodes() if node["NodeID"] == here)
    return {"role": labels.get("role", "none"), "files": []}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("functions")
    (path / "placed_functions.py").write_text(textwrap.dedent(FUNCTIONS))
    return path


@pytest.fixture(scope="module")
def cluster(folder):
    import ray

    with pytest.MonkeyPatch.context() as patch, simulated(1, cpus=2, gpu=True, PYTHONPATH=str(folder)) as nodes:
        patch.syspath_prepend(folder)
        ray.init(nodes.address, log_to_driver=False)
        yield nodes.address


def roles():
    import ray

    return {node["NodeID"]: node["Labels"].get("role", "none") for node in ray.nodes()}


def test_tasks_and_actors(cluster):
    import placed_functions as functions
    import ray

    task = ray.remote(functions.where)
    cpu = ray.get([task.options(label_selector=placement.CPU).remote() for _ in range(12)])
    assert {roles()[row["node"]] for row in cpu} == {"cpu"}
    free = ray.get([task.remote() for _ in range(12)])
    assert "gpu" in {roles()[row["node"]] for row in free}  # what would have happened without the selector
    on_gpu = ray.get(task.options(num_gpus=1, label_selector=placement.GPU).remote())
    assert roles()[on_gpu["node"]] == "gpu"


def test_tasks_of_data_sets(cluster, monkeypatch):
    import placed_functions as functions
    import ray
    from ray.data.context import DataContext

    options = DataContext.get_current().execution_options
    monkeypatch.setattr(options, "label_selector", None)
    monkeypatch.setenv("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    placement.of_datasets()
    rows = ray.data.range(24, override_num_blocks=12).map(functions.where).take_all()
    assert {roles()[row["node"]] for row in rows} == {"cpu"}


def test_training_workers(cluster, folder, tmp_path):
    """Two workers of one CPU each fill the CPU node, and none goes to the eight free CPUs beside the GPU."""
    import placed_functions as functions

    from ray_jobs.config import reader as recipes
    from ray_jobs.run.graph import STAGES
    from ray_jobs.run.job import Job
    from ray_jobs.run.progress import Progress
    from ray_jobs.work import device, trainer

    recipe = recipes.load("demo", ["train.workers=2", "train.device=cpu"])
    stage = next(stage for stage in STAGES if stage.name == "base")
    job = Job(recipe, str(tmp_path / "run"), stage, "f", Progress("base", lambda line: None), address=cluster)
    assert not device.wants_gpus(job)
    assert placement.cpus_per_worker(2, on_gpus=False) == 1
    assert trainer.launch(job, functions.role, {})["role"] == "cpu"
    auto = Job(recipes.load("demo"), str(tmp_path / "run"), stage, "f", job.progress, address=cluster)
    assert device.wants_gpus(auto)  # the cluster has a GPU


def test_tasks_that_hold_a_model(cluster, folder, tmp_path):
    """They run where models run, never in the driver on the head, and each has a GPU of its own where there are GPUs."""
    import placed_functions as functions
    import ray

    from ray_jobs.config import reader as recipes
    from ray_jobs.run.graph import STAGES
    from ray_jobs.run.job import Job
    from ray_jobs.run.progress import Progress
    from ray_jobs.work.tasks import map_on_ray, off_the_head

    stage = next(stage for stage in STAGES if stage.name == "expand")
    for device, role in (("gpu", "gpu"), ("cpu", "cpu")):
        recipe = recipes.load("demo", [f"train.device={device}"])
        job = Job(recipe, str(tmp_path), stage, "f", Progress("expand", lambda line: None), address=cluster)
        assert off_the_head(job, functions.role, {})["role"] == role
    asked = map_on_ray(job, functions.gpus, [None, None], gpus=True)
    assert [len(one["gpus"]) for one in asked] == [1, 1]
    assert off_the_head(Job(recipe, str(tmp_path), stage, "f", job.progress), lambda item: {"here": item}, 3) == {
        "here": 3
    }
    assert ray.cluster_resources()["GPU"] == 1


def test_in_flight_leaves_room_to_grow(cluster):
    import ray

    assert placement.autoscales()  # its head has no CPUs
    assert placement.in_flight() == 2 * int(ray.cluster_resources()["CPU"]) + placement.PENDING_TASKS
