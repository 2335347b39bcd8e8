"""`ray up` files for AWS, GCP and Azure from a `cluster.yaml`.

Autoscaler v2 is switched on: it is the one that looks at label selectors, so that a CPU task never starts a GPU node. The
token is a file of the user (`ray get-auth-token --generate`) that Ray copies to the nodes, so no file here holds a secret.
"""

from __future__ import annotations

from types import ModuleType

from cluster.deploy import aws, azure, gcp
from cluster.deploy.findings import login
from cluster.deploy.spec import Cluster

CLOUD: dict[str, ModuleType] = {"aws": aws, "gcp": gcp, "azure": azure}
"""By cloud: `provider`, `node`, `run_options` and `findings`."""

HEAD = "head"
TOKEN = ".ray/auth_token"
HOME = "/home/ray"  # of the user inside the image
PORT = 6379

HEADER = """\
# {cloud} cluster `{name}`, made by `pinisi cluster render` for Ray {ray}: change cluster.yaml and render again, not this.
# Needs: the image {image} pushed, {credentials}
#   (umask 077; ray get-auth-token --generate)   # once: writes ~/.ray/auth_token, which Ray copies to the nodes
{environment}\
#   ray up {file}   # starts the head alone; workers come when there is work, and go again
#   ray dashboard {file}   # forwards http://localhost:8265, which is open to nobody else
#   pinisi submit RECIPE --address http://localhost:8265 --run-dir {run_dir}/RECIPE
#   ray down {file}   # at the end: stops every node
"""

CREDENTIALS = {
    "aws": "AWS credentials of boto3 (`aws configure`)",
    "gcp": "`gcloud auth application-default login`, pip install google-api-python-client",
    "azure": "`az login`, pip install azure-cli azure-identity azure-mgmt-compute azure-mgmt-network azure-mgmt-resource",
}


def config(cluster: Cluster, cloud: str) -> dict:
    """What `ray up` reads, as plain data. `cloud` is aws, gcp or azure, and the cluster has a section for it."""
    there = CLOUD[cloud]
    types: dict[str, dict] = {
        HEAD: {
            "resources": {"CPU": 0},
            "labels": {"role": "head"},
            "min_workers": 0,
            "max_workers": 0,
            "node_config": there.node(cluster, cluster.head),
        }
    }
    for group in cluster.groups:
        types[group.name] = {
            "resources": {
                "CPU": group.cpus,
                **({"GPU": group.gpus} if group.gpus else {}),
                "object_store_memory": cluster.object_store_bytes(group),
            },
            "labels": {"role": group.role},
            "min_workers": group.min_nodes,
            "max_workers": group.max_nodes,
            "idle_timeout_s": group.idle_seconds,
            "node_config": there.node(cluster, group),
        }
        if options := there.run_options(cluster, group):
            types[group.name]["docker"] = {"worker_run_options": options}
    return {
        "cluster_name": cluster.name,
        "max_workers": sum(group.max_nodes for group in cluster.groups),
        "upscaling_speed": 4.0,
        "idle_timeout_minutes": max(group.idle_seconds for group in cluster.groups) / 60,
        "provider": there.provider(cluster),
        "auth": {"ssh_user": "ubuntu"},
        "docker": {
            "image": cluster.image,
            "container_name": "pinisi",
            "pull_before_run": True,
            "run_options": [
                "--ulimit nofile=65536:65536",
                "--env RAY_AUTH_MODE=token",
                f"--env RAY_AUTH_TOKEN_PATH={HOME}/{TOKEN}",
                f"--volume {cluster.spill_dir}:{cluster.spill_dir}",
                *_volumes(cluster),
            ],
        },
        "head_node_type": HEAD,
        "available_node_types": types,
        "file_mounts": {f"{HOME}/{TOKEN}": f"~/{TOKEN}", **_environment_mount(cluster)},
        "initialization_commands": _before_container(cluster),
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": ["**/.git", "**/.venv", "**/runs"],
        "head_start_ray_commands": [
            "ray stop",
            f"{_prepare(cluster)} export RAY_enable_autoscaler_v2=1; ray start --head --port={PORT} --num-cpus=0 "
            f"--labels=role=head --object-store-memory={cluster.object_store_bytes(cluster.head)} "
            f"--object-spilling-directory={cluster.spill_dir} --dashboard-host=127.0.0.1 "
            "--autoscaling-config=~/ray_bootstrap_config.yaml --disable-usage-stats",
        ],
        "worker_start_ray_commands": [
            "ray stop",
            f"{_prepare(cluster)} ray start --address=$RAY_HEAD_IP:{PORT} "
            f"--object-spilling-directory={cluster.spill_dir} --disable-usage-stats",
        ],
    }


def header(cluster: Cluster, cloud: str, file: str, ray_version: str) -> str:
    """The first lines of the file: how it is used."""
    environment = ""
    if cluster.environment:
        names = " ".join(cluster.environment)
        environment = (
            f"#   mkdir -p ~/.pinisi && (umask 077; bash -c 'for name in {names}; do "
            f"[ -z ${{!name+set}} ] || declare -px $name; done' > {_environment_file(cluster)})"
            "   # for the nodes: values of those that are set\n"
        )
    return HEADER.format(
        cloud={"aws": "AWS", "gcp": "GCP", "azure": "Azure"}[cloud],
        name=cluster.name,
        ray=ray_version,
        image=cluster.image,
        credentials=CREDENTIALS[cloud],
        environment=environment,
        file=file,
        run_dir=cluster.run_dir,
    )


def _environment_file(cluster: Cluster) -> str:
    return f"~/.pinisi/{cluster.name}.env"


def _environment_mount(cluster: Cluster) -> dict[str, str]:
    return {f"{HOME}/.pinisi.env": _environment_file(cluster)} if cluster.environment else {}


def _prepare(cluster: Cluster) -> str:
    source = f". {HOME}/.pinisi.env; " if cluster.environment else ""
    return f"ulimit -n 65536; {source}export RAY_AUTH_MODE=token;"


def _before_container(cluster: Cluster) -> list[str]:
    """Commands of a machine before its container starts: the spill folder, shared file systems, the registry, your own."""
    # for the user with the id that the image has
    commands = [f"sudo mkdir -p {cluster.spill_dir} && sudo chmod 1777 {cluster.spill_dir}"]
    if any(volume.nfs for volume in cluster.volumes):
        commands.append("command -v mount.nfs || (sudo apt-get update && sudo apt-get install -y nfs-common)")
    for volume in cluster.volumes:
        if volume.nfs:
            source, path = f"{volume.nfs.server}:{volume.nfs.path}", volume.mount_path
            commands.append(f"sudo mkdir -p {path}; mountpoint -q {path} || sudo mount -t nfs {source} {path}")
    if command := login(cluster.image, cluster):
        commands.append(command)
    return [*commands, *cluster.node_commands]


def _volumes(cluster: Cluster) -> list[str]:
    return [
        f"--volume {volume.host_path or volume.mount_path}:{volume.mount_path}{':ro' if volume.read_only else ''}"
        for volume in cluster.volumes
    ]
