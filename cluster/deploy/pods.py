"""What pods of Ray and of Spark have alike: the nodes that they go to, queues, secrets, volumes."""

from __future__ import annotations

from typing import Any

from cluster.deploy.spec import Cluster, Group, Kubernetes, Node, Toleration, Volume

# labels of nodes that may be taken away, by who makes the nodes: GKE twice, AKS, EKS, Karpenter
SPOT = {
    "cloud.google.com/gke-spot": "true",
    "cloud.google.com/gke-preemptible": "true",
    "kubernetes.azure.com/scalesetpriority": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
}
SPOT_TAINTS = ("kubernetes.azure.com/scalesetpriority", "cloud.google.com/gke-spot")  # AKS; GKE's provisioner
GPU_LABELS = ("cloud.google.com/gke-accelerator", "kubernetes.azure.com/accelerator", "nvidia.com/gpu.present")
ELASTIC = "kueue.x-k8s.io/elastic-job"


def kubernetes(cluster: Cluster) -> Kubernetes:
    """The section, which whoever renders for Kubernetes has checked to be there."""
    assert cluster.kubernetes is not None
    return cluster.kubernetes


def metadata(cluster: Cluster, name: str) -> dict[str, Any]:
    """Of a RayCluster, RayJob or SparkApplication: its queue too."""
    names = kubernetes(cluster)
    labels, annotations = dict(names.labels), dict(names.annotations)
    if names.queue and names.scheduler == "kueue":
        labels["kueue.x-k8s.io/queue-name"] = names.queue
        annotations |= {ELASTIC: "true"} if names.elastic else {}
    elif names.queue and names.scheduler == "volcano":
        labels["volcano.sh/queue-name"] = names.queue
        labels |= {"ray.io/priority-class-name": names.priority_class} if names.priority_class else {}
    elif names.queue:
        labels["yunikorn.apache.org/queue"] = names.queue
        labels["yunikorn.apache.org/app-id"] = name
        labels["ray.io/gang-scheduling-enabled"] = "true"
    return {
        "name": name,
        "namespace": names.namespace,
        **({"labels": labels} if labels else {}),
        **({"annotations": annotations} if annotations else {}),
    }


def placement(node: Node) -> dict[str, Any]:
    """Selector, affinity and tolerations of the pods for `node`, as both pods and Spark write them."""
    spot = isinstance(node, Group) and node.spot
    gpus = node.gpus if isinstance(node, Group) else 0
    affinity: dict[str, Any] = {}
    if not spot:
        apart = [{"key": key, "operator": "NotIn", "values": [value]} for key, value in SPOT.items()]
        affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {
            "nodeSelectorTerms": [{"matchExpressions": apart}]
        }
    if not gpus:  # a pod without GPU would keep a node with GPUs from going
        apart = [{"key": key, "operator": "DoesNotExist"} for key in GPU_LABELS]
        affinity["preferredDuringSchedulingIgnoredDuringExecution"] = [
            {"weight": 100, "preference": {"matchExpressions": apart}}
        ]
    tolerations = [_toleration(one) for one in node.tolerations]
    if gpus:
        tolerations.append({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"})
    if spot:
        tolerations += [
            {"key": key, "operator": "Equal", "value": SPOT[key], "effect": "NoSchedule"} for key in SPOT_TAINTS
        ]
    return {
        **({"nodeSelector": dict(node.node_selector)} if node.node_selector else {}),
        **({"affinity": {"nodeAffinity": affinity}} if affinity else {}),
        **({"tolerations": tolerations} if tolerations else {}),
    }


def volumes(cluster: Cluster) -> list[dict]:
    """The volumes of the cluster file as a pod names them."""
    return [{"name": volume.name, **_source(volume)} for volume in cluster.volumes]


def mounts(cluster: Cluster) -> list[dict]:
    """Where a container has them."""
    return [
        {"name": one.name, "mountPath": one.mount_path, **({"readOnly": True} if one.read_only else {})}
        for one in cluster.volumes
    ]


def environment(cluster: Cluster) -> dict[str, Any]:
    """`envFrom` of a container; what your shell lacked when the Secret was made is missing in pods too."""
    name = f"{cluster.name}-env"
    return {"envFrom": [{"secretRef": {"name": name, "optional": True}}]} if cluster.environment else {}


def _source(volume: Volume) -> dict:
    if volume.claim:
        claim: dict[str, Any] = {"claimName": volume.claim}
        return {"persistentVolumeClaim": claim | ({"readOnly": True} if volume.read_only else {})}
    if volume.nfs:
        nfs: dict[str, Any] = {"server": volume.nfs.server, "path": volume.nfs.path}
        return {"nfs": nfs | ({"readOnly": True} if volume.read_only else {})}
    return {"hostPath": {"path": volume.host_path, "type": "Directory"}}


def _toleration(one: Toleration) -> dict[str, str]:
    return {key: value for key, value in one.model_dump().items() if value is not None}
