"""A SparkApplication (Kubeflow Spark operator, sparkoperator.k8s.io/v1beta2) that runs curation/spark_job.py."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from cluster.deploy import fit, pods
from cluster.deploy.findings import Finding
from cluster.deploy.image import APP
from cluster.deploy.spec import Cluster, Node

HEADER = """\
# SparkApplication for the Kubeflow Spark operator, made by `pinisi cluster render` for Spark {spark}: change cluster.yaml.
# It runs the Spark steps of a run whose earlier stages are done, on pods of its own, without Ray. Needs kubernetes.yaml
# applied, the operator watching the namespace {namespace}, and a run that has written its settings:
#   {command}
#   kubectl apply -f sparkapplication.yaml
#   kubectl -n {namespace} get sparkapplication {name}
# With `mode: ray` (docs/cluster.md) Spark runs inside the Ray cluster instead and this file is not needed.
"""


def findings(cluster: Cluster) -> Iterator[Finding]:
    """What the file lacks for the Spark operator, or cannot say."""
    group = cluster.of_role("cpu")[0]
    if fit.executor(cluster, group) is None:
        text = (
            "Kubernetes leaves no room for a Spark executor of one CPU and 1.4 GiB; give it more `cpus` or `memory_gb`"
        )
        yield Finding("missing", f"groups ({group.name})", text)
    if fit.driver(cluster) is None:
        text = "Kubernetes leaves no room for a Spark driver of half a CPU and 1.4 GiB; give it more"
        yield Finding("missing", "head", f"{text} `cpus` or `memory_gb`")
    command = "kubectl get crd sparkapplications.sparkoperator.k8s.io"
    yield Finding("unseen", "kubernetes", "that the Spark operator is there and watches the namespace", command)


def application(cluster: Cluster, spark_version: str, recipe: str) -> dict:
    """The SparkApplication resource as plain data. Executors go to the first CPU group, up to four on a node. The driver goes
    where Ray's head would: a node that is taken away would end the application with it."""
    kubernetes = pods.kubernetes(cluster)
    group = cluster.of_role("cpu")[0]
    driver, executor = fit.driver(cluster), fit.executor(cluster, group)
    assert driver is not None and executor is not None  # see `findings`
    disk = min(fit.pod(cluster, group).disk // 4, fit.pod(cluster, cluster.head).disk)
    scratch = {"name": "spark-local-dir-1", "emptyDir": {"sizeLimit": f"{disk}Mi"}}
    mounts = [{"name": "spark-local-dir-1", "mountPath": "/mnt/spark"}, *pods.mounts(cluster)]
    kueue = kubernetes.scheduler == "kueue"  # admits a fixed number alone
    instances = {"instances": kubernetes.spark_executors} if kueue else {}
    allocation = {
        "enabled": not kueue,
        "initialExecutors": 1,
        "minExecutors": 0,
        "maxExecutors": kubernetes.spark_executors,
    }
    scheduler: dict[str, Any] = {}
    if kubernetes.scheduler in ("volcano", "yunikorn"):
        priority = {"priorityClassName": kubernetes.priority_class} if kubernetes.priority_class else {}
        options = {"queue": kubernetes.queue, **priority}
        scheduler = {"batchScheduler": kubernetes.scheduler, "batchSchedulerOptions": options}
    secrets = {"imagePullSecrets": list(kubernetes.image_pull_secrets)} if kubernetes.image_pull_secrets else {}
    metadata = pods.metadata(cluster, _name(cluster))
    if kueue:
        metadata.get("annotations", {}).pop(pods.ELASTIC, None)
    return {
        "apiVersion": "sparkoperator.k8s.io/v1beta2",
        "kind": "SparkApplication",
        "metadata": metadata,
        "spec": {
            "type": "Python",
            "pythonVersion": "3",
            "mode": "cluster",
            "sparkVersion": spark_version,
            "image": cluster.image,
            "imagePullPolicy": "IfNotPresent",
            **secrets,
            **scheduler,
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
            "volumes": [scratch, *pods.volumes(cluster)],
            "dynamicAllocation": allocation if not kueue else {"enabled": False},
            "driver": {**_pod(cluster, cluster.head, driver), "volumeMounts": mounts},
            "executor": {**_pod(cluster, group, executor), **instances, "volumeMounts": mounts},
        },
    }


def _pod(cluster: Cluster, node: Node, size: fit.Executor) -> dict[str, Any]:
    kubernetes = pods.kubernetes(cluster)
    about = {key: dict(value) for key, value in (("labels", node.labels), ("annotations", node.annotations)) if value}
    return {
        "cores": size.cores,
        "coreRequest": f"{size.millicores}m",
        "memory": f"{size.heap}m",
        "memoryOverhead": f"{size.overhead}m",
        "serviceAccount": kubernetes.service_account,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000},
        "podSecurityContext": {"fsGroup": 1000},  # volumes are writable
        "terminationGracePeriodSeconds": kubernetes.grace_seconds,
        **({"priorityClassName": kubernetes.priority_class} if kubernetes.priority_class else {}),
        **about,
        **pods.placement(node),
        **pods.environment(cluster),
    }


def _name(cluster: Cluster) -> str:
    """That of the application, with which those of its pods begin."""
    return f"{cluster.name[:38].rstrip('-')}-curation"


def header(cluster: Cluster, spark_version: str, recipe: str, file: str) -> str:
    """The first lines of the file: how it is used. `file` is what `pinisi run` takes for the recipe."""
    assert cluster.kubernetes is not None
    return HEADER.format(
        spark=spark_version,
        namespace=cluster.kubernetes.namespace,
        command=shlex.join(["pinisi", "run", file, "--run-dir", f"{cluster.run_dir}/{recipe}", "--until", "filter"]),
        name=_name(cluster),
    )
