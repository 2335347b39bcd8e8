"""JSON schemas of the custom resources that we generate, written from their documentation: KubeRay's API reference
(ray.io/v1, v1.5 to v1.7), the Spark operator's (sparkoperator.k8s.io/v1beta2) and the Prometheus operator's
(monitoring.coreos.com/v1). What Kueue's webhooks refuse beyond that is `refused_by_kueue`. Unknown fields are errors, as for
an API server that validates strictly; only the fields that a user of these resources writes are listed, status is not.
"""

QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"}
TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
ANY = {"type": "object"}


def fields(required: str = "", **properties) -> dict:
    """An object of exactly these properties; `required` names some of them."""
    return {"type": "object", "properties": properties, "required": required.split(), "additionalProperties": False}


def array(items: dict, at_least: int = 0) -> dict:
    return {"type": "array", "items": items, "minItems": at_least}


RESOURCES = fields(
    requests={"type": "object", "additionalProperties": QUANTITY},
    limits={"type": "object", "additionalProperties": QUANTITY},
)
VOLUME = fields(
    "name",
    name=NAME,
    emptyDir=fields(medium=TEXT, sizeLimit=QUANTITY),
    persistentVolumeClaim=fields("claimName", claimName=NAME, readOnly={"type": "boolean"}),
    hostPath=fields("path", path={"type": "string", "pattern": "^/"}, type=TEXT),
    nfs=fields("server path", server=TEXT, path={"type": "string", "pattern": "^/"}, readOnly={"type": "boolean"}),
    secret=ANY,
    configMap=ANY,
)
MOUNT = fields("name mountPath", name=NAME, mountPath={"type": "string", "pattern": "^/"}, readOnly={"type": "boolean"})
ENV_FROM = fields(
    secretRef=fields("name", name=TEXT, optional={"type": "boolean"}),
    configMapRef=fields("name", name=TEXT, optional={"type": "boolean"}),
    prefix=TEXT,
)
ENV = fields("name", name=TEXT, value={"type": "string"}, valueFrom=ANY)
TOLERATION = fields(key=TEXT, operator={"enum": ["Exists", "Equal"]}, value=TEXT, effect=TEXT)
EXPRESSION = fields(
    "key operator",
    key=TEXT,
    operator={"enum": ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]},
    values=array({"type": "string"}),
)
TERM = fields(matchExpressions=array(EXPRESSION, 1), matchFields=array(EXPRESSION))
AFFINITY = fields(
    nodeAffinity=fields(
        requiredDuringSchedulingIgnoredDuringExecution=fields("nodeSelectorTerms", nodeSelectorTerms=array(TERM, 1)),
        preferredDuringSchedulingIgnoredDuringExecution=array(
            fields("weight preference", weight={"type": "integer", "minimum": 1, "maximum": 100}, preference=TERM)
        ),
    ),
    podAffinity=ANY,
    podAntiAffinity=ANY,
)
SECURITY = fields(runAsNonRoot={"type": "boolean"}, runAsUser=COUNT, runAsGroup=COUNT, fsGroup=COUNT, capabilities=ANY)
PORT = fields("containerPort", name={**NAME, "maxLength": 15}, containerPort={"type": "integer", "maximum": 65535})
CONTAINER = fields(
    "name image",
    name=NAME,
    image=TEXT,
    resources=RESOURCES,
    ports=array(PORT),
    env=array(ENV),
    envFrom=array(ENV_FROM),
    volumeMounts=array(MOUNT),
)
POD = fields(
    "spec",
    metadata=ANY,
    spec=fields(
        "containers",
        containers=array(CONTAINER, 1),
        volumes=array(VOLUME),
        tolerations=array(TOLERATION),
        nodeSelector=STRINGS,
        serviceAccountName=NAME,
        securityContext=SECURITY,
        terminationGracePeriodSeconds=COUNT,
        affinity=AFFINITY,
        priorityClassName=NAME,
        imagePullSecrets=array(fields("name", name=NAME)),
        schedulingGates=array(fields("name", name=TEXT)),
        restartPolicy={"enum": ["Always", "OnFailure", "Never"]},
    ),
)
AUTOSCALER = fields(
    version={"enum": ["v1", "v2"]},
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    idleTimeoutSeconds=COUNT,
    resources=RESOURCES,
    image=TEXT,
    env=array(ANY),
    envFrom=array(ENV_FROM),
)
HEAD = fields(
    "template",
    template=POD,
    rayStartParams=STRINGS,
    labels=STRINGS,
    resources=STRINGS,
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    enableIngress={"type": "boolean"},
    headService=ANY,
)
GROUP = fields(
    "groupName template",
    groupName=NAME,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    idleTimeoutSeconds=COUNT,
    priority={"type": "integer"},
    numOfHosts=COUNT,
    labels=STRINGS,
    resources=STRINGS,
    rayStartParams=STRINGS,
    template=POD,
)
CLUSTER_SPEC = fields(
    "headGroupSpec",
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=fields("mode", mode={"enum": ["token", "disabled"]}, secretName=NAME),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=AUTOSCALER,
    headGroupSpec=HEAD,
    workerGroupSpecs=array(GROUP),
    gcsFaultToleranceOptions=fields(
        backend={"enum": ["redis", "rocksdb"]},
        redisAddress=TEXT,
        redisUsername=fields(value=TEXT, valueFrom=ANY),
        redisPassword=fields(value=TEXT, valueFrom=fields(secretKeyRef=fields("name key", name=NAME, key=TEXT))),
        externalStorageNamespace=TEXT,
        storage=ANY,
    ),
    suspend={"type": "boolean"},
)


def _resource(version: str, kind: str, spec: dict) -> dict:
    metadata = fields("name", name={**NAME, "maxLength": 47}, namespace=NAME, labels=STRINGS, annotations=STRINGS)
    return fields(
        "apiVersion kind metadata spec",
        apiVersion={"const": version},
        kind={"const": kind},
        metadata=metadata,
        spec=spec,
    )


RAY_CLUSTER = _resource("ray.io/v1", "RayCluster", CLUSTER_SPEC)

RAY_JOB = _resource(
    "ray.io/v1",
    "RayJob",
    fields(
        "entrypoint",
        entrypoint=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]},
        backoffLimit=COUNT,
        activeDeadlineSeconds={"type": "integer", "minimum": 1},
        preRunningDeadlineSeconds={"type": "integer", "minimum": 1},
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=COUNT,
        runtimeEnvYAML={"type": "string"},
        entrypointNumCpus={"type": "number"},
        entrypointNumGpus={"type": "number"},
        entrypointResources={"type": "string"},
        clusterSelector=STRINGS,
        deletionStrategy=ANY,
        submitterPodTemplate=POD,
        suspend={"type": "boolean"},
        jobId=TEXT,
        metadata=STRINGS,
        rayClusterSpec=CLUSTER_SPEC,
    ),
)

SPARK_POD = {
    "cores": {"type": "integer", "minimum": 1},
    "coreLimit": QUANTITY,
    "memory": {"type": "string", "pattern": r"^\d+[kmgt]$"},
    "memoryOverhead": {"type": "string"},
    "serviceAccount": NAME,
    "securityContext": SECURITY,
    "podSecurityContext": SECURITY,
    "coreRequest": QUANTITY,
    "nodeSelector": STRINGS,
    "affinity": AFFINITY,
    "priorityClassName": NAME,
    "terminationGracePeriodSeconds": COUNT,
    "annotations": STRINGS,
    "tolerations": array(TOLERATION),
    "envFrom": array(ENV_FROM),
    "labels": STRINGS,
    "volumeMounts": array(MOUNT),
}
SPARK_APPLICATION = _resource(
    "sparkoperator.k8s.io/v1beta2",
    "SparkApplication",
    fields(
        "type sparkVersion mainApplicationFile driver executor",
        type={"enum": ["Java", "Scala", "Python", "R"]},
        pythonVersion={"enum": ["2", "3"]},
        mode={"enum": ["cluster", "client", "in-cluster-client"]},
        sparkVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        image=TEXT,
        imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
        mainApplicationFile=TEXT,
        arguments=array({"type": "string"}),
        sparkConf=STRINGS,
        hadoopConf=STRINGS,
        restartPolicy=fields(
            type={"enum": ["Never", "Always", "OnFailure"]},
            onFailureRetries=COUNT,
            onFailureRetryInterval={"type": "integer", "minimum": 1},
            onSubmissionFailureRetries=COUNT,
            onSubmissionFailureRetryInterval={"type": "integer", "minimum": 1},
        ),
        dynamicAllocation=fields(
            enabled={"type": "boolean"},
            initialExecutors=COUNT,
            minExecutors=COUNT,
            maxExecutors=COUNT,
            shuffleTrackingEnabled={"type": "boolean"},
            shuffleTrackingTimeout=COUNT,
        ),
        imagePullSecrets=array(NAME),
        batchScheduler={"enum": ["volcano", "yunikorn", "kube-scheduler"]},
        batchSchedulerOptions=fields(queue=TEXT, priorityClassName=NAME, resources=ANY, template=ANY),
        volumes=array(VOLUME),
        timeToLiveSeconds=COUNT,
        driver=fields(**SPARK_POD, podName=NAME),
        executor=fields(**SPARK_POD, instances={"type": "integer", "minimum": 1}),
    ),
)

PEER = fields(namespaceSelector=ANY, podSelector=ANY, ipBlock=ANY)
POLICY_PORT = fields("port", protocol={"enum": ["TCP", "UDP", "SCTP"]}, port={"type": "integer"})
NETWORK_POLICY = _resource(
    "networking.k8s.io/v1",
    "NetworkPolicy",
    fields(
        "podSelector",
        podSelector=ANY,
        policyTypes=array({"enum": ["Ingress", "Egress"]}),
        ingress=array(fields(**{"from": array(PEER)}, ports=array(POLICY_PORT))),
    ),
)
POD_MONITOR = _resource(
    "monitoring.coreos.com/v1",
    "PodMonitor",
    fields(
        "selector podMetricsEndpoints",
        jobLabel=TEXT,
        selector=fields(matchLabels=STRINGS, matchExpressions=array(EXPRESSION)),
        namespaceSelector=fields(matchNames=array(NAME), any={"type": "boolean"}),
        podMetricsEndpoints=array(
            fields(
                port=TEXT,
                path=TEXT,
                interval=TEXT,
                relabelings=array(fields(sourceLabels=array(TEXT), targetLabel=TEXT, action=TEXT, regex=TEXT)),
            ),
            1,
        ),
    ),
)


def refused_by_kueue(resource: dict) -> list[str]:
    """What the webhooks of Kueue (0.13 to 0.14) refuse of a resource with a queue: no growing, unless as workload slices."""
    about, spec, wrong = resource["metadata"], resource["spec"], []
    if "kueue.x-k8s.io/queue-name" not in about.get("labels", {}):
        return []
    elastic = about.get("annotations", {}).get("kueue.x-k8s.io/elastic-job") == "true"
    if resource["kind"] == "SparkApplication":
        return ["dynamicAllocation"] if spec["dynamicAllocation"]["enabled"] and not elastic else []
    if resource["kind"] == "RayJob":
        wrong += [] if spec["shutdownAfterJobFinishes"] else ["shutdownAfterJobFinishes"]
        spec = spec["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    gates = [group["template"]["spec"].get("schedulingGates", []) for group in groups]
    if elastic and not all({"name": "kueue.x-k8s.io/elastic-job"} in gate for gate in gates):
        wrong.append("schedulingGates")
    if spec["enableInTreeAutoscaling"] and not elastic:
        wrong.append("enableInTreeAutoscaling")
    return wrong + (["workerGroupSpecs"] if len(groups) + 1 > 18 else [])
