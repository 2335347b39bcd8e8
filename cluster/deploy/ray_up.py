"""`ray up` files for AWS, GCP and Azure from a `cluster.yaml`.

Autoscaler v2 is switched on: it is the one that looks at label selectors, so that a CPU task never starts a GPU node. The
token is a file of the user (`ray get-auth-token --generate`) that Ray copies to the nodes, so no file here holds a secret.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.deploy.spec import Cluster, Group, Node

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
    node_config = NODE_CONFIGS[cloud]
    types = {
        HEAD: {
            "resources": {"CPU": 0},
            "labels": {"role": "head"},
            "min_workers": 0,
            "max_workers": 0,
            "node_config": node_config(cluster, cluster.head),
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
            "node_config": node_config(cluster, group),
        }
    return {
        "cluster_name": cluster.name,
        "max_workers": sum(group.max_nodes for group in cluster.groups),
        "upscaling_speed": 4.0,
        "idle_timeout_minutes": max(group.idle_seconds for group in cluster.groups) / 60,
        "provider": PROVIDERS[cloud](cluster),
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
            ],
        },
        "head_node_type": HEAD,
        "available_node_types": types,
        "file_mounts": {f"{HOME}/{TOKEN}": f"~/{TOKEN}", **_environment_mount(cluster)},
        # the folder is made before the container starts, for the user with the id that the image has
        "initialization_commands": [f"sudo mkdir -p {cluster.spill_dir} && sudo chmod 1777 {cluster.spill_dir}"],
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
            f"#   mkdir -p ~/.pinisi && (umask 077; bash -c 'declare -px {names}' > {_environment_file(cluster)})"
            "   # their values, for the nodes\n"
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


def _aws_provider(cluster: Cluster) -> dict:
    aws = cluster.aws
    assert aws is not None
    ssh = {"FromPort": 22, "ToPort": 22, "IpProtocol": "TCP", "IpRanges": [{"CidrIp": block} for block in aws.ssh_from]}
    zones = {"availability_zone": ",".join(aws.availability_zones)} if aws.availability_zones else {}
    return {
        "type": "aws",
        "region": aws.region,
        **zones,
        "cache_stopped_nodes": False,
        "security_group": {"GroupName": f"pinisi-{cluster.name}", "IpPermissions": [ssh]},
    }


def _aws_node(cluster: Cluster, node: Node) -> dict:
    aws = cluster.aws
    assert aws is not None
    disk = {"VolumeSize": node.disk_gb, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
    config = {
        "InstanceType": node.instance.aws,
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": disk}],
        # IMDSv2 only, and two hops so that the container reaches it
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
    }
    if aws.image_id:
        config["ImageId"] = aws.image_id
    if aws.instance_profile:
        config["IamInstanceProfile"] = {"Arn": aws.instance_profile}
    if isinstance(node, Group) and node.spot:
        config["InstanceMarketOptions"] = {"MarketType": "spot"}
    return config


def _gcp_provider(cluster: Cluster) -> dict:
    gcp = cluster.gcp
    assert gcp is not None
    return {
        "type": "gcp",
        "project_id": gcp.project_id,
        "region": gcp.region,
        "availability_zone": gcp.availability_zone,
        "cache_stopped_nodes": False,
    }


def _gcp_node(cluster: Cluster, node: Node) -> dict:
    gcp = cluster.gcp
    assert gcp is not None
    boot = {"diskSizeGb": node.disk_gb, "sourceImage": gcp.source_image}
    config: dict = {
        "machineType": node.instance.gcp,
        "disks": [{"boot": True, "autoDelete": True, "type": "PERSISTENT", "initializeParams": boot}],
    }
    scheduling: dict = {}
    if isinstance(node, Group) and node.spot:
        scheduling["preemptible"] = True
    if isinstance(node, Group) and node.gpus:
        scheduling["onHostMaintenance"] = "TERMINATE"  # what Compute Engine asks of machines with GPUs
        config["metadata"] = {"items": [{"key": "install-nvidia-driver", "value": "True"}]}
        if not str(node.instance.gcp).startswith(("a2-", "a3-", "a4-", "g2-")):  # others have their GPUs built in
            config["guestAccelerators"] = [{"acceleratorType": node.gpu_type, "acceleratorCount": node.gpus}]
    if scheduling:
        config["scheduling"] = [scheduling]
    return config


def _azure_provider(cluster: Cluster) -> dict:
    azure = cluster.azure
    assert azure is not None
    subscription = {"subscription_id": azure.subscription_id} if azure.subscription_id else {}
    return {
        "type": "azure",
        "location": azure.location,
        "resource_group": azure.resource_group,
        **subscription,
        "cache_stopped_nodes": False,
    }


def _azure_node(cluster: Cluster, node: Node) -> dict:
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


PROVIDERS: dict[str, Callable[[Cluster], dict]] = {"aws": _aws_provider, "gcp": _gcp_provider, "azure": _azure_provider}
NODE_CONFIGS: dict[str, Callable[[Cluster, Node], dict]] = {"aws": _aws_node, "gcp": _gcp_node, "azure": _azure_node}
