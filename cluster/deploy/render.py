"""Files for every cloud from one `cluster.yaml`: `pinisi cluster render`."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import yaml

from cluster.deploy import aws, findings, image, kuberay, ray_up, slurm, spark_operator
from cluster.deploy.findings import Finding
from cluster.deploy.spec import CLOUDS, Cluster, version

TARGETS = (*CLOUDS, "kuberay", "spark")
SECTION = {"kuberay": "kubernetes", "spark": "kubernetes"}


def render(
    cluster: Cluster,
    out: str,
    target: str = "all",
    recipe: str = "demo",
    text: str | None = None,
    *,
    file: str | None = None,
    needs: Collection[str] = (),
) -> list[str]:
    """Write the files of `target` (aws, gcp, azure, kuberay, spark or all that the cluster has a section for) into `out`.

    `recipe` is what the RayJob and the SparkApplication run: the name of a shipped recipe, or of the recipe whose `text` travels
    with the job; `file` is where that text lies, `needs` are variables without which it does not run. Returns the paths. Raises
    ValueError for a target whose section is missing, and for the first thing that would keep its nodes from starting or
    working; then nothing is written.
    """
    for finding in of_clouds(cluster, target, needs):
        if finding.state == "missing":
            raise ValueError(finding.sentence())
    if text is not None and len(text.encode()) > kuberay.MAX_RECIPE_BYTES:
        raise ValueError(f"recipe {recipe}: {len(text.encode()):,} bytes do not fit into a ConfigMap; make it shorter")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        name: made
        for t in targets(cluster, target)
        for name, made in _files(cluster, t, out, recipe, text, file=file or recipe).items()
    }
    files |= _image(cluster, out)
    for name, made in files.items():
        (folder / name).write_text(made, encoding="utf-8")
    return [str(folder / name) for name in sorted(files)]


def targets(cluster: Cluster, target: str = "all") -> list[str]:
    """The targets that `target` names. Raises ValueError where the file has no section for it."""
    there = present(cluster)
    if target != "all" and target not in there:
        raise ValueError(f"--target {target}: the cluster file has no section `{SECTION.get(target, target)}`; add it")
    if not there:
        raise ValueError("the cluster file has no section aws, gcp, azure or kubernetes, so there is nothing to render")
    return there if target == "all" else [target]


def present(cluster: Cluster) -> list[str]:
    """The targets that the cluster has a section for."""
    return [t for t in TARGETS if getattr(cluster, SECTION.get(t, t)) is not None]


def check(cluster: Cluster, target: str = "all", needs: Collection[str] = ()) -> list[Finding]:
    """What the file lacks for `target`, which may be slurm, and for a recipe that `needs` these variables, what may go wrong, and
    what nobody looked at; nothing is asked of any cloud."""
    found: list[Finding] = []
    if target == "slurm" or (target == "all" and cluster.slurm is not None):
        found += slurm.findings(cluster)
    if not (target == "slurm" or (found and not present(cluster))):
        found += of_clouds(cluster, target, needs)
    return list(dict.fromkeys(found))


def of_clouds(cluster: Cluster, target: str = "all", needs: Collection[str] = ()) -> list[Finding]:
    """`check` without Slurm."""
    found: list[Finding] = []
    for name in targets(cluster, target):
        found += findings.of_storage(cluster, name)
        found += findings.of_recipe(cluster, name, needs)
        if name in CLOUDS:
            found += ray_up.CLOUD[name].findings(cluster)
        else:
            found += {"kuberay": kuberay, "spark": spark_operator}[name].findings(cluster)
    return list(dict.fromkeys(found))


def _files(cluster: Cluster, target: str, out: str, recipe: str, text: str | None, *, file: str) -> dict[str, str]:
    ray = version("ray")
    if target in CLOUDS:
        name = f"ray-{target}.yaml"
        header = ray_up.header(cluster, target, os.path.join(out, name), ray)
        rights = aws.policies(cluster) if target == "aws" else {}
        return {name: header + _yaml(ray_up.config(cluster, target)), **rights}
    if text is None:
        file = recipe
    elif os.path.isabs(file):  # no rendered file names places of this machine
        file = os.path.basename(file)
    base = {
        "kubernetes.yaml": kuberay.header(kuberay.BASE_HEADER, cluster, ray, recipe) + _yaml(*kuberay.base(cluster))
    }
    if target == "kuberay":
        job = [kuberay.ray_job(cluster, ray, recipe, own=text is not None)]
        if text is not None:
            job.insert(0, kuberay.recipe_map(cluster, recipe, text))
        return base | {
            "raycluster.yaml": kuberay.header(kuberay.CLUSTER_HEADER, cluster, ray, recipe)
            + _yaml(kuberay.ray_cluster(cluster, ray)),
            "podmonitor.yaml": kuberay.MONITOR_HEADER + _yaml(kuberay.pod_monitor(cluster)),
            "rayjob.yaml": kuberay.header(kuberay.JOB_HEADER, cluster, ray, recipe) + _yaml(*job),
        }
    spark = version("pyspark")
    header = spark_operator.header(cluster, spark, recipe, file)
    return base | {"sparkapplication.yaml": header + _yaml(spark_operator.application(cluster, spark, recipe))}


def _image(cluster: Cluster, out: str) -> dict[str, str]:
    folder = os.path.relpath(out)
    return {
        "Dockerfile": image.dockerfile(cluster, folder),
        "Dockerfile.dockerignore": image.dockerignore(),
    }


class _Plain(yaml.SafeDumper):
    """Writes a value that occurs twice twice, instead of a YAML alias that nobody reads."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_Plain.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if text.count("\n") > 1 else None
    ),
)  # a text of lines, such as a recipe, as the lines that it is


def _yaml(*documents: dict) -> str:
    return yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, width=1000, allow_unicode=True)
