"""`cluster.yaml`: one file that says what a cluster is made of, for every cloud and for the plan. Unknown keys are errors.

cluster/cluster.yaml is a commented example; docs/cluster.md has the keys.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from cluster import strict_yaml
from cluster.deploy.slurm_spec import Slurm
from cluster.strict_yaml import Positive, Rate, Section

CLOUDS = ("aws", "gcp", "azure")
MAX_NODES = 10_000

Count = Annotated[int, Field(ge=0, le=MAX_NODES)]
Amount = Annotated[float, Field(ge=0.0)]
Name = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,40}[a-z0-9])?$")]


def _like(pattern: str, what: str) -> AfterValidator:
    """Text that matches, or an error that says what it must be."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"this must be {what}")
        return text

    return AfterValidator(check)


# names that Kubernetes gives or takes: of a namespace or volume, of most else, of labels and their values
Label = Annotated[
    str, _like(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", "lower-case letters, digits and hyphens, at most 63")
]
Resource = Annotated[
    str, _like(r"[a-z0-9]([-a-z0-9.]{0,250}[a-z0-9])?", "lower-case letters, digits, hyphens and dots")
]
Key = Annotated[
    str,
    _like(
        r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?",
        "a name of Kubernetes, such as team or lab.org/team",
    ),
]
Value = Annotated[
    str,
    _like(
        r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?",
        "letters, digits, hyphens, underscores and dots, at most 63",
    ),
]
Labels = dict[Key, Value]
Variable = Annotated[str, _like(r"[A-Za-z_][A-Za-z0-9_]*", "the name of a variable of the shell")]
Absolute = Annotated[str, _like(r"/[^\s:]*[^\s:/]", "the absolute path of a folder on the nodes, such as /scratch")]
HIDDEN = ("/opt/pinisi", "/home/ray", "/usr/local/lib", "/usr/bin", "/etc/pinisi", "/dev/shm", "/tmp", "/proc", "/sys")
"""Folders of the image and of its pods, over which no volume is mounted."""
RESERVED = ("recipe", "shared-mem", "ray-logs", "spill", "spark-local-dir-1")  # volumes that we and KubeRay make


class Instance(Section):
    """What a node is called where it is rented."""

    aws: str | None = None
    gcp: str | None = None
    azure: str | None = None


class Toleration(Section):
    """Kubernetes: a taint of nodes that does not keep pods away."""

    key: Key | None = None  # none: any taint
    operator: Literal["Exists", "Equal"] = "Exists"
    value: Value | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None  # none: any

    @model_validator(mode="after")
    def _consistent(self) -> Toleration:
        if (self.operator == "Equal") != (self.value is not None) or (self.operator == "Equal" and not self.key):
            raise ValueError("a toleration has `operator: Equal` with `key` and `value`, or `operator: Exists` without")
        return self


class Node(Section):
    """One kind of machine. A price is of one machine in `currency`, and only used by `pinisi plan`.

    The keys from `node_selector` on are of Kubernetes."""

    cpus: Positive
    memory_gb: Positive
    disk_gb: Positive = 200
    instance: Instance = Instance()
    price_per_hour: Amount | None = None
    node_selector: Labels = {}  # labels of the nodes that its pods go to
    tolerations: list[Toleration] = []
    labels: Labels = {}  # of its pods
    annotations: dict[Key, str] = {}
    watts: Positive | None = None  # of a node at work


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
    devices: dict[Key, Positive] = {}  # Kubernetes: what else a pod asks for, such as vpc.amazonaws.com/efa: 32
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


class AwsTraining(Section):
    """Where the nodes with GPUs lie, so that the network between them is the fast one."""

    subnet_id: str | None = None  # of one zone
    security_group_ids: list[str] = []  # with EFA: lets everything in and out between its own members
    efa: bool = True  # interfaces of the Elastic Fabric Adapter, on types that have it
    efa_interfaces: Positive | None = None  # of a type that is not in our table
    placement_group: str | None = None  # of strategy `cluster`
    capacity_reservation: str | None = None
    capacity_block: bool = False  # that reservation is a Capacity Block for ML


class Aws(Section):
    region: str
    availability_zones: list[str] = []
    image_id: str | None = None  # an AMI with Docker and, for GPUs, NVIDIA drivers
    ssh_from: Annotated[list[str], Field(min_length=1)]  # CIDR blocks that may open SSH
    instance_profile: str | None = None  # ARN of the head's, and of the workers' too unless they have their own
    worker_instance_profile: str | None = None
    training: AwsTraining | None = None


class GcpTraining(Section):
    """Networks of the machines with GPUs, reservation and placement. Names, or paths from `projects/` on."""

    subnetworks: list[str] = []  # of its gVNIC interfaces, in their order
    rdma_subnetworks: list[str] = []  # of its MRDMA interfaces
    reservation: str | None = None
    placement_policy: str | None = None


class Gcp(Section):
    project_id: str
    region: str
    availability_zone: str
    source_image: str = "projects/deeplearning-platform-release/global/images/family/common-cu128-ubuntu-2204-py310"
    disk_type: str | None = None  # of every boot disk; none: what the machine type takes
    service_account: str = "default"  # address of the workers'; `default` is that of the project
    training: GcpTraining | None = None


class Azure(Section):
    location: str
    resource_group: str
    subscription_id: str | None = None


class FaultTolerance(Section):
    """Where the state of Ray's head lies, so that a new head goes on with the same nodes."""

    redis: str  # HOST:PORT
    password_secret: Resource | None = None
    password_key: str = "password"


class Kubernetes(Section):
    namespace: Label = "pinisi"
    service_account: Resource = "pinisi"  # may read and write the bucket (IRSA, Workload Identity)
    spark_executors: Positive = 8
    node_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95  # of what a node can allocate, for our pod
    grace_seconds: Annotated[int, Field(ge=30, le=3600)] = 120  # from the notice to the kill of a pod
    priority_class: Resource | None = None
    image_pull_secrets: list[Resource] = []
    scheduler: Literal["kueue", "volcano", "yunikorn"] | None = None
    queue: Value | None = None
    elastic: bool = False  # Kueue: as workload slices, so that the cluster may grow and shrink
    labels: Labels = {}  # of RayCluster, RayJob and SparkApplication
    annotations: dict[Key, str] = {}
    monitoring_namespace: Label | None = None  # none: pods called `prometheus` of any namespace may scrape
    monitor_labels: Labels = {"release": "prometheus"}  # by which a Prometheus finds its PodMonitors
    gcs_fault_tolerance: FaultTolerance | None = None
    retries: Count = 0  # of a RayJob, each on a new cluster

    @model_validator(mode="after")
    def _queue(self) -> Kubernetes:
        if (self.scheduler is None) != (self.queue is None):
            raise ValueError("`scheduler` and `queue` go together: who schedules, and in which of its queues")
        if self.elastic and self.scheduler != "kueue":
            raise ValueError("`elastic` is of `scheduler: kueue`; the others let a cluster grow without it")
        return self


class Nfs(Section):
    server: str
    path: Annotated[str, _like(r"/[^\s:]*", "an absolute path of the server")]


class Volume(Section):
    """A file system that every node has at `mount_path`: a claim of Kubernetes, a folder of the machines, or NFS."""

    name: Label
    mount_path: Absolute
    claim: Resource | None = None
    host_path: Absolute | None = None
    nfs: Nfs | None = None
    read_only: bool = False

    @model_validator(mode="after")
    def _one(self) -> Volume:
        if sum(kind is not None for kind in (self.claim, self.host_path, self.nfs)) != 1:
            raise ValueError("a volume is one of `claim`, `host_path` and `nfs`")
        if self.name in RESERVED:
            raise ValueError(f"the name {self.name!r} is taken; choose another")
        if over := [path for path in HIDDEN if f"{path}/".startswith(f"{self.mount_path}/")]:
            raise ValueError(f"mount_path {self.mount_path} would hide {over[0]} of the image; choose another")
        return self


class Prices(Section):
    """For `pinisi plan`, in `currency`."""

    currency: str = "USD"
    storage_gb_month: Amount = 0.023
    egress_gb: Amount = 0.0  # of what is read from outside the cloud region
    disk_gb_month: Amount = 0.08  # of the nodes' disks, while they are there
    write_requests: Amount = 5.0  # of a million, to where the run lies
    read_requests: Amount = 0.4
    fetch_requests: Amount = 0.0  # of a million, to where the crawl reads; Common Crawl's bucket takes nothing
    low: Rate = 0.9  # what all prices may be, over what they are here
    high: Rate = 1.35


class Energy(Section):
    """For `pinisi plan`, with `watts` of the nodes."""

    pue: Annotated[float, Field(ge=1.0)] = 1.2  # of the data centre: power of all over power of the machines
    grams_per_kwh: Amount | None = None  # of CO2, of the grid


class Cluster(Section):
    name: Name
    image: str  # where the built image is pushed and pulled from, with a tag
    run_dir: str  # any URI that every node reaches
    environment: list[Variable] = []  # names of variables that nodes get from yours, or from the Secret `<name>-env`
    spill_dir: Absolute = "/mnt/ray-spill"  # on the node's disk; objects that do not fit in memory go there
    object_store_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.3  # of a node's memory
    volumes: list[Volume] = []
    extras: list[Literal["eval", "fp8", "gpu", "java", "lm", "trackers"]] = []  # of Pinisi's own, for the image
    packages: list[str] = []  # of PyPI, for the image
    node_commands: list[str] = []  # AWS, GCP, Azure: run on each machine before its container starts
    head: Node
    groups: Annotated[list[Group], Field(min_length=1)]
    aws: Aws | None = None
    gcp: Gcp | None = None
    azure: Azure | None = None
    kubernetes: Kubernetes | None = None
    slurm: Slurm | None = None
    prices: Prices = Prices()
    energy: Energy = Energy()
    assume: dict[str, float] = {}  # numbers of `pinisi plan` that replace its own, by their name there

    @model_validator(mode="before")
    @classmethod
    def _slurm_alone(cls, values: object) -> object:
        """A file for Slurm alone has no head that is always there, and no image of Docker."""
        if (
            not isinstance(values, dict)
            or values.get("slurm") is None  # a section may be empty: every key of it has a default
            or any(values.get(c) is not None for c in (*CLOUDS, "kubernetes"))
        ):
            return values
        return {"image": "none:none", "head": {"cpus": 1, "memory_gb": 1}, **values}

    @model_validator(mode="after")
    def _groups(self) -> Cluster:
        names = [group.name for group in self.groups]
        if len(set(names)) != len(names):
            raise ValueError("two groups have the same `name`")
        if "head" in names:
            raise ValueError("a group cannot be called `head`, that is the head node")
        if not any(group.role == "cpu" for group in self.groups):
            raise ValueError("`groups` needs one of role cpu: the head has no CPUs for tasks")
        for what in ("name", "mount_path"):
            taken = [getattr(volume, what) for volume in self.volumes]
            if len(set(taken)) != len(taken):
                raise ValueError(f"two volumes have the same `{what}`")
        if not re.search(r":[\w.-]+$", self.image):
            raise ValueError(f"`image` needs a tag, so that all nodes run the same: {self.image}:0.1.0")
        if unknown := sorted(set(self.slurm.groups) - set(names)) if self.slurm else []:
            raise ValueError(f"slurm.groups: there is no group {unknown[0]}; the file has {', '.join(names)}")
        for cloud in CLOUDS:
            if getattr(self, cloud) is None:
                continue
            for what, node in (("head", self.head), *((f"groups ({g.name})", g) for g in self.groups)):
                if getattr(node.instance, cloud) is None:
                    raise ValueError(f"{what}: instance.{cloud} is missing, but there is a section `{cloud}`")
        return self

    def of_role(self, role: str) -> list[Group]:
        return [group for group in self.groups if group.role == role]

    def volume_at(self, path: str) -> Volume | None:
        """The volume on which `path` of a node lies."""
        return next((v for v in self.volumes if path == v.mount_path or path.startswith(f"{v.mount_path}/")), None)

    def local_run_dir(self) -> str | None:
        """`run_dir` as a path, where it is none of an object store."""
        return None if "://" in self.run_dir.removeprefix("file://") else self.run_dir.removeprefix("file://")

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
