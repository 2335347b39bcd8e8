"""KubeRay resources from a `cluster.yaml`: a RayCluster that stays, and a RayJob that makes one, runs a recipe and goes.

Fields are those of ray.io/v1 (KubeRay 1.5.1 and later: `labels` of groups and `authOptions`). The token is a Secret that
KubeRay makes; dashboards are reached by `kubectl port-forward` alone: the service is a ClusterIP, and a NetworkPolicy lets
only pods of the cluster and the operator's in.
"""

from __future__ import annotations

from cluster.deploy.ray_up import PORT
from cluster.deploy.spec import Cluster, Group, Kubernetes, Node

SPILL_VOLUME = "spill"
RECIPE_VOLUME, RECIPE_FOLDER, RECIPE_FILE = "recipe", "/etc/pinisi", "recipe.yaml"
GRACE_SECONDS = 120  # between the notice and the kill of a pod: the last checkpoint lands

CLUSTER_HEADER = """\
# KubeRay RayCluster `{name}`, made by `pinisi cluster render` for Ray {ray}: change cluster.yaml and render again, not this.
# Needs: the KubeRay operator 1.5.1 or later, the image {image} pushed.
#   kubectl apply -f kubernetes.yaml      # once: namespace, service account, network policy
{secret}\
#   kubectl apply -f raycluster.yaml      # starts the head alone; workers come when there is work, and go again
#   kubectl -n {namespace} port-forward service/{name}-head-svc 8265:8265
#   export RAY_AUTH_MODE=token
#   export RAY_AUTH_TOKEN=$(kubectl -n {namespace} get secret {name} -o jsonpath='{{.data.auth_token}}' | base64 -d)
#   pinisi submit RECIPE --address http://localhost:8265 --run-dir {run_dir}/RECIPE
#   kubectl delete -f raycluster.yaml     # at the end
"""

JOB_HEADER = """\
# KubeRay RayJob, made by `pinisi cluster render` for Ray {ray}: change cluster.yaml and render again, not this.
# It makes a cluster for the recipe `{recipe}`, runs it, and removes the cluster. Needs what raycluster.yaml needs, then:
#   kubectl apply -f rayjob.yaml
#   kubectl -n {namespace} get rayjob {job}             # state
#   pinisi status {run_dir}/{recipe}      # stages, from anywhere that reads the run
# To continue a run that was stopped: kubectl delete -f rayjob.yaml, then apply it again; finished work is not done again.
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
        "metadata": {"name": cluster.name, "namespace": _kubernetes(cluster).namespace},
        "spec": _spec(cluster, ray_version),
    }


def ray_job(cluster: Cluster, ray_version: str, recipe: str, own: bool = False) -> dict:
    """A RayJob that runs `recipe` on a cluster of its own: one that ships with Pinisi, or with `own` that of `recipe_map`."""
    spec, file = _spec(cluster, ray_version), recipe
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
        "metadata": {"name": job_name(cluster, recipe), "namespace": _kubernetes(cluster).namespace},
        "spec": {
            "entrypoint": f"pinisi run {file} --address auto --run-dir {cluster.run_dir}/{recipe}",
            # a job that is stopped has the time that its pod has, for a last checkpoint
            "runtimeEnvYAML": f'env_vars:\n  RAY_JOB_STOP_WAIT_TIME_S: "{GRACE_SECONDS}"\n',
            "submissionMode": "K8sJobMode",
            "backoffLimit": 3,  # each retry is a new cluster, on which the run continues
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
    policy = {
        "podSelector": {},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [{"podSelector": {}}]},
            {
                "from": [
                    {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay"}}}
                ]
            },
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


def job_name(cluster: Cluster, recipe: str) -> str:
    """Name of the RayJob for a recipe: letters that Kubernetes takes."""
    plain = "".join(letter if letter.isalnum() else "-" for letter in recipe.lower()).strip("-")
    return f"{cluster.name}-{plain}"[:47].rstrip("-")


def header(template: str, cluster: Cluster, ray_version: str, recipe: str) -> str:
    """The first lines of a file: how it is used."""
    namespace = _kubernetes(cluster).namespace
    names = " ".join(f'--from-literal={name}="${name}"' for name in cluster.environment)
    secret = f"#   kubectl -n {namespace} create secret generic {cluster.name}-env {names}\n" if names else ""
    return template.format(
        name=cluster.name,
        ray=ray_version,
        image=cluster.image,
        secret=secret,
        namespace=namespace,
        run_dir=cluster.run_dir,
        recipe=recipe,
        job=job_name(cluster, recipe),
    )


def _kubernetes(cluster: Cluster) -> Kubernetes:
    assert cluster.kubernetes is not None
    return cluster.kubernetes


def _spec(cluster: Cluster, ray_version: str) -> dict:
    return {
        "rayVersion": ray_version,
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",  # the one that looks at labels
            "upscalingMode": "Default",
            "idleTimeoutSeconds": max(group.idle_seconds for group in cluster.groups),
        },
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
        "workerGroupSpecs": [_group(cluster, group) for group in cluster.groups],
    }


def _group(cluster: Cluster, group: Group) -> dict:
    return {
        "groupName": group.name,
        "replicas": group.min_nodes,
        "minReplicas": group.min_nodes,
        "maxReplicas": group.max_nodes,
        "idleTimeoutSeconds": group.idle_seconds,
        "labels": {"role": group.role},
        "rayStartParams": {"num-cpus": str(group.cpus), **_start(cluster, group)},
        "template": _pod(cluster, group, "ray-worker"),
    }


def _start(cluster: Cluster, node: Node) -> dict[str, str]:
    return {
        "object-store-memory": str(cluster.object_store_bytes(node)),
        "object-spilling-directory": cluster.spill_dir,
    }


def _pod(cluster: Cluster, node: Node, container: str) -> dict:
    resources = {"cpu": str(node.cpus), "memory": f"{node.memory_gb}Gi", "ephemeral-storage": f"{node.disk_gb}Gi"}
    spec: dict = {
        "serviceAccountName": _kubernetes(cluster).service_account,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
    }
    if isinstance(node, Group):
        if node.gpus:
            resources["nvidia.com/gpu"] = str(node.gpus)
            spec["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        if node.node_selector:
            spec["nodeSelector"] = dict(node.node_selector)
    body: dict = {
        "name": container,
        "image": cluster.image,
        "resources": {"requests": dict(resources), "limits": resources},
        "volumeMounts": [{"name": SPILL_VOLUME, "mountPath": cluster.spill_dir}],
    }
    if container == "ray-head":
        ports = {"gcs": PORT, "dashboard": 8265, "client": 10001, "metrics": 8080}
        body["ports"] = [{"name": name, "containerPort": port} for name, port in ports.items()]
    if cluster.environment:
        body["envFrom"] = [{"secretRef": {"name": f"{cluster.name}-env"}}]
    spec["containers"] = [body]
    spec["volumes"] = [{"name": SPILL_VOLUME, "emptyDir": {"sizeLimit": f"{node.disk_gb // 2}Gi"}}]
    return {"spec": spec}
