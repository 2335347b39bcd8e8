"""Azure: what `ray up` asks for each node, and what cannot be known without asking Azure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from cluster.deploy.findings import Finding
from cluster.deploy.spec import Azure, Cluster, Group, Node

INFINIBAND = re.compile(r"Standard_N[DC]\d+\w*r\w*_", re.IGNORECASE)  # an r among the features: a network of RDMA


def provider(cluster: Cluster) -> dict[str, Any]:
    azure = _azure(cluster)
    subscription = {"subscription_id": azure.subscription_id} if azure.subscription_id else {}
    return {
        "type": "azure",
        "location": azure.location,
        "resource_group": azure.resource_group,
        **subscription,
        "cache_stopped_nodes": False,
    }


def node(cluster: Cluster, node: Node) -> dict[str, Any]:
    gpu = isinstance(node, Group) and node.gpus > 0
    parameters: dict[str, object] = {
        "vmSize": node.instance.azure,
        "imagePublisher": "microsoft-dsvm",
        "imageOffer": "ubuntu-hpc" if gpu else "ubuntu-2204",
        "imageSku": "2204" if gpu else "2204-gen2",
        "imageVersion": "latest",
        "osDiskSize": node.disk_gb,
    }
    if isinstance(node, Group) and node.spot:
        parameters |= {"priority": "Spot", "billingProfile": {"maxPrice": -1}}
    return {"azure_arm_parameters": parameters}


def run_options(cluster: Cluster, node: Node) -> list[str]:
    """What a container of `node` needs of Docker to use InfiniBand."""
    if isinstance(node, Group) and node.gpus and INFINIBAND.match(str(node.instance.azure)):
        return ["--device=/dev/infiniband", "--ulimit memlock=-1:-1"]
    return []


def findings(cluster: Cluster) -> Iterator[Finding]:
    """What the file lacks for Azure, or cannot say."""
    azure = _azure(cluster)
    for group in cluster.of_role("gpu"):
        if group.max_nodes < 2:
            continue
        if INFINIBAND.match(str(group.instance.azure)):
            text = (
                f"InfiniBand joins machines of one scale set alone, and `ray up` starts single ones, so NCCL takes TCP "
                f"between nodes; train on {group.instance.azure} in one node pool of AKS instead (docs/azure.md)"
            )
        else:
            text = f"{group.instance.azure} has no InfiniBand; NCCL takes TCP between nodes"
        yield Finding("warning", f"groups ({group.name})", text)
    if cluster.run_dir.startswith(("abfs", "az:")) and "AZURE_STORAGE_ACCOUNT_NAME" not in cluster.environment:
        text = (
            f"nodes reach {cluster.run_dir} by AZURE_STORAGE_ACCOUNT_NAME and a key, SAS token or managed identity; name "
            "these variables here"
        )
        yield Finding("missing", "environment", text)
    command = f"az vm list-usage --location {azure.location} --output table"
    yield Finding("unseen", "groups", "that the subscription may start so many machines, spot counted apart", command)
    command = f"az group show --name {azure.resource_group}"
    yield Finding("unseen", "azure.resource_group", "that it exists", command)


def _azure(cluster: Cluster) -> Azure:
    assert cluster.azure is not None
    return cluster.azure
