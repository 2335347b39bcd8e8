"""Which device a worker and its model are on, with GPUs that do not exist."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from ray_jobs.config import reader as recipes
from ray_jobs.work import device
from train.loop import LoopConfig, fit


@pytest.fixture
def given(monkeypatch):
    """`given(gpus, visible, torch_can)`: what Ray gave this process, which GPUs it sees, and whether torch can use them."""
    import ray

    def give(gpus, visible, torch_can=True):
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(ray, "get_gpu_ids", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: torch_can)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return give


@pytest.mark.parametrize(
    ("gpus", "visible", "expected"),
    [
        (["0"], "0", "cuda:0"),  # a task: Ray shows it its GPU alone
        ([5], "5", "cuda:0"),
        (["5"], "4,5,7", "cuda:1"),  # a training worker: it sees those of all workers on its node
        (["7"], "4,5,7", "cuda:2"),
        ([], "0,1", "cpu"),  # visible, but Ray gave it none
    ],
)
def test_the_gpu_is_the_one_that_ray_gave(given, gpus, visible, expected):
    given(gpus, visible)
    assert device.here() == torch.device(expected)


def test_a_gpu_that_torch_cannot_use_is_one_sentence(given):
    given(["0"], "0", torch_can=False)
    with pytest.raises(ValueError, match=r"gave this worker GPU 0, but torch .* cannot use it; `pinisi doctor`"):
        device.here()


def test_without_ray_it_is_the_cpu(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.here() == torch.device("cpu")


@pytest.mark.parametrize(
    ("key", "on_this_machine", "in_the_cluster", "expected"),
    [
        ("gpu", False, False, True),  # a group that scales up from none has none yet
        ("cpu", True, True, False),
        ("auto", False, False, False),
        ("auto", True, False, True),
        ("auto", False, True, True),
    ],
)
def test_who_wants_gpus(monkeypatch, key, on_this_machine, in_the_cluster, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_this_machine)
    connected = []  # a run that continues at this stage has no Ray before it is asked for
    monkeypatch.setattr(device.embedded, "start", lambda address, cpus: connected.append(address))
    monkeypatch.setattr(device.placement, "has_gpus", lambda: bool(connected) and in_the_cluster)
    recipe = recipes.load("demo", [f"train.device={key}"])
    job = SimpleNamespace(recipe=recipe, train=recipe.train, address="auto", ray=True)
    assert device.wants_gpus(job) == expected


class Seen(Exception):
    pass


def test_the_loop_takes_model_and_batches_to_the_device(monkeypatch, tmp_path):
    """On "meta", a device without values, training cannot end; the first call of the loss sees what there is to see."""
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: contextlib.nullcontext())  # "meta" has none
    net = torch.nn.Linear(3, 1)

    def batch(rows):
        return {"x": torch.ones(len(rows), 3), "count": torch.tensor(len(rows))}

    def loss(model, batch):
        assert model is net
        assert batch.pop("step").device.type == "cpu"  # a number of the host, which nobody reads back from a GPU
        raise Seen({*(p.device.type for p in model.parameters()), *(value.device.type for value in batch.values())})

    config = LoopConfig(steps=1, rows_per_step=2, micro_rows=2, lr=0.1)
    with pytest.raises(Seen, match=r"\{'cpu'\}"):
        fit(net, batch, loss, config, str(tmp_path))
    with pytest.raises(Seen, match=r"\{'meta'\}"):
        fit(net, batch, loss, config, str(tmp_path), device=torch.device("meta"))


def test_a_training_group_of_gpus_speaks_nccl_and_leaves_cpu_nodes(monkeypatch, tmp_path):
    """What Ray Train is asked for; the group itself needs a GPU."""
    import ray
    from ray.train.v2.torch import torch_trainer

    from ray_jobs.work import trainer

    asked = {}

    class Trainer:
        def __init__(self, function, **settings):
            asked.update(settings)

        def fit(self):
            pass

    monkeypatch.setattr(torch_trainer, "TorchTrainer", Trainer)
    monkeypatch.setattr(trainer.placement, "cpus_per_worker", lambda workers, on_gpus: 4)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    monkeypatch.setattr(ray, "remote", lambda **options: lambda kind: SimpleNamespace(remote=kind))
    for key, backend, role, cpus, more in (
        ("gpu", "cpu:gloo,cuda:nccl", "!cpu", None, []),
        ("cpu", "gloo", "!gpu", 4, []),
        ("cpu", "gloo", "!gpu", 2, ["train.exact=true", "train.exact_threads=2"]),  # whatever the nodes have
    ):
        recipe = recipes.load("demo", [f"train.device={key}", "train.workers=3", *more])
        group = trainer._Group(
            SimpleNamespace(recipe=recipe, train=recipe.train, run_uri=str(tmp_path), address="auto", ray=True)
        )
        group.thread.join()
        assert group.gpus == (key == "gpu")
        assert asked["torch_config"].backend == backend
        scaling = asked["scaling_config"]
        assert (scaling.use_gpu, scaling.num_workers, scaling.label_selector) == (key == "gpu", 3, {"role": role})
        assert (scaling.resources_per_worker or {}).get("CPU") == cpus
        assert asked["train_loop_config"]["threads"] == (cpus or 4)


@pytest.mark.parametrize(("gpus", "address", "warm"), [(False, None, 1), (True, None, 0), (False, "auto", 0)])
def test_a_group_that_holds_gpus_does_not_stay(monkeypatch, tmp_path, gpus, address, warm):
    """Scores and samples between two trainings are tasks with a GPU; one that waits for its next command would keep it."""
    from ray_jobs.work import trainer

    ended = []

    class Group:
        def __init__(self, job):
            self.gpus = gpus

        def run(self, command, follow):
            trainer.storage.write_json(command["result_uri"], {"steps": 1})

        def end(self):
            ended.append(self)

    monkeypatch.setattr(trainer, "_Group", Group)
    monkeypatch.setattr(trainer, "_warm", [])
    monkeypatch.setattr(trainer.embedded, "start", lambda *a: None)
    progress = SimpleNamespace(start=lambda *a: None)
    job = SimpleNamespace(
        ray=True,
        recipe=recipes.load("demo"), address=address, stage=SimpleNamespace(name="base"), progress=progress,
        metrics_uri=f"{tmp_path}/base.jsonl",
        path=lambda *parts: str(tmp_path.joinpath(*parts)), run_uri=str(tmp_path),
    )  # fmt: skip
    assert trainer.launch(job, test_without_ray_it_is_the_cpu, {}) == {"steps": 1}
    assert (len(trainer._warm), len(ended)) == (warm, 1 - warm)
