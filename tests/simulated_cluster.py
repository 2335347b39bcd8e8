"""A Ray cluster of several nodes on this machine: a head without CPUs, CPU nodes that can be lost, a GPU that does not exist."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil

from cluster.engines import embedded

STORE = 80 << 20


@contextlib.contextmanager
def simulated(cpu_nodes: int, *, cpus: int = 1, gpu: bool = False, **environment: str) -> Iterator[Any]:
    """A running `ray.cluster_utils.Cluster`; with `gpu` one node more, with one GPU and eight CPUs to spare.

    It has a token, as clusters should. `environment` is set for all its processes and for this one, where a Ray that is connected
    at the end is left.
    """
    closed = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ps-", dir="/tmp"))
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": folder}
        stack.enter_context(embedded.environment(**closed, **quiet, **environment))
        import ray
        from ray.cluster_utils import Cluster

        assert not ray.is_initialized()
        head = {"num_cpus": 0, "labels": {"role": "head"}, "include_dashboard": False, "object_store_memory": STORE}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        complete(cluster, cpu_nodes, cpus)
        if gpu:
            cluster.add_node(num_cpus=8, num_gpus=1, labels={"role": "gpu"}, object_store_memory=STORE)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def complete(cluster: Any, cpu_nodes: int, cpus: int = 1) -> None:
    """Start CPU nodes in the place of lost ones, so that there are `cpu_nodes`."""
    while len(cluster.worker_nodes) < cpu_nodes:
        cluster.add_node(num_cpus=cpus, labels={"role": "cpu"}, object_store_memory=STORE)


def tree(node: Any) -> list[psutil.Process]:
    """All processes of a node: its raylet, and below it workers, Java and Python."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [raylet, *raylet.children(recursive=True)]


def lose(cluster: Any, node: Any) -> None:
    """A node is lost as a machine is: everything on it is killed at once."""
    for process in tree(node):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    cluster.remove_node(node, allow_graceful=False)


def wait_for(condition: Callable[[], Any], seconds: float = 300, every: float = 0.02) -> Any:
    """What `condition()` gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(every)
    return found
