"""Every rendered pod fits the node that the file names, by what GKE, EKS and AKS publish that they hold back; or it is refused.

The numbers of the clouds are written here again, not taken from the code: each has its own rule for CPUs, memory and disk.
"""

import random
import re

import jsonschema
import pytest
import yaml
from custom_resources import NETWORK_POLICY, POD_MONITOR, RAY_CLUSTER, RAY_JOB, SPARK_APPLICATION, refused_by_kueue

from cluster.deploy import fit, kuberay, render, spec

READER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
GIB = 1024
UNITS = {"m": 1e-3, "": 1.0, "Mi": 1.0, "Gi": GIB}
SPOT_NODES = (  # labels and taints of nodes that may be taken away
    ({"kubernetes.azure.com/scalesetpriority": "spot"}, [("kubernetes.azure.com/scalesetpriority", "spot")]),
    ({"cloud.google.com/gke-spot": "true"}, [("cloud.google.com/gke-spot", "true")]),
    ({"cloud.google.com/gke-spot": "true"}, []),
    ({"eks.amazonaws.com/capacityType": "SPOT"}, []),
    ({"karpenter.sh/capacity-type": "spot"}, []),
)


def by_tiers(memory, tiers):
    held, below = 0.0, 0.0
    for upto, share in tiers:
        held += max(min(memory, upto) - below, 0.0) * share
        below = max(below, min(memory, upto))
    return held


TIERS = ((4 * GIB, 0.25), (8 * GIB, 0.2), (16 * GIB, 0.1), (128 * GIB, 0.06), (float("inf"), 0.02))


def gke(cpus, memory_gb, disk_gb):
    memory = memory_gb * GIB * 0.98  # n2-standard-8: 32 GB are 31.36 GiB to its kernel
    cores = 0.06 + 0.01 * (cpus > 1) + 0.005 * min(max(cpus - 2, 0), 2) + 0.0025 * max(cpus - 4, 0)
    disk = disk_gb * 0.95 - disk_gb * 0.1 - min(disk_gb / 2, 6 + 0.35 * disk_gb, 100)
    return cpus - cores, memory - by_tiers(memory, TIERS) - 100, disk * GIB


def eks(cpus, memory_gb, disk_gb):
    cores = 0.06 + 0.01 * (cpus > 1) + 0.005 * min(max(cpus - 2, 0), 2) + 0.0025 * max(cpus - 4, 0)
    pods = min(4 * cpus + 26, 250)  # by interfaces of the machine type, roughly
    return cpus - cores, memory_gb * GIB * 0.97 - 255 - 11 * min(pods, 110) - 100, (disk_gb * 0.9 - 1) * GIB


def aks(cpus, memory_gb, disk_gb):
    table = {1: 60, 2: 100, 4: 140, 8: 180, 16: 260, 32: 420, 64: 740}
    cores = table[max(size for size in table if size <= cpus)] / 1000 + (cpus > 64) * (cpus - 64) / 100
    memory = memory_gb * GIB
    old = by_tiers(memory, TIERS) + 750
    new = min((20 * 110 + 50) * 1e6 / 2**20, memory / 4) + 100
    return cpus - cores, memory * 0.985 - max(old, new), (disk_gb * 0.9 - 2) * GIB


DAEMONS = (0.35, 700, 0)  # logs, metrics, proxy, CSI, network


def amount(text):
    number, unit = re.fullmatch(r"([\d.]+)([a-zA-Z]*)", text).groups()
    return float(number) * UNITS[unit]


def requests(containers):
    assert all(one["resources"]["limits"] == one["resources"]["requests"] for one in containers)
    found = [one["resources"]["requests"] for one in containers]
    return [sum(amount(one.get(what, "0")) for one in found) for what in ("cpu", "memory", "ephemeral-storage")]


def unfit(what, asked, node, times=1):
    """Where `times` such pods beside the daemons are more than a node of some cloud allocates."""
    for cloud in (gke, eks, aks):
        has = cloud(node.cpus, node.memory_gb, node.disk_gb)
        for name, want, there, taken in zip(("cpu", "memory", "disk"), asked, has, DAEMONS, strict=True):
            if want * times + taken > there + 1e-6:
                yield f"{what}: {times} x {want:.6g} {name} on {there:.6g} of {cloud.__name__}"


def ray_pods(cluster, body):
    """(node, pod spec, containers as KubeRay starts them, start parameters)."""
    autoscaler = body["autoscalerOptions"] if body["enableInTreeAutoscaling"] else None
    head = body["headGroupSpec"]
    pod = head["template"]["spec"]
    yield cluster.head, pod, pod["containers"] + ([autoscaler] if autoscaler else []), head["rayStartParams"]
    for group, rendered in zip(cluster.groups, body["workerGroupSpecs"], strict=True):
        pod = rendered["template"]["spec"]
        yield group, pod, pod["containers"], rendered["rayStartParams"]


def matches(pod, labels, taints):
    """Whether a pod goes to a node with these labels and taints."""
    chosen = all(labels.get(key) == value for key, value in pod.get("nodeSelector", {}).items())
    required = pod.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    for term in required["nodeSelectorTerms"] if required else []:
        assert len(required["nodeSelectorTerms"]) == 1
        for one in term["matchExpressions"]:
            assert one["operator"] == "NotIn"
            chosen = chosen and labels.get(one["key"]) not in one["values"]
    tolerated = {(one.get("key"), one.get("value")) for one in pod.get("tolerations", [])}
    return chosen and all({taint, (taint[0], None), (None, None)} & tolerated for taint in taints)


def faults(cluster, folder):
    """What is wrong with the rendered files of Kubernetes."""
    wrong = []
    read = {path.name: list(yaml.load_all(path.read_text(), READER)) for path in folder.glob("*.yaml")}
    job, application = read["rayjob.yaml"][-1], read["sparkapplication.yaml"][0]
    for resource, schema in (
        (read["raycluster.yaml"][0], RAY_CLUSTER),
        (job, RAY_JOB),
        (application, SPARK_APPLICATION),
        (read["podmonitor.yaml"][0], POD_MONITOR),
        (read["kubernetes.yaml"][-1], NETWORK_POLICY),
    ):
        jsonschema.Draft202012Validator(schema).validate(resource)
    for resource in (read["raycluster.yaml"][0], job, application):
        wrong += [f"{resource['kind']}: Kueue refuses {what}" for what in refused_by_kueue(resource)]
    for body in (read["raycluster.yaml"][0]["spec"], job["spec"]["rayClusterSpec"]):
        for node, pod, containers, start in ray_pods(cluster, body):
            name = getattr(node, "name", "head")
            asked = requests(containers)
            wrong += unfit(name, asked, node)
            limits = containers[0]["resources"]["limits"]
            wrong += [f"{name}: Ray has more CPUs than its pod"] * (int(start["num-cpus"]) > amount(limits["cpu"]))
            store = int(start["object-store-memory"]) / 2**20
            wrong += [f"{name}: objects fill the memory"] * (store > amount(limits["memory"]) - GIB)
            sized = [volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if "emptyDir" in volume]
            wrong += [f"{name}: volumes"] * (sum(map(amount, sized)) > amount(limits["ephemeral-storage"]))
            mounted = {one["name"] for one in containers[0]["volumeMounts"]}
            wrong += [f"{name}: mounts"] * (mounted != {volume["name"] for volume in pod["volumes"]})
            wrong += [f"{name}: drain"] * (
                {"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": str(pod["terminationGracePeriodSeconds"])}
                not in containers[0]["env"]
            )
            if name == "head" or getattr(node, "spot", False) is False:
                wrong += [f"{name}: on spot {labels}" for labels, _ in SPOT_NODES if matches(pod, labels, [])]
                wrong += [f"{name}: nowhere"] * (not matches(pod, dict(node.node_selector), []))
    for what, node, times in (("driver", cluster.head, 1), ("executor", cluster.of_role("cpu")[0], None)):
        pod = application["spec"][what]
        asked = [amount(pod["coreRequest"]), sum(amount(pod[one][:-1]) for one in ("memory", "memoryOverhead")), 0]
        wrong += unfit(what, asked, node, times or max(1, min(4, int(node.cpus // (asked[0] + 0.5)))))
        wrong += [f"{what}: cores"] * (pod["cores"] > max(asked[0], 1))
        if what == "driver":
            wrong += [f"driver: on spot {labels}" for labels, _ in SPOT_NODES if matches(pod, labels, [])]
    return wrong


def example(**changes):
    values = yaml.safe_load((spec.Path(spec.__file__).parents[1] / "cluster.yaml").read_text())
    return {**values, **changes}


def load(folder, values):
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(values))
    return spec.load(str(path))


def test_the_pods_of_the_example_fit(tmp_path):
    cluster = load(tmp_path, example())
    render.render(cluster, str(tmp_path / "out"))
    assert faults(cluster, tmp_path / "out") == []
    # the whole machine, as it was asked for once, does not fit: the check would see it
    assert len(list(unfit("whole", (32, 128 * GIB, 1000 * GIB), cluster.groups[0]))) == 9


def test_the_numbers_of_the_page_are_those_of_the_code(tmp_path):
    cluster = load(tmp_path, example())
    page = (spec.Path(spec.__file__).parents[2] / "docs/kubernetes.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[2:5]] for line in page.splitlines() if " CPUs, " in line[:12]]
    assert len(rows) == 3
    for node, row in zip((cluster.head, *cluster.groups), rows, strict=True):
        size = fit.pod(cluster, node)
        cpus, memory, disk = size.millicores / 1000, size.memory / GIB, size.disk // GIB
        shown = f"{memory:,.1f}" if memory < 100 else f"{memory:,.0f}"
        assert row == [f"{cpus:.3g}", f"{shown} GiB", f"{disk} GiB"]


def random_file(seed):
    """A cluster file of Kubernetes alone, of any size and with any of its keys."""
    rng = random.Random(seed)

    def some(*values):
        return rng.choice(values)

    def machine(**more):
        values = {
            "cpus": some(*[4, 8, 14, 32, 96, 192, 384] * 9, 1, 2, 3),
            "memory_gb": some(*[16, 31, 64, 128, 511, 2048, 4000] * 9, 1, 4, 7, 8),
            "disk_gb": some(*[64, 200, 375, 1000, 6000] * 9, 5, 30),
            **more,
        }
        if rng.random() < 0.5:
            spots = [next(iter(labels.items())) for labels, _ in SPOT_NODES]
            values["node_selector"] = dict([some(*spots, *[("pool", "a")] * 40)])
        if rng.random() < 0.3:
            values["tolerations"] = [{"key": "team", "operator": "Equal", "value": "nlp", "effect": "NoSchedule"}, {}]
        if rng.random() < 0.2:
            values |= {"labels": {"team": "nlp"}, "annotations": {"a.b/c": "d"}}
        return values

    groups = []
    for number in range(rng.randint(1, 3)):
        gpus = number and some(0, 1, 8)
        most = rng.randint(0, 9)
        role = {"role": "gpu", "gpus": gpus} if gpus else {"role": "cpu"}
        devices = {"devices": {"vpc.amazonaws.com/efa": 16}} if gpus and rng.random() < 0.5 else {}
        spot = {"spot": rng.random() < 0.5}
        groups.append(
            machine(name=f"g{number}", max_nodes=most, min_nodes=rng.randint(0, most), **role, **spot, **devices)
        )
    kubernetes = {"node_share": some(0.5, 0.8, 0.95, 1.0), "grace_seconds": some(30, 120, 900)}
    if rng.random() < 0.5:
        kubernetes |= {"scheduler": some("kueue", "volcano", "yunikorn"), "queue": "lab", "elastic": False}
        kubernetes["elastic"] = kubernetes["scheduler"] == "kueue" and rng.random() < 0.5
    if rng.random() < 0.5:
        kubernetes |= {"priority_class": "research", "image_pull_secrets": ["registry"], "retries": 2}
    if rng.random() < 0.3:
        kubernetes["gcs_fault_tolerance"] = {"redis": "redis:6379", **some({}, {"password_secret": "redis"})}
    volumes = [
        {"name": "scratch", "mount_path": some("/scratch", "/mnt/ray-spill", "/data/a"), "claim": "scratch"},
        {"name": "home", "mount_path": "/home/lab", "nfs": {"server": "nfs.lab", "path": "/export"}, "read_only": True},
        {"name": "lustre", "mount_path": "/lustre", "host_path": "/lustre/lab"},
    ]
    return {
        "name": some("pinisi", "p", "a-very-long-name-for-a-cluster-of-a-lab-it"),
        "image": "registry.lab/pinisi:1",
        "run_dir": some(*["s3://lab/runs", "gs://lab/r"] * 8, "/scratch/runs", "/lustre/runs", "/nowhere/runs", "runs"),
        "environment": some([], ["HF_TOKEN"]),
        "object_store_share": some(*[0.1, 0.3, 0.5, 0.6] * 4, 0.9, 1.0),
        "volumes": rng.sample(volumes, rng.randint(0, 3)),
        "head": machine(),
        "groups": groups,
        "kubernetes": kubernetes,
    }


def test_random_files_fit_or_are_refused_in_one_sentence(tmp_path):
    fitted, refused = 0, set()
    for seed in range(100):
        try:
            cluster = load(tmp_path, random_file(seed))
            render.render(cluster, str(tmp_path / "out"))
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 400, seed
            refused.add(str(error).split(":")[0])
            continue
        fitted += 1
        assert faults(cluster, tmp_path / "out") == [], seed
    assert fitted >= 40
    assert {"run_dir", "head", "object_store_share", "groups (g0)"} <= refused


def admits(policy, namespace, pod, port, own="pinisi"):
    """Whether a pod with labels `pod`, in a namespace with that name, may connect to `port` of ours."""
    for rule in policy["spec"]["ingress"]:
        if "ports" in rule and port not in [one["port"] for one in rule["ports"]]:
            continue
        for peer in rule["from"]:
            there = peer.get("namespaceSelector")
            if there is None and namespace != own:
                continue
            if (there or {}).get("matchLabels", {}).get("kubernetes.io/metadata.name", namespace) != namespace:
                continue
            chosen = peer.get("podSelector", {})
            labels = chosen.get("matchLabels", {}).items() <= pod.items()
            if labels and all(pod.get(one["key"]) in one["values"] for one in chosen.get("matchExpressions", [])):
                return True
    return False


def test_the_operator_and_prometheus_get_in_and_nobody_else(tmp_path):
    values = example(kubernetes={"monitoring_namespace": "watch"})
    render.render(load(tmp_path, values), str(tmp_path / "out"), "kuberay")
    policy = list(yaml.safe_load_all((tmp_path / "out/kubernetes.yaml").read_text()))[-1]
    name = "app.kubernetes.io/name"
    for operator in ("kuberay", "kuberay-operator"):  # by kustomize, by Helm
        assert admits(policy, "ray-system", {name: operator}, 8265)
        assert not admits(policy, "ray-system", {name: operator}, 6379)
    metrics = [8080, 44217, 44227]
    assert all(admits(policy, "monitoring", {name: "prometheus"}, port) for port in metrics)
    assert all(admits(policy, "watch", {"app": "alloy"}, port) for port in metrics)
    assert not admits(policy, "monitoring", {name: "prometheus"}, 8265)
    assert not any(admits(policy, "other", {"app": "x"}, port) for port in (8265, 6379, 10001, 8080))
    assert all(admits(policy, "pinisi", {"any": "pod"}, port) for port in (8265, 6379, 10001, 8080))
    # what the monitor names is what pods offer
    monitor = yaml.safe_load((tmp_path / "out/podmonitor.yaml").read_text())
    body = yaml.safe_load((tmp_path / "out/raycluster.yaml").read_text())["spec"]
    named = {one["port"] for one in monitor["spec"]["podMetricsEndpoints"]}
    for pod in (body["headGroupSpec"], *body["workerGroupSpecs"]):
        ports = {one["name"]: one["containerPort"] for one in pod["template"]["spec"]["containers"][0]["ports"]}
        assert str(ports["metrics"]) == pod["rayStartParams"]["metrics-export-port"]
        assert all(admits(policy, "watch", {}, ports[one]) for one in named & set(ports))
    assert named <= {one["name"] for one in body["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]}


def test_what_a_lab_says_of_its_pods_is_in_all_of_them(tmp_path):
    values = example(
        run_dir="/scratch/lab/runs",
        volumes=[{"name": "scratch", "mount_path": "/scratch", "claim": "lab-scratch"}],
        extras=["trackers"],
        packages=["sacrebleu==2.5"],
        kubernetes={
            "priority_class": "research",
            "image_pull_secrets": ["registry"],
            "scheduler": "volcano",
            "queue": "nlp",
            "labels": {"team": "nlp"},
            "gcs_fault_tolerance": {"redis": "redis:6379", "password_secret": "redis"},
        },
        **dict.fromkeys(("aws", "gcp", "azure")),
    )
    values["groups"][0] |= {"tolerations": [{"key": "spot", "effect": "NoSchedule"}], "labels": {"queue": "nlp"}}
    render.render(load(tmp_path, values), str(tmp_path / "out"))
    job = yaml.safe_load((tmp_path / "out/rayjob.yaml").read_text())
    application = yaml.safe_load((tmp_path / "out/sparkapplication.yaml").read_text())
    body = job["spec"]["rayClusterSpec"]
    assert job["metadata"]["labels"] == {
        "team": "nlp",
        "volcano.sh/queue-name": "nlp",
        "ray.io/priority-class-name": "research",
    }
    assert job["spec"]["backoffLimit"] == 0  # an error of the recipe is not run again on a new cluster
    assert body["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"
    groups = [body["headGroupSpec"], *body["workerGroupSpecs"]]
    for pod in [one["template"]["spec"] for one in groups] + [job["spec"]["submitterPodTemplate"]["spec"]]:
        assert pod["priorityClassName"] == "research"
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
    for pod in (one["template"]["spec"] for one in groups):
        assert {"name": "scratch", "persistentVolumeClaim": {"claimName": "lab-scratch"}} in pod["volumes"]
        assert {"name": "scratch", "mountPath": "/scratch"} in pod["containers"][0]["volumeMounts"]
    curate = body["workerGroupSpecs"][0]["template"]
    assert {"operator": "Exists", "key": "spot", "effect": "NoSchedule"} in curate["spec"]["tolerations"]
    assert curate["metadata"]["labels"] == {"queue": "nlp"}
    for labels, taints in SPOT_NODES[:2]:  # tainted by AKS and by GKE
        assert matches({**curate["spec"], "nodeSelector": {}}, labels, taints)
    assert application["spec"]["imagePullSecrets"] == ["registry"]
    assert application["spec"]["batchSchedulerOptions"] == {"queue": "nlp", "priorityClassName": "research"}
    assert "nodeSelector" not in application["spec"]["driver"]  # that of spot nodes is the executors' alone
    for pod in ("driver", "executor"):
        assert {"name": "scratch", "mountPath": "/scratch"} in application["spec"][pod]["volumeMounts"]
    dockerfile = (tmp_path / "out/Dockerfile").read_text()
    assert "pip install -e '/opt/pinisi[gpu,trackers]' sacrebleu==2.5" in dockerfile


def test_names_are_ones_that_kubernetes_takes(tmp_path):
    cluster = load(tmp_path, example())
    for recipe in ("Mine 2.1", "môn-tiếng-việt", "ไทย", "-x-", "a" * 90):
        name = kuberay.job_name(cluster, recipe)
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", name), name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("environment", ["HF-TOKEN; rm -rf /"]),
        ("spill_dir", "spill"),
        ("spill_dir", "/"),
        ("volumes", [{"name": "a", "mount_path": "/home", "claim": "a"}]),
        ("volumes", [{"name": "a", "mount_path": "/tmp", "host_path": "/tmp"}]),
        ("volumes", [{"name": "a", "mount_path": "a", "claim": "a"}]),
        ("volumes", [{"name": "spill", "mount_path": "/a", "claim": "a"}]),
        ("volumes", [{"name": "a", "mount_path": "/a"}]),
        ("volumes", [{"name": "a", "mount_path": "/a", "claim": "a"}, {"name": "b", "mount_path": "/a", "claim": "b"}]),
        ("kubernetes", {"labels": {"team": "natural language"}}),
        ("kubernetes", {"labels": {"team of": "nlp"}}),
        ("kubernetes", {"namespace": "My.Space"}),
        ("kubernetes", {"priority_class": "High"}),
    ],
)
def test_what_the_api_server_would_refuse_is_refused_before(tmp_path, key, value):
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))) as error:
        load(tmp_path, example(**{key: value}))
    assert key in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheduler": "kueue"}, "`scheduler` and `queue` go together"),
        ({"elastic": True}, "`elastic` is of `scheduler: kueue`"),
        ({"node_share": 1.5}, "kubernetes.node_share"),
        ({"image_pull_secrets": ["Not A Name"]}, "kubernetes.image_pull_secrets.0"),
    ],
)
def test_wrong_keys_of_kubernetes_are_one_sentence(tmp_path, change, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load(tmp_path, example(kubernetes=change))
    assert "\n" not in str(error.value)
