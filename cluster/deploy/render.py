"""Files for every cloud from one `cluster.yaml`: `pinisi cluster render`."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from cluster.deploy import image, kuberay, ray_up, spark_operator
from cluster.deploy.spec import CLOUDS, Cluster, version

TARGETS = (*CLOUDS, "kuberay", "spark")
SECTION = {"kuberay": "kubernetes", "spark": "kubernetes"}


def render(cluster: Cluster, out: str, target: str = "all", recipe: str = "demo", text: str | None = None) -> list[str]:
    """Write the files of `target` (aws, gcp, azure, kuberay, spark or all that the cluster has a section for) into `out`.

    `recipe` is what the RayJob and the SparkApplication run: the name of a shipped recipe, or of the recipe whose `text` travels
    with the job. Returns the paths. Raises ValueError for a target whose section is missing.
    """
    present = [t for t in TARGETS if getattr(cluster, SECTION.get(t, t)) is not None]
    if target != "all" and target not in present:
        raise ValueError(f"--target {target}: the cluster file has no section `{SECTION.get(target, target)}`; add it")
    if not present:
        raise ValueError("the cluster file has no section aws, gcp, azure or kubernetes, so there is nothing to render")
    wanted = present if target == "all" else [target]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: file for t in wanted for name, file in _files(cluster, t, out, recipe, text).items()}
    files |= _image(cluster, out)
    for name, file in files.items():
        (folder / name).write_text(file, encoding="utf-8")
    return [str(folder / name) for name in sorted(files)]


def _files(cluster: Cluster, target: str, out: str, recipe: str, text: str | None) -> dict[str, str]:
    ray = version("ray")
    if target in CLOUDS:
        name = f"ray-{target}.yaml"
        header = ray_up.header(cluster, target, os.path.join(out, name), ray)
        return {name: header + _yaml(ray_up.config(cluster, target))}
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
            "rayjob.yaml": kuberay.header(kuberay.JOB_HEADER, cluster, ray, recipe) + _yaml(*job),
        }
    spark = version("pyspark")
    header = spark_operator.header(cluster, spark, recipe)
    return base | {"sparkapplication.yaml": header + _yaml(spark_operator.application(cluster, spark, recipe))}


def _image(cluster: Cluster, out: str) -> dict[str, str]:
    folder = os.path.relpath(out)
    return {
        "Dockerfile": image.dockerfile(cluster, folder),
        "Dockerfile.dockerignore": image.dockerignore(folder),
        "spark-entrypoint.sh": image.entrypoint(),
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
