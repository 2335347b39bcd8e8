"""What a cluster file lacks for a target, what may go wrong there, and what cannot be known without asking."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from cluster.deploy.spec import CLOUDS, Cluster

HOMES = {"s3": "aws", "s3a": "aws", "gs": "gcp", "gcs": "gcp", "abfs": "azure", "abfss": "azure", "az": "azure"}
"""By scheme of an address: the cloud whose machines reach it without keys."""
INSTEAD = {"PINISI_CONTACT": ", or give the recipe fetch.contact: Common Crawl is read under your name"}
"""By variable: what may be done in its place, and what it is for."""


@dataclass(frozen=True)
class Finding:
    """`missing` is refused by render, a `warning` is printed by it; `unseen` is what nobody looked at, with the command that
    does. `key` is of the cluster file; `text` one sentence."""

    state: Literal["missing", "warning", "unseen"]
    key: str
    text: str
    command: str = ""

    def sentence(self) -> str:
        return f"{self.key}: {self.text}" + (f": {self.command}" if self.command else "")


def of_storage(cluster: Cluster, target: str) -> Iterator[Finding]:
    """Whether every node of `target` reaches `run_dir` and the volumes, and can pull the image."""
    path = cluster.local_run_dir()
    if path is not None and not path.startswith("/"):
        yield Finding(
            "missing", "run_dir", f"{path} is relative; give a bucket, or a path below a `volumes` mount_path"
        )
    elif path is not None:
        volume = cluster.volume_at(path.rstrip("/"))
        if volume is None:
            text = (
                f"nothing mounts {path} on the nodes; add it to `volumes` (claim, host_path or nfs), or give a bucket"
            )
            yield Finding("missing", "run_dir", text)
        elif volume.read_only:
            yield Finding("missing", f"volumes.{volume.name}.read_only", f"a run is written to {path}; make it false")
    home = HOMES.get(cluster.run_dir.split("://", maxsplit=1)[0], target) if path is None else target
    if target in CLOUDS and home != target:
        text = f"{cluster.run_dir} is of another cloud than {target}: keys in `environment` reach it, and every byte is billed"
        yield Finding("warning", "run_dir", text)
    for volume in cluster.volumes:
        if volume.claim and target in CLOUDS:
            text = "a claim is of Kubernetes, and `ray up` has none; give nfs or host_path, or say --target kuberay"
            yield Finding("missing", f"volumes.{volume.name}", text)
        if volume.claim:
            command = f"kubectl -n {cluster.kubernetes.namespace} get pvc {volume.claim}" if cluster.kubernetes else ""
            yield Finding("unseen", f"volumes.{volume.name}", "that the claim exists and is ReadWriteMany", command)
        if volume.host_path:
            text = f"{volume.host_path} must be a file system that all nodes share; a folder of one node is not enough"
            yield Finding("warning", f"volumes.{volume.name}", text)
    if target in CLOUDS and not login(cluster.image, cluster) and not cluster.node_commands:
        text = (
            f"nodes pull {cluster.image} without a login; unless it is public put `docker login …` in `node_commands`"
        )
        yield Finding("warning", "image", text)
    yield Finding("unseen", "image", "that the image was pushed", f"docker manifest inspect {cluster.image}")


def of_recipe(cluster: Cluster, target: str, variables: Collection[str]) -> Iterator[Finding]:
    """Whether the job that `target` runs by itself gets the `variables` that its recipe cannot do without, as nobody is there to
    be asked for them."""
    for name in variables if target == "kuberay" else ():
        if name not in cluster.environment:
            text = f"the recipe of the RayJob needs {name}; name it here"
            yield Finding("missing", "environment", f"{text}{INSTEAD.get(name, '')}")


def login(image: str, cluster: Cluster) -> str | None:
    """The command with which a machine of the registry's own cloud may pull `image`."""
    host = image.split("/", maxsplit=1)[0]
    if ".dkr.ecr." in host:
        region = host.split(".")[3]
        return f"aws ecr get-login-password --region {region} | docker login --username AWS --password-stdin {host}"
    if host.endswith("-docker.pkg.dev") or host == "gcr.io" or host.endswith(".gcr.io"):
        return f"gcloud auth configure-docker {host} --quiet"
    return None
