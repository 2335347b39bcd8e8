"""What each cloud would refuse or run slowly is refused or said at render; what is rendered is what the cloud's API takes."""

import importlib.util
import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from cluster.deploy import aws, look, render, spec
from ray_jobs import cli

EXAMPLE = Path(spec.__file__).parents[1] / "cluster.yaml"
SECTIONS = {"aws": "aws", "gcp": "gcp", "azure": "azure", "kuberay": "kubernetes", "spark": "kubernetes"}


def load(folder, target="aws", **changes):
    """The example with `changes`: dotted keys of the cloud's section or, from `/` on, of the file; None takes a key away."""
    values = yaml.safe_load(EXAMPLE.read_text())
    for key in set(SECTIONS.values()) - {SECTIONS[target]}:
        del values[key]
    for key, value in changes.items():
        part, *rest = (f"{SECTIONS[target]}.{key}" if not key.startswith("/") else key[1:]).split(".")
        there = values
        for step in rest:
            there = (
                there[int(part) if part.isdigit() else part] if isinstance(there, list) else there.setdefault(part, {})
            )
            part = step
        where = int(part) if isinstance(there, list) else part
        if value is None:
            there.pop(where, None)
        else:
            there[where] = value
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(values))
    return spec.load(str(path))


def types(folder, cluster, target="aws"):
    render.render(cluster, str(folder / "out"), target)
    kinds = yaml.safe_load((folder / f"out/ray-{target}.yaml").read_text())["available_node_types"]
    return {name: kind["node_config"] for name, kind in kinds.items()}, kinds


def warnings(cluster, target):
    return [one.sentence() for one in render.check(cluster, target) if one.state == "warning"]


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        # an image too old for the GPU, or none in that region
        ("aws", {"image_id": None}, "aws.image_id: Ray's own image is of 2023"),
        ("aws", {"image_id": None, "region": "me-south-1", "/groups.1": None}, "aws.image_id: Ray has no image there"),
        # workers that cannot read the bucket
        ("aws", {"instance_profile": None, "worker_instance_profile": None}, "Ray gives a role to the head alone"),
        ("aws", {"instance_profile": None}, "may not hand the workers' on"),
        ("aws", {"instance_profile": "pinisi-head"}, "is no ARN of an instance profile"),
        # training over two zones, with a network that none of them has
        ("aws", {"training": None}, "would lie in several zones"),
        ("aws", {"training.subnet_id": None}, "`subnet_id` and `security_group_ids`"),
        ("aws", {"training.capacity_block": True}, "a Capacity Block is named by its id"),
        (
            "aws",
            {"training.capacity_reservation": "cr-1", "/groups.1.spot": True},
            "spot nodes cannot be of a capacity",
        ),
        ("gcp", {"availability_zone": "europe-west4-a"}, "is not of the region us-central1"),
        ("gcp", {"disk_type": "pd-ssd"}, "a3-ultragpu-8g takes no pd-ssd"),
        ("gcp", {"training.subnetworks": ["a", "b"]}, "gcp.training.rdma_subnetworks: a3-ultragpu-8g has 8"),
        ("gcp", {"training.rdma_subnetworks": ["r"] * 8}, "gcp.training.subnetworks: a3-ultragpu-8g has 2"),
        ("azure", {"/run_dir": "abfs://runs/lab"}, "AZURE_STORAGE_ACCOUNT_NAME"),
        # places that nodes do not have
        ("aws", {"/run_dir": "/scratch/lab/runs"}, "run_dir: nothing mounts /scratch/lab/runs"),
        ("kuberay", {"/run_dir": "file:///scratch/runs"}, "run_dir: nothing mounts /scratch/runs"),
        ("spark", {"/run_dir": "runs"}, "run_dir: runs is relative"),
        ("gcp", {"/volumes": [{"name": "a", "mount_path": "/a", "claim": "a"}]}, "a claim is of Kubernetes"),
        ("kuberay", {"/groups.1.node_selector": {"karpenter.sh/capacity-type": "spot"}}, "asks for spot nodes"),
        ("kuberay", {"/head.memory_gb": 4}, "head: Kubernetes leaves Ray"),
    ],
)
def test_what_would_not_start_is_refused_in_one_sentence(tmp_path, capsys, target, changes, message):
    if changes.get("/groups.1", 0) is None:
        changes = {key: value for key, value in changes.items() if key != "/groups.1"}
        changes["/groups"] = yaml.safe_load(EXAMPLE.read_text())["groups"][:1]
    load(tmp_path, target, **changes)
    path = str(tmp_path / "cluster.yaml")
    with pytest.raises(SystemExit) as ended:
        cli.main(["cluster", "render", path, "--out", str(tmp_path / "out"), "--target", target])
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 2
    assert path in said and message in said and "\n" not in said
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as ended:
        cli.main(["cluster", "check", path, "--target", target])
    assert ended.value.code == 1
    assert message in capsys.readouterr().out


def test_gpu_nodes_of_aws_have_the_fast_network_in_one_zone(tmp_path):
    changes = {"training.capacity_reservation": "cr-0123", "training.capacity_block": True}
    nodes, kinds = types(tmp_path, load(tmp_path, **changes))
    train = nodes["train"]
    first, *others = train["NetworkInterfaces"]
    assert (first["NetworkCardIndex"], first["DeviceIndex"], first["InterfaceType"]) == (0, 0, "interface")
    assert {one["InterfaceType"] for one in others} == {"efa-only"}
    assert [one["NetworkCardIndex"] for one in others] == list(range(16))  # p5en.48xlarge
    places = [(one["NetworkCardIndex"], one["DeviceIndex"]) for one in train["NetworkInterfaces"]]
    assert len(set(places)) == 17
    assert {one["SubnetId"] for one in train["NetworkInterfaces"]} == {"subnet-0123456789abcdef0"}
    assert not {"SubnetId", "SubnetIds", "SecurityGroupIds"} & train.keys()  # beside interfaces Ray refuses them
    assert train["Placement"] == {"GroupName": "pinisi-train"}
    assert train["InstanceMarketOptions"] == {"MarketType": "capacity-block"}
    assert "--device=/dev/infiniband" in kinds["train"]["docker"]["worker_run_options"]
    assert "docker" not in kinds["curate"] and "NetworkInterfaces" not in nodes["head"]
    assert "efa_installer.sh" in (tmp_path / "out/Dockerfile").read_text()
    profiles = {name: node["IamInstanceProfile"]["Arn"].rsplit("/", 1)[1] for name, node in nodes.items()}
    assert profiles == {"head": "pinisi-head", "curate": "pinisi-worker", "train": "pinisi-worker"}
    assert {node["ImageId"] for node in nodes.values()} == {"ami-0123456789abcdef0"}
    # without EFA: the one zone, and no device of it
    nodes, kinds = types(tmp_path, load(tmp_path, **{"training.efa": False}))
    assert nodes["train"]["SubnetIds"] == ["subnet-0123456789abcdef0"] and "docker" not in kinds["train"]
    assert "efa_installer" not in (tmp_path / "out/Dockerfile").read_text()
    unknown = load(tmp_path, **{"/groups.1.instance.aws": "p9.48xlarge"})
    assert any("p9.48xlarge without EFA as far as we know" in one for one in warnings(unknown, "aws"))
    known = load(tmp_path, **{"/groups.1.instance.aws": "p9.48xlarge", "training.efa_interfaces": 3})
    assert len(types(tmp_path, known)[0]["train"]["NetworkInterfaces"]) == 4


@pytest.mark.skipif(importlib.util.find_spec("boto3") is None, reason="boto3 is not installed")
def test_ec2_takes_the_nodes(tmp_path):
    import boto3
    from botocore.validate import ParamValidator

    model = boto3.client("ec2", "us-east-1", aws_access_key_id="x", aws_secret_access_key="x").meta.service_model
    shape = model.operation_model("RunInstances").input_shape
    changes = {"training.capacity_reservation": "cr-0123", "training.capacity_block": True}
    for node in types(tmp_path, load(tmp_path, **changes))[0].values():
        asked = {key: value for key, value in node.items() if key != "SubnetIds"}  # Ray's own, of which it takes one
        report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **asked}, shape)
        assert not report.has_errors(), report.generate_report()


def test_rights_of_head_and_workers(tmp_path):
    cluster = load(tmp_path, **{"/image": "111122223333.dkr.ecr.eu-west-1.amazonaws.com/pinisi:1"})
    render.render(cluster, str(tmp_path / "out"))
    head, worker, trust = (
        json.loads((tmp_path / f"out/iam-{n}.json").read_text()) for n in ("head", "worker", "trust")
    )
    assert trust["Statement"][0]["Principal"] == {"Service": "ec2.amazonaws.com"}

    def allowed(policy, action):
        statements = [one for one in policy["Statement"] if action in [one["Action"]] or action in one["Action"]]
        return [one["Resource"] for one in statements]

    for policy in (head, worker):
        assert allowed(policy, "s3:PutObject") == ["arn:aws:s3:::lab-bucket/runs/*"]
        assert allowed(policy, "s3:ListBucket")[0] == "arn:aws:s3:::lab-bucket"
        assert "arn:aws:s3:::commoncrawl/*" in allowed(policy, "s3:GetObject")[1]
        assert allowed(policy, "ecr:BatchGetImage") == ["*"]
    assert allowed(head, "ec2:RunInstances") == ["*"] and allowed(worker, "ec2:RunInstances") == []
    assert allowed(head, "iam:PassRole") == ["arn:aws:iam::111122223333:role/pinisi-worker"]
    conditions = [one["Condition"]["StringEquals"] for one in head["Statement"] if "ec2:CreateTags" in one["Action"]]
    ours = {"ec2:ResourceTag/ray-cluster-name": cluster.name}  # no other machine can be made one of this cluster's
    assert conditions == [{"ec2:CreateAction": "RunInstances"}, ours]
    (ended,) = [one for one in head["Statement"] if "ec2:TerminateInstances" in one["Action"]]
    assert ended["Condition"]["StringEquals"] == ours
    for worker_profile, profile, passed in (
        (None, "arn:aws:iam::111122223333:instance-profile/one", ["arn:aws:iam::111122223333:role/one"]),
        (None, None, []),  # with keys: nodes that the head starts have no role, so it hands none on
    ):
        keys = {"/environment": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]}
        cluster = load(tmp_path, worker_instance_profile=worker_profile, instance_profile=profile, **keys)
        render.render(cluster, str(tmp_path / "two"), "aws")
        head = json.loads((tmp_path / "two/iam-head.json").read_text())
        assert allowed(head, "iam:PassRole") == passed
    commands = yaml.safe_load((tmp_path / "out/ray-aws.yaml").read_text())["initialization_commands"]
    assert any("aws ecr get-login-password --region eu-west-1 | docker login" in one for one in commands)


def test_machines_of_google_have_disks_and_networks_that_they_take(tmp_path):
    subnets = {"training.subnetworks": ["a", "b"], "training.rdma_subnetworks": [f"r{n}" for n in range(8)]}
    more = {"training.reservation": "res", "training.placement_policy": "near"}
    nodes, kinds = types(tmp_path, load(tmp_path, "gcp", **subnets, **more), "gcp")
    disks = {name: node["disks"][0]["initializeParams"]["diskType"] for name, node in nodes.items()}
    assert disks["head"].endswith("us-central1-a/diskTypes/pd-balanced")
    assert disks["train"].endswith("us-central1-a/diskTypes/hyperdisk-balanced")
    interfaces = nodes["train"]["networkInterfaces"]
    assert [one["nicType"] for one in interfaces] == ["GVNIC"] * 2 + ["MRDMA"] * 8
    assert interfaces[2]["subnetwork"] == "projects/lab-project/regions/us-central1/subnetworks/r0"
    assert len({one["subnetwork"] for one in interfaces}) == 10
    assert "accessConfigs" in interfaces[0] and not any("accessConfigs" in one for one in interfaces[1:])
    assert nodes["train"]["reservationAffinity"]["values"] == ["res"]
    assert nodes["train"]["resourcePolicies"] == ["projects/lab-project/regions/us-central1/resourcePolicies/near"]
    accounts = {name: node.get("serviceAccounts", [{}])[0].get("email") for name, node in nodes.items()}
    assert accounts == {"head": None, "curate": "default", "train": "default"}  # Ray gives one to the head alone
    assert "networkInterfaces" not in nodes["curate"] and "docker" not in kinds["curate"]
    assert "--device=/dev/infiniband" in kinds["train"]["docker"]["worker_run_options"]


def test_what_cannot_be_known_is_said(tmp_path, capsys):
    for target, word in (
        ("aws", "no public address"),
        ("gcp", "unused without `gcp.training`"),
        ("azure", "scale set"),
    ):
        assert any(word in one for one in warnings(load(tmp_path, target), target)), target
    for target, many in (("aws", 0), ("gcp", 1), ("azure", 1)):  # the example's bucket is of AWS
        found = [one for one in warnings(load(tmp_path, target), target) if "is of another cloud" in one]
        assert len(found) == many, target
    assert any("NCCL then takes TCP" in one for one in warnings(load(tmp_path, "kuberay"), "kuberay"))
    with_devices = load(tmp_path, "kuberay", **{"/groups.1.devices": {"vpc.amazonaws.com/efa": 16}})
    assert not any("TCP" in one for one in warnings(with_devices, "kuberay"))
    render.render(with_devices, str(tmp_path / "eks"), "kuberay")
    assert "efa_installer.sh" in (tmp_path / "eks/Dockerfile").read_text()
    assert any(
        "no InfiniBand" in one
        for one in warnings(
            load(tmp_path, "azure", **{"/groups.1.instance.azure": "Standard_NC24ads_A100_v4"}), "azure"
        )
    )
    load(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["cluster", "render", str(tmp_path / "cluster.yaml"), "--out", str(tmp_path / "out")])
    assert ended.value.code == 0
    printed = capsys.readouterr()
    assert "warning: aws.training: nodes with several interfaces" in printed.err
    assert "warning" not in printed.out


def test_shared_file_systems_reach_the_container(tmp_path):
    volumes = [
        {"name": "scratch", "mount_path": "/scratch", "nfs": {"server": "fs-1.efs", "path": "/"}},
        {"name": "data", "mount_path": "/data", "host_path": "/mnt/data", "read_only": True},
    ]
    cluster = load(tmp_path, **{"/run_dir": "/scratch/runs", "/volumes": volumes, "/node_commands": ["echo mine"]})
    types(tmp_path, cluster)
    config = yaml.safe_load((tmp_path / "out/ray-aws.yaml").read_text())
    assert "--volume /scratch:/scratch" in config["docker"]["run_options"]
    assert "--volume /mnt/data:/data:ro" in config["docker"]["run_options"]
    mount, *rest = [one for one in config["initialization_commands"] if "mount -t nfs" in one]
    assert mount.endswith("sudo mount -t nfs fs-1.efs:/ /scratch") and not rest
    assert config["initialization_commands"][-1] == "echo mine"
    assert any("folder of one node is not enough" in one for one in warnings(cluster, "aws"))


def test_the_commands_of_the_headers_work_without_the_variables(tmp_path):
    """Variables that are not set are left out, as an empty AWS_ENDPOINT_URL is another thing than none."""
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "HF_TOKEN": "a 'b' $c"}
    cluster = load(tmp_path)
    types(tmp_path, cluster)
    line = next(one for one in (tmp_path / "out/ray-aws.yaml").read_text().splitlines() if ".pinisi" in one)
    command = line.removeprefix("#").split("   # ")[0].strip()
    subprocess.run(["sh", "-c", command], env=home, check=True, capture_output=True)
    written = tmp_path / ".pinisi/pinisi.env"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    shown = subprocess.run(
        ["bash", "-c", f". {written}; echo \"$HF_TOKEN|${{AWS_ENDPOINT_URL-none}}\""],
        env={"PATH": home["PATH"]}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.stdout == "a 'b' $c|none\n"
    render.render(load(tmp_path, "kuberay"), str(tmp_path / "out"), "kuberay")
    line = next(one for one in (tmp_path / "out/raycluster.yaml").read_text().splitlines() if "create secret" in one)
    asked = line.removeprefix("#").strip().replace("--from-env-file=", "")
    (tmp_path / "kubectl").write_text('#!/bin/sh\nshift 6\ncat "$@"\n')
    (tmp_path / "kubectl").chmod(0o755)
    there = {**home, "PATH": f"{tmp_path}:{home['PATH']}"}
    sent = subprocess.run(["bash", "-c", asked], env=there, check=True, capture_output=True, text=True)
    assert sent.stdout == "HF_TOKEN=a 'b' $c\n"


@pytest.mark.parametrize("where", ["out", "deep/er/out", "/outside"])
def test_the_image_reads_nothing_outside_of_the_repository(tmp_path, monkeypatch, where):
    """F12: wherever the files are rendered, every COPY is of the build's context."""
    inside = tmp_path / "repository"
    inside.mkdir()
    monkeypatch.chdir(inside)
    out = tmp_path / "outside" if where.startswith("/") else Path(where)
    render.render(load(tmp_path), str(out))
    text = (out / "Dockerfile").read_text() + (out / "Dockerfile.dockerignore").read_text()
    copied = [word for line in re.findall(r"^COPY (?:--\S+ )*(.*) \S+$", text, re.M) for word in line.split()]
    assert copied and not any(".." in one or one.startswith("/") or "outside" in one for one in copied)
    assert "!.." not in text


def test_check_asks_only_when_told(tmp_path, monkeypatch, capsys):
    for tool in ("kubectl", "aws", "gcloud", "az", "docker"):
        path = tmp_path / tool
        path.write_text(
            f'#!/bin/sh\necho {tool} "$@" >> {tmp_path}/asked\ncase "$*" in *crd*) echo no such crd >&2; exit 1;; esac\n'
        )
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SystemExit) as ended:
        cli.main(["cluster", "check", str(EXAMPLE)])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert not (tmp_path / "asked").exists()
    assert "Not looked at" in said and "kubectl get crd rayclusters.ray.io" in said
    with pytest.raises(SystemExit) as ended:
        cli.main(["cluster", "check", str(EXAMPLE), "--target", "kuberay", "--online", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert ended.value.code == 1  # no operator
    assert [one["answer"] for one in found if one["state"] == "missing"] == ["no such crd"]
    verbs = {line.split()[0] for line in (tmp_path / "asked").read_text().splitlines()}
    assert verbs == {"kubectl", "docker"}


def test_every_question_only_looks(tmp_path):
    """Commands of `--online` read: none of them makes, changes or removes anything."""
    for target in SECTIONS:
        changes = (
            {"/volumes": [{"name": "a", "mount_path": "/a", "claim": "a"}]} if target in ("kuberay", "spark") else {}
        )
        for one in render.check(load(tmp_path, target, **changes), target):
            if one.state == "unseen":
                looks = r"\b(get|describe|describe-\S+|get-\S+|inspect|show|list-\S+|describe-from-family)\b"
                assert re.search(looks, one.command), one
    assert look.asked([one for one in render.check(load(tmp_path)) if one.state != "unseen"])
    assert aws.look_up("eu-west-1").startswith("aws ssm get-parameter --region eu-west-1")
