"""Which nodes work may run on: label selectors of tasks, actors, data sets and trainers.

A cluster's nodes carry the label `role`: `head`, `cpu` or `gpu` (cluster/deploy/spec.py). CPU work selects nodes that are not of
role gpu, so it can neither land on a GPU node nor make the autoscaler start or keep one; GPU work selects nodes that are not
of role cpu. Selecting by exclusion makes nodes without the label, such as the embedded Ray's one, serve both.
"""

from __future__ import annotations

ROLE = "role"
CPU = {ROLE: "!gpu"}
GPU = {ROLE: "!cpu"}

PENDING_TASKS = 256  # in flight beyond what the cluster has CPUs for, so that an autoscaler sees work to grow for


def in_flight() -> int:
    """How many one-CPU tasks to keep submitted now: two for each CPU there is, and enough more for the cluster to grow."""
    import ray

    return 2 * int(ray.cluster_resources().get("CPU", 0)) + (PENDING_TASKS if autoscales() else 0)


def autoscales() -> bool:
    """Whether the Ray that this process is connected to may get more nodes: its head has no CPUs for tasks."""
    import ray

    heads = [node for node in ray.nodes() if node["Alive"] and "node:__internal_head__" in node["Resources"]]
    return bool(heads) and not heads[0]["Resources"].get("CPU")


def of_datasets() -> None:
    """Pin every task and actor of Ray Data in this process to CPU nodes."""
    from ray.data.context import DataContext

    DataContext.get_current().execution_options.label_selector = dict(CPU)


def has_gpus() -> bool:
    """Whether the Ray that this process is connected to has a GPU now; one that scales up from none has not."""
    import ray

    return ray.cluster_resources().get("GPU", 0) > 0


def cpus_per_worker(workers: int, on_gpus: bool) -> int:
    """The most CPUs that each of `workers` can have on the nodes it may run on; 1 when there are not enough of them yet."""
    import ray

    excluded = (GPU if on_gpus else CPU)[ROLE].removeprefix("!")
    nodes = [
        int(node["Resources"].get("CPU", 0))
        for node in ray.nodes()
        if node["Alive"] and node["Labels"].get(ROLE) != excluded
    ]
    fitting = (n for n in range(max(nodes, default=1), 1, -1) if sum(cpus // n for cpus in nodes) >= workers)
    return next(fitting, 1)
