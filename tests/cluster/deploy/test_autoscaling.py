"""Groups of a rendered cluster grow from no node for their own work alone, and go back to none.

Ray's autoscaler v2 with node types, labels and idle times of `pinisi cluster render`; the cloud is Ray's fake one, whose
nodes are processes of this machine. It is named as an external provider, because the wheel lacks the fake one's defaults.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from cluster.deploy import ray_up, spec
from cluster.engines import embedded, placement

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(180)]

HEAD_ID = "f" * 51 + "00000"  # the id and type that the fake provider gives its head
HEAD_TYPE = "ray.head.default"
STORE = 80_000_000
IDLE_SECONDS = 4


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def fake_cloud(port: int) -> dict:
    """The rendered AWS file with small nodes, the fake provider and no setup."""
    config = ray_up.config(spec.load(str(Path(spec.__file__).parents[1] / "cluster.yaml")), "aws")
    provider = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    config["provider"] = {
        "type": "external",
        "module": provider,
        "head_node_id": HEAD_ID,
        "launch_multiple": True,
        "gcs_address": f"127.0.0.1:{port}",
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    config["docker"], config["auth"], config["file_mounts"], config["initialization_commands"] = {}, {}, {}, []
    config["head_start_ray_commands"] = config["worker_start_ray_commands"] = []
    config["idle_timeout_minutes"] = IDLE_SECONDS / 60
    types = config["available_node_types"]
    types[HEAD_TYPE] = types.pop(config["head_node_type"])
    config["head_node_type"] = HEAD_TYPE
    for name, kind in types.items():
        kind["node_config"] = {}
        kind.pop("docker", None)
        if name != HEAD_TYPE:
            kind["resources"] |= {"CPU": 2 if name == "curate" else 8, "object_store_memory": STORE}
            kind["resources"] |= {"GPU": 1} if name == "train" else {}
            kind |= {"idle_timeout_s": IDLE_SECONDS, "max_workers": 2 if name == "curate" else 1}
    return config


@pytest.fixture
def address(tmp_path):
    port = free_port()
    config = tmp_path / "cluster.yaml"
    config.write_text(yaml.safe_dump(fake_cloud(port)))
    shared = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_USAGE_STATS_ENABLED": "0"}
    own = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "RAY_NODE_TYPE_NAME": HEAD_TYPE,
    }
    command = f"--head --block --port={port} --node-ip-address=127.0.0.1 --num-cpus=0 --labels=role=head"
    command += f" --include-dashboard=false --object-store-memory={STORE}"
    with embedded.environment(**shared, RAY_enable_autoscaler_v2="1"), open(tmp_path / "head.log", "w") as log:
        head = subprocess.Popen(
            [str(Path(sys.executable).parent / "ray"), "start", *command.split(), f"--autoscaling-config={config}"],
            env={**os.environ, **own},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        yield f"127.0.0.1:{port}"
        started = [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]
        os.killpg(head.pid, signal.SIGTERM)
        for process in psutil.wait_procs(started, timeout=5)[1]:  # only what this test started
            process.kill()
        head.wait()


def connect(address):
    import ray

    for _ in range(60):
        try:
            return ray.init(address, log_to_driver=False, logging_level="ERROR")
        except ConnectionError:
            time.sleep(0.5)
    raise AssertionError("the head did not start")


def test_groups_grow_from_none_for_their_own_work_and_go(address):
    import ray

    connect(address)
    try:
        seen = []

        def nodes() -> list[str]:
            seen.append(sorted(node["Labels"].get("role", "none") for node in ray.nodes() if node["Alive"]))
            return seen[-1]

        def role_here(seconds: float) -> str:
            time.sleep(seconds)
            here = ray.get_runtime_context().get_node_id()
            return next(node["Labels"]["role"] for node in ray.nodes() if node["NodeID"] == here)

        remote = ray.remote(role_here)
        assert nodes() == ["head"]
        cpu = [remote.options(num_cpus=1, label_selector=placement.CPU).remote(4) for _ in range(6)]
        assert set(ray.get(cpu, timeout=60)) == {"cpu"}
        assert "gpu" not in nodes()
        gpu = remote.options(num_cpus=1, num_gpus=1, label_selector=placement.GPU).remote(1)
        assert ray.get(gpu, timeout=60) == "gpu"
        # CPU work goes on, and the GPU node with seven free CPUs neither gets any of it nor stays for it
        busy = [remote.options(num_cpus=1, label_selector=placement.CPU).remote(IDLE_SECONDS * 3) for _ in range(3)]
        until = time.monotonic() + 60
        while "gpu" in nodes() and time.monotonic() < until:
            time.sleep(0.5)
        assert "gpu" not in nodes()
        assert len(ray.wait(busy, num_returns=3, timeout=0)[0]) < 3  # it went while they were running
        assert set(ray.get(busy, timeout=60)) == {"cpu"}
        until = time.monotonic() + 60
        while nodes() != ["head"] and time.monotonic() < until:
            time.sleep(0.5)
        assert nodes() == ["head"]
        assert max(roles.count("cpu") for roles in seen) == 2
    finally:
        ray.shutdown()
