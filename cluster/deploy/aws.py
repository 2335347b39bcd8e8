"""AWS: what `ray up` asks of EC2 for each node, the rights that nodes need, and what cannot be known without asking AWS."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from cluster.deploy.findings import Finding, login
from cluster.deploy.spec import Aws, Cluster, Group, Node

# network cards that carry EFA, by machine type (AWS, Accelerated computing instances: network specifications)
EFA = {
    "p4d.24xlarge": 4,
    "p4de.24xlarge": 4,
    "p5.48xlarge": 32,
    "p5e.48xlarge": 32,
    "p5en.48xlarge": 16,
    "p6-b200.48xlarge": 8,
    "g6e.48xlarge": 4,
}
DEVICE = "vpc.amazonaws.com/efa"  # what a pod on EKS asks for
# regions for which Ray knows an image of its own; it is of 2023, with Ubuntu 18.04 and CUDA 11.2
RAY_IMAGES = frozenset(
    {
        *("us-east-1", "us-east-2", "us-west-1", "us-west-2", "ca-central-1", "eu-central-1", "eu-west-1", "eu-west-2"),
        *("eu-west-3", "sa-east-1", "ap-northeast-1", "ap-northeast-2", "ap-northeast-3", "ap-southeast-1"),
        "ap-southeast-2",
    }
)
IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
COMMON_CRAWL = "commoncrawl"


def look_up(region: str) -> str:
    """The command that prints the newest image with Docker, drivers of NVIDIA and EFA."""
    return f"aws ssm get-parameter --region {region} --name {IMAGE} --query Parameter.Value --output text"


def provider(cluster: Cluster) -> dict[str, Any]:
    aws = _aws(cluster)
    ssh = {"FromPort": 22, "ToPort": 22, "IpProtocol": "TCP", "IpRanges": [{"CidrIp": block} for block in aws.ssh_from]}
    zones = {"availability_zone": ",".join(aws.availability_zones)} if aws.availability_zones else {}
    return {
        "type": "aws",
        "region": aws.region,
        **zones,
        "cache_stopped_nodes": False,
        "security_group": {"GroupName": f"pinisi-{cluster.name}", "IpPermissions": [ssh]},
    }


def node(cluster: Cluster, node: Node) -> dict[str, Any]:
    aws = _aws(cluster)
    disk = {"VolumeSize": node.disk_gb, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
    config: dict[str, Any] = {
        "InstanceType": node.instance.aws,
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": disk}],
        # IMDSv2 only, and two hops so that the container reaches it
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
    }
    if aws.image_id:
        config["ImageId"] = aws.image_id
    profile = (aws.worker_instance_profile if isinstance(node, Group) else None) or aws.instance_profile
    if profile:
        config["IamInstanceProfile"] = {"Arn": profile}
    if isinstance(node, Group) and node.spot:
        config["InstanceMarketOptions"] = {"MarketType": "spot"}
    if isinstance(node, Group) and node.gpus:
        config |= _training(aws, node)
    return config


def _training(aws: Aws, group: Group) -> dict[str, Any]:
    """Network, placement and capacity of a node with GPUs."""
    there = aws.training
    if there is None:
        return {}
    config: dict[str, Any] = {}
    if interfaces := efa_interfaces(aws, group):
        common = {"SubnetId": there.subnet_id, "Groups": list(there.security_group_ids), "DeleteOnTermination": True}
        # card 0 has the address of the machine and, beside it, an interface of EFA alone; the other cards EFA alone
        first = {"NetworkCardIndex": 0, "DeviceIndex": 0, "InterfaceType": "interface", **common}
        efa = [
            {"NetworkCardIndex": card, "DeviceIndex": 0 if card else 1, "InterfaceType": "efa-only", **common}
            for card in range(interfaces)
        ]
        config["NetworkInterfaces"] = [first, *efa]
    elif there.subnet_id:
        config["SubnetIds"] = [there.subnet_id]
        config |= {"SecurityGroupIds": list(there.security_group_ids)} if there.security_group_ids else {}
    if there.placement_group:
        config["Placement"] = {"GroupName": there.placement_group}
    if there.capacity_reservation:
        target = {"CapacityReservationId": there.capacity_reservation}
        config["CapacityReservationSpecification"] = {"CapacityReservationTarget": target}
    if there.capacity_block:
        config["InstanceMarketOptions"] = {"MarketType": "capacity-block"}
    return config


def efa_interfaces(aws: Aws, node: Node) -> int:
    """How many interfaces of EFA a node has."""
    there = aws.training
    if there is None or not there.efa or not isinstance(node, Group) or not node.gpus:
        return 0
    return there.efa_interfaces or EFA.get(str(node.instance.aws), 0)


def run_options(cluster: Cluster, node: Node) -> list[str]:
    """What a container of `node` needs of Docker to use EFA."""
    if not efa_interfaces(_aws(cluster), node):
        return []
    return ["--device=/dev/infiniband", "--ulimit memlock=-1:-1", "--env FI_PROVIDER=efa"]


def findings(cluster: Cluster) -> Iterator[Finding]:
    """What the file lacks for AWS, or cannot say."""
    aws, gpus = _aws(cluster), cluster.of_role("gpu")
    if aws.image_id is None and (gpus or aws.region not in RAY_IMAGES):
        why = "Ray's own image is of 2023 with CUDA 11.2, older than these GPUs" if gpus else "Ray has no image there"
        yield Finding("missing", "aws.image_id", f"{why}; put in what this prints", look_up(aws.region))
    elif aws.image_id is None:
        text = "Ray's own image of 2023 (Ubuntu 18.04) is used; a newer one is what this prints"
        yield Finding("warning", "aws.image_id", text, look_up(aws.region))
    else:
        command = f"aws ec2 describe-images --region {aws.region} --image-ids {aws.image_id} --query Images[].Name"
        yield Finding("unseen", "aws.image_id", "that it exists and has Docker and drivers", command)
    yield from _rights(cluster, aws)
    for key in ("instance_profile", "worker_instance_profile"):
        arn = getattr(aws, key)
        if arn and not re.fullmatch(r"arn:aws[\w-]*:iam::\d{12}:instance-profile/\S+", arn):
            text = f"{arn} is no ARN of an instance profile (arn:aws:iam::111122223333:instance-profile/NAME)"
            yield Finding("missing", f"aws.{key}", text)
    for group in gpus:
        yield from _network(aws, group)
    quota = f"aws service-quotas list-service-quotas --region {aws.region} --service-code ec2"
    yield Finding("unseen", "groups", "that the account may start so many machines", quota)


def _rights(cluster: Cluster, aws: Aws) -> Iterator[Finding]:
    if aws.worker_instance_profile and aws.instance_profile is None:
        text = (
            "the role that Ray makes for the head may not hand the workers' on; give the head its own (iam-head.json)"
        )
        yield Finding("missing", "aws.instance_profile", text)
        return
    keys = "AWS_ACCESS_KEY_ID" in cluster.environment
    if _bucket(cluster) is None or keys:
        return
    if aws.instance_profile is None and aws.worker_instance_profile is None:
        text = (
            f"Ray gives a role to the head alone, so workers cannot read {cluster.run_dir}; make the profiles from "
            "iam-head.json and iam-worker.json (docs/aws.md), or name AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in "
            "`environment`"
        )
        yield Finding("missing", "aws.instance_profile", text)
    for key in ("instance_profile", "worker_instance_profile"):
        if arn := getattr(aws, key):
            command = f"aws iam get-instance-profile --instance-profile-name {arn.rsplit('/', 1)[-1]}"
            yield Finding("unseen", f"aws.{key}", "that its role has the rights of the iam-*.json", command)


def _network(aws: Aws, group: Group) -> Iterator[Finding]:
    there, where = aws.training, f"groups ({group.name})"
    kind = str(group.instance.aws)
    if there is not None and efa_interfaces(aws, group):
        if not there.subnet_id or not there.security_group_ids:
            text = "interfaces of EFA need `subnet_id` and `security_group_ids`; add them, or say `efa: false`"
            yield Finding("missing", "aws.training", text)
        text = "nodes with several interfaces get no public address; their subnet needs a NAT gateway to pull the image"
        yield Finding("warning", "aws.training", text)
    if there is not None and there.capacity_block and not there.capacity_reservation:
        yield Finding("missing", "aws.training.capacity_reservation", "a Capacity Block is named by its id (cr-…)")
    if there is not None and group.spot and (there.capacity_reservation or there.capacity_block):
        text = "spot nodes cannot be of a capacity reservation; make `spot` false, or take the reservation out"
        yield Finding("missing", where, text)
    if group.max_nodes < 2:
        return
    if len(aws.availability_zones) != 1 and (there is None or there.subnet_id is None):
        text = (
            f"its nodes train together and would lie in several zones; give `subnet_id` of one, or one zone in "
            f"`availability_zones` ({', '.join(aws.availability_zones) or 'now: all'})"
        )
        yield Finding("missing", "aws.training", f"{where}: {text}")
    if there is None or not efa_interfaces(aws, group):
        if EFA.get(kind) and (there is None or there.efa):
            text = f"{kind} has {EFA[kind]} cards of EFA that are not used; add `aws.training` (docs/aws.md)"
            yield Finding("warning", where, text)
        else:
            yield Finding("warning", where, f"{kind} without EFA as far as we know; NCCL takes TCP between nodes")
    if there is None or (there.placement_group is None and not there.capacity_block):
        yield Finding("warning", where, "no placement group; its nodes may lie far apart")


def _bucket(cluster: Cluster) -> tuple[str, str] | None:
    """Bucket and prefix of the runs, where they lie on S3."""
    found = re.match(r"s3a?://([^/]+)/?(.*)$", cluster.run_dir)
    return (found[1], found[2].strip("/")) if found else None


def policies(cluster: Cluster) -> dict[str, str]:
    """Files of IAM: who may take the roles, and what head and workers may do."""
    aws = _aws(cluster)
    trust = [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]
    worker = _reading(cluster)
    tagged = {"StringEquals": {"ec2:ResourceTag/ray-cluster-name": cluster.name}}
    begun = {
        "StringEquals": {"ec2:CreateAction": "RunInstances"}
    }  # else tags would make any machine one of this cluster
    describe = ["ec2:Describe*"]
    head: list[dict[str, Any]] = [
        {"Effect": "Allow", "Action": describe, "Resource": "*"},
        {"Effect": "Allow", "Action": "ec2:RunInstances", "Resource": "*"},
        {"Effect": "Allow", "Action": "ec2:CreateTags", "Resource": "*", "Condition": begun},
        {
            "Effect": "Allow",
            "Action": ["ec2:CreateTags", "ec2:TerminateInstances"],
            "Resource": "*",
            "Condition": tagged,
        },
    ]
    if profile := aws.worker_instance_profile or aws.instance_profile:  # of the workers (see `node`)
        role = profile.replace(":instance-profile/", ":role/")
        passed = {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
        head.append({"Effect": "Allow", "Action": "iam:PassRole", "Resource": role, "Condition": passed})
    head += worker
    return {
        "iam-trust.json": _policy(trust),
        "iam-head.json": _policy(head),
        "iam-worker.json": _policy(worker),
    }


def _reading(cluster: Cluster) -> list[dict[str, Any]]:
    rights: list[dict[str, Any]] = []
    if bucket := _bucket(cluster):
        name, prefix = bucket
        arn = f"arn:aws:s3:::{name}"
        objects = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
        below = f"{arn}/{prefix}/*" if prefix else f"{arn}/*"
        rights += [
            {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation"], "Resource": arn},
            {"Effect": "Allow", "Action": objects, "Resource": below},
        ]
    crawl = f"arn:aws:s3:::{COMMON_CRAWL}"
    rights.append({"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": [crawl, f"{crawl}/*"]})
    if ".dkr.ecr." in (login(cluster.image, cluster) or ""):
        pull = ["ecr:GetAuthorizationToken", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
        rights.append({"Effect": "Allow", "Action": pull, "Resource": "*"})
    return rights


def _policy(statements: list[dict[str, Any]]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=1) + "\n"


def _aws(cluster: Cluster) -> Aws:
    assert cluster.aws is not None
    return cluster.aws
