"""A SparkApplication (Kubeflow Spark operator, sparkoperator.k8s.io/v1beta2) that runs curation/spark_job.py."""

from __future__ import annotations

from cluster.deploy.image import APP
from cluster.deploy.spec import Cluster

HEADER = """\
# SparkApplication for the Kubeflow Spark operator, made by `pinisi cluster render` for Spark {spark}: change cluster.yaml.
# It runs the Spark steps of a run whose earlier stages are done, on pods of its own, without Ray. Needs kubernetes.yaml
# applied, the operator watching the namespace {namespace}, and a run that has written its settings:
#   pinisi run {recipe} --run-dir {run_dir}/{recipe} --until filter
#   kubectl apply -f sparkapplication.yaml
#   kubectl -n {namespace} get sparkapplication {name}-curation
# With `mode: ray` (docs/cluster.md) Spark runs inside the Ray cluster instead and this file is not needed.
"""


def application(cluster: Cluster, spark_version: str, recipe: str) -> dict:
    """The SparkApplication resource as plain data. Executors have the CPUs of a quarter of the first CPU group's node."""
    kubernetes = cluster.kubernetes
    assert kubernetes is not None
    group = cluster.of_role("cpu")[0]
    cores = max(1, group.cpus // 4)
    memory = max(1, group.memory_gb // 5)  # four share a node, and the rest is for the node itself
    user = {"runAsNonRoot": True, "runAsUser": 1000}
    pod: dict[str, object] = {"serviceAccount": kubernetes.service_account, "securityContext": user}
    if group.node_selector:
        pod["nodeSelector"] = dict(group.node_selector)
    if cluster.environment:
        pod["envFrom"] = [{"secretRef": {"name": f"{cluster.name}-env"}}]
    scratch = {"name": "spark-local-dir-1", "emptyDir": {"sizeLimit": f"{group.disk_gb // 5}Gi"}}
    mount = {"name": "spark-local-dir-1", "mountPath": "/mnt/spark"}
    return {
        "apiVersion": "sparkoperator.k8s.io/v1beta2",
        "kind": "SparkApplication",
        "metadata": {"name": f"{cluster.name}-curation", "namespace": kubernetes.namespace},
        "spec": {
            "type": "Python",
            "pythonVersion": "3",
            "mode": "cluster",
            "sparkVersion": spark_version,
            "image": cluster.image,
            "imagePullPolicy": "IfNotPresent",
            "mainApplicationFile": f"local://{APP}/curation/spark_job.py",
            "arguments": ["--run-dir", f"{cluster.run_dir}/{recipe}", "--steps", "dedup"],
            "restartPolicy": {
                "type": "OnFailure",
                "onFailureRetries": 3,
                "onFailureRetryInterval": 30,
                "onSubmissionFailureRetries": 3,
                "onSubmissionFailureRetryInterval": 30,
            },
            "sparkConf": {
                "spark.sql.session.timeZone": "UTC",
                # a lost spot node's shuffle blocks move to another before it goes
                "spark.decommission.enabled": "true",
                "spark.storage.decommission.enabled": "true",
                "spark.storage.decommission.shuffleBlocks.enabled": "true",
            },
            "volumes": [scratch],
            "dynamicAllocation": {
                "enabled": True,
                "initialExecutors": 1,
                "minExecutors": 0,
                "maxExecutors": kubernetes.spark_executors,
            },
            "driver": {"cores": 2, "memory": "4g", **pod, "volumeMounts": [mount]},
            "executor": {"cores": cores, "memory": f"{memory}g", **pod, "volumeMounts": [mount]},
        },
    }


def header(cluster: Cluster, spark_version: str, recipe: str) -> str:
    """The first lines of the file: how it is used."""
    assert cluster.kubernetes is not None
    return HEADER.format(
        spark=spark_version,
        namespace=cluster.kubernetes.namespace,
        recipe=recipe,
        run_dir=cluster.run_dir,
        name=cluster.name,
    )
