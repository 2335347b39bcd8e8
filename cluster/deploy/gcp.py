"""Google Cloud: what `ray up` asks of Compute Engine for each node, and what cannot be known without asking it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cluster.deploy.findings import Finding
from cluster.deploy.spec import Cluster, Gcp, Group, Node

# machine series that take no Persistent Disk (Compute Engine, Hyperdisk: machine type support)
HYPERDISK = ("a3-ultragpu-", "a4-", "a4x-", "c4-", "c4a-", "c4d-", "n4-", "n4d-", "x4-", "h4d-", "m4-")
BUILT_IN = ("a2-", "a3-", "a4-", "a4x-", "g2-", "g4-")  # have their GPUs built in


@dataclass(frozen=True)
class Fabric:
    """Interfaces of a machine type: `gvnics` of gVNIC, each in a network of its own, and `rdma` of MRDMA in one with an RDMA
    profile. `name`: what NCCL uses between nodes."""

    gvnics: int
    rdma: int
    name: str


FABRICS = {
    "a3-ultragpu-8g": Fabric(2, 8, "RDMA"),
    "a4-highgpu-8g": Fabric(2, 8, "RDMA"),
    "a3-megagpu-8g": Fabric(9, 0, "GPUDirect-TCPXO"),
    "a3-highgpu-8g": Fabric(5, 0, "GPUDirect-TCPX"),
}


def provider(cluster: Cluster) -> dict[str, Any]:
    gcp = _gcp(cluster)
    return {
        "type": "gcp",
        "project_id": gcp.project_id,
        "region": gcp.region,
        "availability_zone": gcp.availability_zone,
        "cache_stopped_nodes": False,
    }


def node(cluster: Cluster, node: Node) -> dict[str, Any]:
    gcp, kind = _gcp(cluster), str(node.instance.gcp)
    boot = {
        "diskSizeGb": node.disk_gb,
        "sourceImage": gcp.source_image,
        "diskType": f"zones/{gcp.availability_zone}/diskTypes/{disk_type(gcp, kind)}",
    }
    config: dict[str, Any] = {
        "machineType": kind,
        "disks": [{"boot": True, "autoDelete": True, "type": "PERSISTENT", "initializeParams": boot}],
    }
    if isinstance(node, Group):  # Ray gives one to the head alone, and a machine without any reads no bucket
        account = {"email": gcp.service_account, "scopes": ["https://www.googleapis.com/auth/cloud-platform"]}
        config["serviceAccounts"] = [account]
    scheduling: dict[str, Any] = {}
    if isinstance(node, Group) and node.spot:
        scheduling["preemptible"] = True
    if isinstance(node, Group) and node.gpus:
        scheduling["onHostMaintenance"] = "TERMINATE"  # what Compute Engine asks of machines with GPUs
        config["metadata"] = {"items": [{"key": "install-nvidia-driver", "value": "True"}]}
        if not kind.startswith(BUILT_IN):
            config["guestAccelerators"] = [{"acceleratorType": node.gpu_type, "acceleratorCount": node.gpus}]
        config |= _training(gcp, kind)
    if scheduling:
        config["scheduling"] = [scheduling]
    return config


def disk_type(gcp: Gcp, kind: str) -> str:
    """The boot disk's: that of the file, or what the machine type takes."""
    return gcp.disk_type or ("hyperdisk-balanced" if kind.startswith(HYPERDISK) else "pd-balanced")


def _training(gcp: Gcp, kind: str) -> dict[str, Any]:
    there = gcp.training
    if there is None:
        return {}
    config: dict[str, Any] = {}
    if there.subnetworks:
        outside = [{"name": "External NAT", "type": "ONE_TO_ONE_NAT"}]
        config["networkInterfaces"] = [
            *(
                {"subnetwork": _path(gcp, name), "nicType": "GVNIC", **({"accessConfigs": outside} if not i else {})}
                for i, name in enumerate(there.subnetworks)
            ),
            *({"subnetwork": _path(gcp, name), "nicType": "MRDMA"} for name in there.rdma_subnetworks),
        ]
    if there.reservation:
        config["reservationAffinity"] = {
            "consumeReservationType": "SPECIFIC_RESERVATION",
            "key": "compute.googleapis.com/reservation-name",
            "values": [there.reservation],
        }
    if there.placement_policy:
        config["resourcePolicies"] = [_path(gcp, there.placement_policy, "resourcePolicies")]
    return config


def _path(gcp: Gcp, name: str, kind: str = "subnetworks") -> str:
    return name if "/" in name else f"projects/{gcp.project_id}/regions/{gcp.region}/{kind}/{name}"


def run_options(cluster: Cluster, node: Node) -> list[str]:
    """What a container of `node` needs of Docker to use RDMA: the devices, and NCCL's plugin that lies on the machine."""
    gcp = _gcp(cluster)
    if not (isinstance(node, Group) and node.gpus and gcp.training and gcp.training.rdma_subnetworks):
        return []
    plugin = "/usr/local/gib"
    return [
        "--device=/dev/infiniband",
        "--ulimit memlock=-1:-1",
        f"--volume {plugin}:{plugin}:ro",
        f"--env LD_LIBRARY_PATH={plugin}/lib64",
        "--env NCCL_NET=gIB",
    ]


def findings(cluster: Cluster) -> Iterator[Finding]:
    """What the file lacks for Google Cloud, or cannot say."""
    gcp = _gcp(cluster)
    if not gcp.availability_zone.startswith(f"{gcp.region}-"):
        text = f"{gcp.availability_zone} is not of the region {gcp.region}; name one that is"
        yield Finding("missing", "gcp.availability_zone", text)
    for where, machine in (("head", cluster.head), *((f"groups ({g.name})", g) for g in cluster.groups)):
        kind = str(machine.instance.gcp)
        disk = disk_type(gcp, kind)
        if kind.startswith(HYPERDISK) and not disk.startswith("hyperdisk"):
            yield Finding("missing", "gcp.disk_type", f"{where}: {kind} takes no {disk}; take hyperdisk-balanced")
    for group in cluster.of_role("gpu"):
        yield from _network(gcp, group)
    command = f"gcloud compute regions describe {gcp.region} --project {gcp.project_id} --format 'yaml(quotas)'"
    yield Finding("unseen", "groups", "that the project may start so many machines and GPUs", command)
    command = f"gcloud compute images describe-from-family --project deeplearning-platform-release {_family(gcp)}"
    yield Finding("unseen", "gcp.source_image", "that it exists, with Docker and drivers for these GPUs", command)
    if cluster.run_dir.startswith("gs://"):
        bucket = "/".join(cluster.run_dir.split("/")[:3])
        command = f"gcloud storage buckets get-iam-policy {bucket}"
        yield Finding("unseen", "run_dir", f"that {_member(gcp)} and Ray's own account may write it", command)


def _network(gcp: Gcp, group: Group) -> Iterator[Finding]:
    kind, where = str(group.instance.gcp), f"groups ({group.name})"
    fabric, there = FABRICS.get(kind), gcp.training
    if fabric is not None and there is not None and (there.subnetworks or there.rdma_subnetworks):
        for key, wanted in (("subnetworks", fabric.gvnics), ("rdma_subnetworks", fabric.rdma)):
            if len(given := getattr(there, key)) != wanted:
                text = (
                    f"{kind} has {wanted} such interfaces, each in a subnetwork of its own, and {len(given)} are named"
                )
                yield Finding("missing", f"gcp.training.{key}", text)
        if fabric.rdma:
            text = (
                "NCCL's plugin gIB must lie in /usr/local/gib of each machine; put its installation in `node_commands`"
            )
            yield Finding("warning", where, text)
        else:
            text = f"{fabric.name} needs its receiver and NCCL plugin on each machine, which these files do not start"
            yield Finding("warning", where, text)
    elif group.max_nodes > 1 and fabric is not None:
        text = f"{kind} has {fabric.name} between nodes, unused without `gcp.training` (docs/gcp.md); NCCL takes TCP"
        yield Finding("warning", where, text)
    elif group.max_nodes > 1:
        yield Finding("warning", where, f"{kind} has no fast network that we know of; NCCL takes TCP between nodes")
    if there is not None and there.rdma_subnetworks and fabric is not None and not fabric.rdma:
        return
    if group.max_nodes > 1 and (there is None or there.placement_policy is None):
        yield Finding("warning", where, "no placement policy; its nodes may lie far apart")
    if there is not None and there.reservation and group.spot:
        yield Finding("missing", where, "spot nodes cannot be of a reservation; make `spot` false, or take it out")


def _family(gcp: Gcp) -> str:
    return gcp.source_image.rsplit("/", 1)[-1]


def _member(gcp: Gcp) -> str:
    return "the project's default account" if gcp.service_account == "default" else gcp.service_account


def _gcp(cluster: Cluster) -> Gcp:
    assert cluster.gcp is not None
    return cluster.gcp
