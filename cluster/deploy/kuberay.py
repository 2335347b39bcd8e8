"""KubeRay resources from a `cluster.yaml`: a RayCluster that stays, and a RayJob that makes one, runs a recipe and goes.

Fields are those of ray.io/v1 (KubeRay 1.5.1 and later: `labels` of groups and `authOptions`). The token is a Secret that
KubeRay makes; dashboards are reached by `kubectl port-forward` alone: the service is a ClusterIP, and a NetworkPolicy lets
only pods of the cluster in, the operator to the dashboard, and Prometheus to the metrics.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

from cluster.deploy import fit, pods
from cluster.deploy.findings import Finding
from cluster.deploy.pods import kubernetes as _kubernetes
from cluster.deploy.ray_up import PORT
from cluster.deploy.spec import Cluster, Group, Node

SPILL_VOLUME = "spill"
RECIPE_VOLUME, RECIPE_FOLDER, RECIPE_FILE = "recipe", "/etc/pinisi", "recipe.yaml"
MAX_RECIPE_BYTES = 1_000_000  # of a ConfigMap, with its names
DASHBOARD = 8265
METRICS = {"metrics": 8080, "as-metrics": 44217, "dash-metrics": 44227}  # of Ray, its autoscaler, its dashboard
OPERATORS = ["kuberay", "kuberay-operator"]  # names of the operator's pods by kustomize and by Helm
MAX_GROUPS = 16  # Kueue takes 18 sets of pods: head, submitter and these

CLUSTER_HEADER = """\
# KubeRay RayCluster `{name}`, made by `pinisi cluster render` for Ray {ray}: change cluster.yaml and render again, not this.
# Needs: the KubeRay operator 1.5.1 or later, the image {image} pushed.
#   kubectl apply -f kubernetes.yaml      # once: namespace, service account, network policy
#   kubectl apply -f podmonitor.yaml      # where the Prometheus operator is
{secret}\
#   kubectl apply -f raycluster.yaml      # starts the head alone; workers come when there is work, and go again
#   kubectl -n {namespace} port-forward service/{name}-head-svc 8265:8265
#   export RAY_AUTH_MODE=token
#   export RAY_AUTH_TOKEN=$(kubectl -n {namespace} get secret {name} -o jsonpath='{{.data.auth_token}}' | base64 -d)
#   pinisi submit RECIPE --address http://localhost:8265 --run-dir {run_dir_quoted}/RECIPE
#   kubectl delete -f raycluster.yaml     # at the end
"""

JOB_HEADER = """\
# KubeRay RayJob, made by `pinisi cluster render` for Ray {ray}: change cluster.yaml and render again, not this.
# It makes a cluster for the recipe `{recipe}`, runs it, and removes the cluster. Needs what raycluster.yaml needs, then:
#   kubectl apply -f rayjob.yaml
#   kubectl -n {namespace} get rayjob {job}             # state
#   pinisi status {run}      # stages, from anywhere that reads the run
# To continue a run that was stopped: kubectl delete -f rayjob.yaml, then apply it again; finished work is not done again.
# Nothing is tried again by itself unless `kubernetes.retries` says so: Kubernetes cannot tell a wrong recipe from a lost head.
"""

MONITOR_HEADER = """\
# PodMonitor of the Prometheus operator, made by `pinisi cluster render`: metrics of every Ray pod of the namespace.
#   kubectl apply -f podmonitor.yaml
# A Prometheus sees it by its labels (`kubernetes.monitor_labels`):
#   kubectl get prometheus -A -o yaml | grep -A3 podMonitorSelector
"""

BASE_HEADER = """\
# What the other Kubernetes files need, made by `pinisi cluster render`: namespace, service account, and who may connect.
#   kubectl apply -f kubernetes.yaml
# Give the service account access to {run_dir} the way of your cloud (IRSA, Workload Identity).
"""


def ray_cluster(cluster: Cluster, ray_version: str) -> dict:
    """The RayCluster resource as plain data."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": pods.metadata(cluster, cluster.name),
        "spec": _spec(cluster, ray_version),
    }


def ray_job(cluster: Cluster, ray_version: str, recipe: str, own: bool = False) -> dict:
    """A RayJob that runs `recipe` on a cluster of its own: one that ships with Pinisi, or with `own` that of `recipe_map`."""
    spec, file, names = _spec(cluster, ray_version), recipe, _kubernetes(cluster)
    run = f"{cluster.run_dir}/{recipe}"
    if own:
        pod = spec["headGroupSpec"]["template"]["spec"]
        pod["volumes"].append({"name": RECIPE_VOLUME, "configMap": {"name": _map_name(cluster, recipe)}})
        pod["containers"][0]["volumeMounts"].append(
            {"name": RECIPE_VOLUME, "mountPath": RECIPE_FOLDER, "readOnly": True}
        )
        file = f"{RECIPE_FOLDER}/{RECIPE_FILE}"
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": pods.metadata(cluster, job_name(cluster, recipe)),
        "spec": {
            "entrypoint": shlex.join(["pinisi", "run", file, "--address", "auto", "--run-dir", run]),
            # a job that is stopped has the time that its pod has, for a last checkpoint
            "runtimeEnvYAML": f'env_vars:\n  RAY_JOB_STOP_WAIT_TIME_S: "{names.grace_seconds}"\n',
            "submissionMode": "K8sJobMode",
            "submitterPodTemplate": _submitter(cluster),
            "backoffLimit": names.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 300,
            "rayClusterSpec": spec,
        },
    }


def recipe_map(cluster: Cluster, recipe: str, text: str) -> dict:
    """The ConfigMap with the text of a recipe of one's own, which the head's pod reads."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": _map_name(cluster, recipe), "namespace": _kubernetes(cluster).namespace},
        "data": {RECIPE_FILE: text},
    }


def _map_name(cluster: Cluster, recipe: str) -> str:
    return f"{job_name(cluster, recipe)}-recipe"


def base(cluster: Cluster) -> list[dict]:
    """Namespace, service account with the rights that a Spark driver needs, and the network policy."""
    names = _kubernetes(cluster)
    inside = {"namespace": names.namespace}
    account = {"kind": "ServiceAccount", "name": names.service_account, "namespace": names.namespace}
    rights = {
        "apiGroups": [""],
        "resources": ["pods", "services", "configmaps", "persistentvolumeclaims"],
        "verbs": ["get", "list", "watch", "create", "delete", "patch", "deletecollection"],
    }
    spark = f"{names.service_account}-spark"
    metrics = [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}}]
    if names.monitoring_namespace:
        metrics.append(
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": names.monitoring_namespace}}}
        )
    operator = {"matchExpressions": [{"key": "app.kubernetes.io/name", "operator": "In", "values": OPERATORS}]}
    policy = {
        "podSelector": {},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [{"podSelector": {}}]},
            {"from": [{"namespaceSelector": {}, "podSelector": operator}], "ports": [_tcp(DASHBOARD)]},
            {"from": metrics, "ports": [_tcp(port) for port in METRICS.values()]},
        ],
    }
    group = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": names.namespace}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": names.service_account, **inside}},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": {"name": spark, **inside}, "rules": [rights]},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": spark, **inside},
            "subjects": [account],
            "roleRef": {"apiGroup": group, "kind": "Role", "name": spark},
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "pinisi-inside-only", **inside},
            "spec": policy,
        },
    ]


def pod_monitor(cluster: Cluster) -> dict:
    """What tells a Prometheus to read the metrics of Ray's pods."""
    names = _kubernetes(cluster)
    cluster_label = {"sourceLabels": ["__meta_kubernetes_pod_label_ray_io_cluster"], "targetLabel": "ray_io_cluster"}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": cluster.name, "namespace": names.namespace, "labels": dict(names.monitor_labels)},
        "spec": {
            "namespaceSelector": {"matchNames": [names.namespace]},
            "selector": {"matchLabels": {"ray.io/is-ray-node": "yes"}},
            "podMetricsEndpoints": [{"port": name, "relabelings": [cluster_label]} for name in METRICS],
        },
    }


def findings(cluster: Cluster) -> Iterator[Finding]:
    """What the file lacks for KubeRay, or cannot say."""
    names = _kubernetes(cluster)
    yield from fitting(cluster)
    for where, node in _nodes(cluster):
        spot = isinstance(node, Group) and node.spot
        asked = [key for key, value in pods.SPOT.items() if node.node_selector.get(key) == value]
        if asked and not spot:
            text = f"node_selector asks for spot nodes ({asked[0]}), and these are not `spot`"
            yield Finding("missing", where, text)
        if spot and not asked:
            yield Finding("warning", where, "no node_selector names spot nodes, so its pods also go to dearer ones")
    if names.scheduler == "kueue" and len(cluster.groups) > MAX_GROUPS:
        yield Finding("missing", "groups", f"Kueue takes at most {MAX_GROUPS} groups; join some")
    if names.scheduler == "kueue" and not names.elastic:
        nodes = sum(group.max_nodes for group in cluster.groups)
        text = f"Kueue admits no cluster that grows, so all {nodes} nodes are held from begin to end; see `elastic`"
        yield Finding("warning", "kubernetes.scheduler", text)
        if not nodes:
            yield Finding("missing", "groups", "Kueue holds max_nodes of each group, and all are 0; raise one")
    if names.elastic:
        text = "Kueue needs its feature gate ElasticJobsViaWorkloadSlices for it"
        yield Finding("warning", "kubernetes.elastic", text)
    if names.scheduler in ("volcano", "yunikorn"):
        text = f"the operator must run with batchScheduler.name={names.scheduler} (Helm)"
        yield Finding("warning", "kubernetes.scheduler", text)
    if names.retries:
        text = "an error of the recipe is tried again too, on a new cluster each time"
        yield Finding("warning", "kubernetes.retries", text)
    for group in cluster.of_role("gpu"):
        if group.max_nodes > 1 and not group.devices and not group.annotations:
            text = (
                "several nodes train together, and no `devices` or `annotations` give their pods the fast network "
                "(EFA, RDMA, InfiniBand); NCCL then takes TCP"
            )
            yield Finding("warning", f"groups ({group.name})", text)
    yield Finding("unseen", "kubernetes", "that KubeRay is there", "kubectl get crd rayclusters.ray.io rayjobs.ray.io")
    yield Finding("unseen", "kubernetes", "what nodes can allocate", f"kubectl get nodes -o custom-columns={COLUMNS}")
    if names.queue and names.scheduler == "kueue":
        command = f"kubectl -n {names.namespace} get localqueue {names.queue}"
        yield Finding("unseen", "kubernetes.queue", "that the queue exists", command)
    if names.priority_class:
        command = f"kubectl get priorityclass {names.priority_class}"
        yield Finding("unseen", "kubernetes.priority_class", "that it exists", command)
    for secret in names.image_pull_secrets:
        command = f"kubectl -n {names.namespace} get secret {secret}"
        yield Finding("unseen", "kubernetes.image_pull_secrets", f"that {secret} exists", command)
    account = f"kubectl -n {names.namespace} get serviceaccount {names.service_account} -o yaml"
    yield Finding("unseen", "kubernetes.service_account", f"that it may write {cluster.run_dir}", account)


COLUMNS = "NAME:.metadata.name,CPU:.status.allocatable.cpu,MEMORY:.status.allocatable.memory"


def fitting(cluster: Cluster) -> Iterator[Finding]:
    """The nodes that are too small for our pods."""
    for where, node in _nodes(cluster):
        size = _size(cluster, node)
        if lack := fit.too_small(size, 1000 if isinstance(node, Group) else 500):
            yield Finding("missing", where, f"Kubernetes leaves Ray {lack}")
        elif size.memory * cluster.object_store_share > size.memory - fit.GIB:
            text = f"{cluster.object_store_share:g} of the {fit.gib(size.memory)} of {where} leaves Ray less than 1"
            yield Finding("missing", "object_store_share", f"{text}; lower it")


def _nodes(cluster: Cluster) -> list[tuple[str, Node]]:
    return [("head", cluster.head), *((f"groups ({group.name})", group) for group in cluster.groups)]


def _tcp(port: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": port}


def job_name(cluster: Cluster, recipe: str) -> str:
    """Name of the RayJob for a recipe: letters that Kubernetes takes."""
    plain = re.sub(r"[^a-z0-9]", "-", recipe.lower()).strip("-")
    return f"{cluster.name}-{plain}"[:47].rstrip("-")


def header(template: str, cluster: Cluster, ray_version: str, recipe: str) -> str:
    """The first lines of a file: how it is used."""
    namespace = _kubernetes(cluster).namespace
    names = "|".join(cluster.environment)
    values = f"--from-env-file=<(env | grep -E '^({names})=')"  # those that are set; an empty one would not be the same
    secret = f"#   kubectl -n {namespace} create secret generic {cluster.name}-env {values}\n" if names else ""
    return template.format(
        name=cluster.name,
        ray=ray_version,
        image=cluster.image,
        secret=secret,
        namespace=namespace,
        run_dir=cluster.run_dir,
        run_dir_quoted=shlex.quote(cluster.run_dir),
        recipe=recipe,
        run=shlex.quote(f"{cluster.run_dir}/{recipe}"),
        job=job_name(cluster, recipe),
    )


def _grows(cluster: Cluster) -> bool:
    """Whether Ray's autoscaler may add nodes; under Kueue only by workload slices."""
    names = _kubernetes(cluster)
    return names.scheduler != "kueue" or names.elastic


def _spec(cluster: Cluster, ray_version: str) -> dict:
    grows = _grows(cluster)
    size = fit.Size(fit.AUTOSCALER_MILLICORES, fit.AUTOSCALER_MIB, 0).quantities()
    size.pop("ephemeral-storage")
    autoscaler = {
        "version": "v2",  # the one that looks at labels
        "upscalingMode": "Default",
        "idleTimeoutSeconds": max(group.idle_seconds for group in cluster.groups),
        "resources": {"requests": size, "limits": dict(size)},
    }
    return {
        "rayVersion": ray_version,
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": grows,
        **({"autoscalerOptions": autoscaler} if grows else {}),
        **_fault_tolerance(cluster),
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "labels": {"role": "head"},
            "rayStartParams": {
                "num-cpus": "0",
                # every interface of the pod: the operator and the submitter connect here; nobody from outside can
                "dashboard-host": "0.0.0.0",
                **_start(cluster, cluster.head),
            },
            "template": _pod(cluster, cluster.head, "ray-head"),
        },
        "workerGroupSpecs": [_group(cluster, group, grows) for group in cluster.groups],
    }


def _fault_tolerance(cluster: Cluster) -> dict[str, Any]:
    store = _kubernetes(cluster).gcs_fault_tolerance
    if store is None:
        return {}
    key = {"name": store.password_secret, "key": store.password_key}
    password = {"redisPassword": {"valueFrom": {"secretKeyRef": key}}} if store.password_secret else {}
    return {"gcsFaultToleranceOptions": {"redisAddress": store.redis, **password}}


def _group(cluster: Cluster, group: Group, grows: bool) -> dict:
    least = group.min_nodes if grows else group.max_nodes
    return {
        "groupName": group.name,
        "replicas": least,
        "minReplicas": least,
        "maxReplicas": group.max_nodes,
        **({"idleTimeoutSeconds": group.idle_seconds} if grows else {}),
        "labels": {"role": group.role},
        # whole CPUs of what the pod has: Ray would place tasks on those that belong to the system
        "rayStartParams": {"num-cpus": str(_size(cluster, group).millicores // 1000), **_start(cluster, group)},
        "template": _pod(cluster, group, "ray-worker"),
    }


def _size(cluster: Cluster, node: Node) -> fit.Size:
    return fit.container(cluster, node, autoscaler=node is cluster.head and _grows(cluster))


def _start(cluster: Cluster, node: Node) -> dict[str, str]:
    return {
        "object-store-memory": str(int(_size(cluster, node).memory * 2**20 * cluster.object_store_share)),
        "object-spilling-directory": cluster.spill_dir,
        "metrics-export-port": str(METRICS["metrics"]),
    }


def _pod(cluster: Cluster, node: Node, container: str) -> dict:
    names, size = _kubernetes(cluster), _size(cluster, node)
    resources = size.quantities()
    if isinstance(node, Group):
        resources |= {"nvidia.com/gpu": str(node.gpus)} if node.gpus else {}
        resources |= {device: str(count) for device, count in node.devices.items()}
    ports = dict(METRICS) if container == "ray-head" else {"metrics": METRICS["metrics"]}
    if container == "ray-head":
        ports |= {"gcs": PORT, "dashboard": DASHBOARD, "client": 10001}
    spill = (
        {} if any(volume.mount_path == cluster.spill_dir for volume in cluster.volumes) else {SPILL_VOLUME: size.disk}
    )
    body: dict = {
        "name": container,
        "image": cluster.image,
        "resources": {"requests": dict(resources), "limits": resources},
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        # a node that is told to go says so to Ray, and training writes a checkpoint before the pod is killed
        "env": [{"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": str(names.grace_seconds)}],
        **pods.environment(cluster),
        "volumeMounts": [
            *({"name": name, "mountPath": cluster.spill_dir} for name in spill),
            *pods.mounts(cluster),
        ],
    }
    about = {key: dict(value) for key, value in (("labels", node.labels), ("annotations", node.annotations)) if value}
    spec = {
        **_shared(cluster, node),
        "terminationGracePeriodSeconds": names.grace_seconds,
        **({"schedulingGates": [{"name": pods.ELASTIC}]} if names.elastic else {}),
        "containers": [body],
        "volumes": [
            *({"name": name, "emptyDir": {"sizeLimit": f"{disk // 2}Mi"}} for name, disk in spill.items()),
            *pods.volumes(cluster),
        ],
    }
    return {**({"metadata": about} if about else {}), "spec": spec}


def _shared(cluster: Cluster, node: Node) -> dict[str, Any]:
    """What the pods of Ray and the one that submits have alike."""
    names = _kubernetes(cluster)
    return {
        "serviceAccountName": names.service_account,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
        **({"priorityClassName": names.priority_class} if names.priority_class else {}),
        **(
            {"imagePullSecrets": [{"name": name} for name in names.image_pull_secrets]}
            if names.image_pull_secrets
            else {}
        ),
        **pods.placement(node),
    }


def _submitter(cluster: Cluster) -> dict:
    """The pod that submits and follows the job: KubeRay's own has neither secrets to pull the image nor tolerations."""
    body = {
        "name": "ray-job-submitter",
        "image": cluster.image,
        "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
    }
    return {"spec": {**_shared(cluster, cluster.head), "restartPolicy": "Never", "containers": [body]}}
