"""What a pod may ask for on a node of Kubernetes: less than the machine has, else it stays Pending for ever.

Of a machine go, in this order: what its kernel does not show, what kubelet and system hold back, and the DaemonSets of the
cluster (logs, network, devices). Clouds hold back different amounts, published for GKE (plan-node-sizes), EKS (the AMI's
bootstrap) and AKS (node-resource-reservations). We take the largest of them, so a file fits on all three.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.deploy.spec import Cluster, Node

GIB = 1024  # MiB
FIRMWARE = 0.03  # of memory: between what a machine type names and what its kernel sees
EVICTION_MIB = 750  # pods are evicted when less is free (AKS; others 100)
FILESYSTEM = 0.05  # of a disk: between its size and what a file system offers
DAEMON_MILLICORES, DAEMON_MIB = 500, 1 * GIB
AUTOSCALER_MILLICORES, AUTOSCALER_MIB = 500, 1 * GIB  # the sidecar of the head
LEAST_MIB, LEAST_DISK_MIB = 2 * GIB, 10 * GIB  # below this Ray does not start, or the image alone fills the disk
OVERHEAD = 0.4  # of a Spark executor's heap: Python workers, as Spark has it where not Java alone runs
LEAST_HEAP_MIB = 1 * GIB


@dataclass(frozen=True)
class Size:
    """CPUs in thousandths, memory and disk in MiB."""

    millicores: int
    memory: int
    disk: int

    def quantities(self) -> dict[str, str]:
        """As Kubernetes writes them."""
        return {"cpu": f"{self.millicores}m", "memory": f"{self.memory}Mi", "ephemeral-storage": f"{self.disk}Mi"}


def allocatable(node: Node) -> Size:
    """What Kubernetes has left for pods on a machine like `node`, DaemonSets not counted."""
    cpus = node.cpus
    # AKS: 60 thousandths of the first CPU, 40 of the second, 20 of the next two, 10 of each further one
    reserved = 60 + 40 * (cpus > 1) + 20 * min(max(cpus - 2, 0), 2) + 10 * max(cpus - 4, 0)
    memory = node.memory_gb * GIB
    # GKE: a quarter of the first 4 GiB, a fifth of the next 4, a tenth of the next 8, 6 % up to 128, 2 % above
    steps = ((4, 0.25), (8, 0.2), (16, 0.1), (128, 0.06), (None, 0.02))
    below, held = 0.0, 0.0
    for upto, share in steps:
        top = memory if upto is None else min(memory, upto * GIB)
        held += max(top - below, 0.0) * share
        below = max(below, top)
    # AKS since 1.29 instead: 20 MB for each of 250 pods, at most a quarter
    held = max(held + EVICTION_MIB, min(memory / 4, 5 * GIB) + 100)
    disk = node.disk_gb * GIB
    kept = disk * 0.1 + min(disk / 2, 6 * GIB + disk * 0.35, 100 * GIB)  # GKE: eviction, and the system's part
    return Size(
        cpus * 1000 - reserved,
        max(int(memory * (1 - FIRMWARE) - held), 0),
        max(int(disk * (1 - FILESYSTEM) - kept), 0),
    )


def pod(cluster: Cluster, node: Node) -> Size:
    """What all containers of our pod on `node` ask for together."""
    assert cluster.kubernetes is not None
    share, left = cluster.kubernetes.node_share, allocatable(node)
    return Size(
        max(int((left.millicores - DAEMON_MILLICORES) * share), 0),
        max(int((left.memory - DAEMON_MIB) * share), 0),
        int(left.disk * share),
    )


def container(cluster: Cluster, node: Node, autoscaler: bool = False) -> Size:
    """What Ray's container asks for: on the head the `autoscaler` takes its part of the pod."""
    whole = pod(cluster, node)
    if not autoscaler:
        return whole
    return Size(whole.millicores - AUTOSCALER_MILLICORES, whole.memory - AUTOSCALER_MIB, whole.disk)


def too_small(size: Size, millicores: int) -> str | None:
    """What a container of this size lacks: `millicores`, memory or disk."""
    if size.millicores < millicores:
        return f"{max(size.millicores, 0) / 1000:g} CPUs, which is less than {millicores / 1000:g}; give it more `cpus`"
    if size.memory < LEAST_MIB:
        return f"{gib(size.memory)} of memory, which is less than 2; give it more `memory_gb`"
    if size.disk < LEAST_DISK_MIB:
        return f"{gib(size.disk)} of disk, which is less than 10; give it more `disk_gb`"
    return None


def gib(mib: int) -> str:
    """
    >>> gib(10229), gib(1_987_000)
    ('9.98 GiB', '1940.42 GiB')
    """
    return f"{max(mib, 0) * 100 // GIB / 100:.10g} GiB"


@dataclass(frozen=True)
class Executor:
    """A Spark pod: `cores` of Spark, what it asks for, heap and overhead in MiB."""

    cores: int
    millicores: int
    heap: int
    overhead: int


def executor(cluster: Cluster, node: Node, share: int = 4) -> Executor | None:
    """One of at most `share` equal executors on a node; None if not even one fits."""
    whole = pod(cluster, node)
    for count in range(share, 0, -1):
        cores, memory = whole.millicores // 1000 // count, whole.memory // count
        heap = int(memory / (1 + OVERHEAD))
        if cores >= 1 and heap >= LEAST_HEAP_MIB:
            return Executor(cores, whole.millicores // count, heap, memory - heap)
    return None


def driver(cluster: Cluster) -> Executor | None:
    """The Spark driver: two cores and 4 GiB of heap, or what the head's machine has; None if that is too little."""
    whole = pod(cluster, cluster.head)
    heap = min(4 * GIB, int(whole.memory / (1 + OVERHEAD)))
    millicores = min(2000, whole.millicores)
    if heap < LEAST_HEAP_MIB or millicores < 500:
        return None
    return Executor(max(millicores // 1000, 1), millicores, heap, int(heap * OVERHEAD))
