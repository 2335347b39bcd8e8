"""`cluster.yaml`: one file that says what a cluster is made of, for every cloud and for the plan. Unknown keys are errors.

cluster/cluster.yaml is a commented example; docs/cluster.md has the keys.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from cluster import strict_yaml
from cluster.strict_yaml import Positive, Rate, Section

CLOUDS = ("aws", "gcp", "azure")
MAX_NODES = 10_000

Count = Annotated[int, Field(ge=0, le=MAX_NODES)]
Amount = Annotated[float, Field(ge=0.0)]
Name = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,40}[a-z0-9])?$")]


class Instance(Section):
    """What a node is called where it is rented."""

    aws: str | None = None
    gcp: str | None = None
    azure: str | None = None


class Node(Section):
    """One kind of machine. A price is of one machine in `currency`, and only used by `pinisi plan`."""

    cpus: Positive
    memory_gb: Positive
    disk_gb: Positive = 200
    instance: Instance = Instance()
    price_per_hour: Amount | None = None


class Group(Node):
    """Nodes of one role that the autoscaler adds and removes. `gpu_*` keys belong to `role: gpu`."""

    name: Name
    role: Literal["cpu", "gpu"]
    min_nodes: Count = 0
    max_nodes: Count
    spot: bool = False
    spot_losses_per_hour: Amount = 0.0  # of one node: 0.02 = each node is taken away once in 50 hours
    idle_seconds: Positive = 120
    start_seconds: Positive = 180  # from the autoscaler's request until Ray runs on the node
    gpus: Count = 0
    gpu_type: str | None = None  # the cloud's name of the accelerator
    node_selector: dict[str, str] = {}  # Kubernetes: labels of the nodes that its pods go to
    gpu_memory_gb: Positive | None = None
    gpu_tflops: Rate | None = None  # peak, dense bf16

    @model_validator(mode="after")
    def _consistent(self) -> Group:
        if self.min_nodes > self.max_nodes:
            raise ValueError(f"min_nodes {self.min_nodes} is above max_nodes {self.max_nodes}")
        if (self.role == "gpu") != (self.gpus > 0):
            raise ValueError(
                f"a group of role {self.role} has {'at least one GPU' if self.role == 'gpu' else 'no gpus'}"
            )
        return self


class Aws(Section):
    region: str
    availability_zones: list[str] = []
    image_id: str | None = None  # an AMI with Docker and, for GPUs, NVIDIA drivers
    ssh_from: Annotated[list[str], Field(min_length=1)]  # CIDR blocks that may open SSH
    instance_profile: str | None = None  # ARN; gives nodes access to the bucket without keys


class Gcp(Section):
    project_id: str
    region: str
    availability_zone: str
    source_image: str = "projects/deeplearning-platform-release/global/images/family/common-cu128-ubuntu-2204-py310"


class Azure(Section):
    location: str
    resource_group: str
    subscription_id: str | None = None


class Kubernetes(Section):
    namespace: str = "pinisi"
    service_account: str = "pinisi"  # may read and write the bucket (IRSA, Workload Identity)
    spark_executors: Positive = 8


class Prices(Section):
    """For `pinisi plan`, in `currency`."""

    currency: str = "USD"
    storage_gb_month: Amount = 0.023
    egress_gb: Amount = 0.0  # of what is read from outside the cloud region


class Cluster(Section):
    name: Name
    image: str  # where the built image is pushed and pulled from, with a tag
    run_dir: str  # any URI that every node reaches
    environment: list[str] = []  # names of variables that nodes get from yours, or from the Secret `<name>-env`
    spill_dir: str = "/mnt/ray-spill"  # on the node's disk; objects that do not fit in memory go there
    object_store_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.3  # of a node's memory
    head: Node
    groups: Annotated[list[Group], Field(min_length=1)]
    aws: Aws | None = None
    gcp: Gcp | None = None
    azure: Azure | None = None
    kubernetes: Kubernetes | None = None
    prices: Prices = Prices()
    assume: dict[str, float] = {}  # numbers of `pinisi plan` that replace its own, by their name there

    @model_validator(mode="after")
    def _groups(self) -> Cluster:
        names = [group.name for group in self.groups]
        if len(set(names)) != len(names):
            raise ValueError("two groups have the same `name`")
        if "head" in names:
            raise ValueError("a group cannot be called `head`, that is the head node")
        if not any(group.role == "cpu" for group in self.groups):
            raise ValueError("`groups` needs one of role cpu: the head has no CPUs for tasks")
        if not re.search(r":[\w.-]+$", self.image):
            raise ValueError(f"`image` needs a tag, so that all nodes run the same: {self.image}:0.1.0")
        for cloud in CLOUDS:
            if getattr(self, cloud) is None:
                continue
            for what, node in (("head", self.head), *((f"groups ({g.name})", g) for g in self.groups)):
                if getattr(node.instance, cloud) is None:
                    raise ValueError(f"{what}: instance.{cloud} is missing, but there is a section `{cloud}`")
        return self

    def of_role(self, role: str) -> list[Group]:
        return [group for group in self.groups if group.role == role]

    def object_store_bytes(self, node: Node) -> int:
        return int(node.memory_gb * 2**30 * self.object_store_share)


def load(path: str) -> Cluster:
    """Read a cluster file. Raises ValueError naming the file, line and key."""
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{path}: there is no such cluster file; copy cluster/cluster.yaml and change it")
    try:
        return Cluster.model_validate(strict_yaml.read(file, "cluster file"))
    except ValidationError as error:
        raise ValueError(strict_yaml.explain(error, Cluster, file)) from None


def version(package: str) -> str:
    """The version of `package` that runs here, which is the one that generated files pin."""
    return importlib.metadata.version(package)
