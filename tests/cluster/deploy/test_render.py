"""Every file that `pinisi cluster render` writes is what its reader accepts, keeps secrets out and doors shut."""

import copy
import importlib.metadata
import re
import shlex
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from custom_resources import RAY_CLUSTER, RAY_JOB, SPARK_APPLICATION

from cluster.deploy import render, spec
from ray_jobs import cli

EXAMPLE = Path(spec.__file__).parents[1] / "cluster.yaml"
CLOUDS = ("aws", "gcp", "azure")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rendered")
    render.render(spec.load(str(EXAMPLE)), str(folder))
    return folder


def read(folder, name):
    documents = list(yaml.safe_load_all((folder / name).read_text()))
    return documents[0] if len(documents) == 1 else documents


def test_every_file_says_first_how_it_is_used(rendered):
    names = sorted(path.name for path in rendered.iterdir())
    assert names == [
        "Dockerfile",
        "Dockerfile.dockerignore",
        "iam-head.json",
        "iam-trust.json",
        "iam-worker.json",
        "kubernetes.yaml",
        "podmonitor.yaml",
        "ray-aws.yaml",
        "ray-azure.yaml",
        "ray-gcp.yaml",
        "raycluster.yaml",
        "rayjob.yaml",
        "sparkapplication.yaml",
    ]
    for name, command in (
        *((f"ray-{cloud}.yaml", f"ray up {rendered}/ray-{cloud}.yaml") for cloud in CLOUDS),
        ("raycluster.yaml", "kubectl apply -f raycluster.yaml"),
        ("rayjob.yaml", "kubectl apply -f rayjob.yaml"),
        ("sparkapplication.yaml", "kubectl apply -f sparkapplication.yaml"),
        ("kubernetes.yaml", "kubectl apply -f kubernetes.yaml"),
        ("podmonitor.yaml", "kubectl apply -f podmonitor.yaml"),
        ("Dockerfile", "docker build"),
    ):
        comment = (rendered / name).read_text().split("\n\n")[0].split("\napiVersion")[0].split("\ncluster_name")[0]
        assert comment.startswith("# "), name
        assert command in comment, name


def test_rendering_again_gives_the_same_bytes(rendered, tmp_path):
    render.render(spec.load(str(EXAMPLE)), str(tmp_path))
    for path in tmp_path.glob("*.yaml"):
        assert path.read_text().replace(str(tmp_path), str(rendered)) == (rendered / path.name).read_text()


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_accepts_its_files(rendered, cloud):
    from ray.autoscaler._private.util import fillout_defaults, prepare_config, validate_config
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    config = read(rendered, f"ray-{cloud}.yaml")
    validate_config(prepare_config(fillout_defaults(copy.deepcopy(config))))
    nodes = AutoscalingConfig(copy.deepcopy(config), skip_content_hash=True).get_node_type_configs()
    assert (nodes["curate"].min_worker_nodes, nodes["curate"].max_worker_nodes) == (0, 64)
    assert (nodes["train"].min_worker_nodes, nodes["train"].max_worker_nodes) == (0, 8)
    assert nodes["train"].idle_timeout_s == 600
    assert {name: node.labels["role"] for name, node in nodes.items()} == {
        "head": "head",
        "curate": "cpu",
        "train": "gpu",
    }
    assert nodes["head"].resources["CPU"] == 0
    with pytest.raises(jsonschema.ValidationError):  # the check would notice a misspelt key
        validate_config(fillout_defaults({**copy.deepcopy(config), "max_wrokers": 3}))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_up_is_closed_and_pinned(rendered, cloud):
    text = (rendered / f"ray-{cloud}.yaml").read_text()
    config = yaml.safe_load(text)
    head, worker = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in head
    assert "--num-cpus=0" in head
    assert "RAY_enable_autoscaler_v2=1" in head
    for command in (head, worker):
        assert "RAY_AUTH_MODE=token" in command
        assert "--object-spilling-directory=/mnt/ray-spill" in command
    assert "0.0.0.0" not in text
    assert f"Ray {importlib.metadata.version('ray')}" in text
    assert config["docker"]["image"] == "registry.example.org/lab/pinisi:0.1.0"


def test_spot_is_asked_for_where_the_file_says_so(rendered):
    def groups(cloud):
        types = read(rendered, f"ray-{cloud}.yaml")["available_node_types"]
        return {name: kind["node_config"] for name, kind in types.items()}

    aws, gcp = groups("aws"), groups("gcp")
    azure = {name: config["azure_arm_parameters"] for name, config in groups("azure").items()}
    assert aws["curate"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert gcp["curate"]["scheduling"] == [{"preemptible": True}]
    assert azure["curate"]["priority"] == "Spot"
    for name in ("head", "train"):
        assert "InstanceMarketOptions" not in aws[name]
        assert "preemptible" not in str(gcp[name])
        assert "priority" not in azure[name]


def test_azure_parameters_exist_in_the_template_that_ray_ships(rendered):
    import json

    import ray

    template = Path(ray.__file__).parent / "autoscaler/_private/_azure/azure-vm-template.json"
    known = set(json.loads(template.read_text().replace("\t", " "))["parameters"])
    for kind in read(rendered, "ray-azure.yaml")["available_node_types"].values():
        assert set(kind["node_config"]["azure_arm_parameters"]) <= known


def test_a_recipe_of_ones_own_travels_with_its_job(tmp_path):
    text = "base:\n  name: mine\n  seed: 3\n"
    render.render(spec.load(str(EXAMPLE)), str(tmp_path), "kuberay", "mine", text)
    written = (tmp_path / "rayjob.yaml").read_text()
    config, job = read(tmp_path, "rayjob.yaml")
    assert config["kind"] == "ConfigMap" and config["data"] == {"recipe.yaml": text} and "    name: mine" in written
    jsonschema.validate(job, RAY_JOB)
    assert job["spec"]["entrypoint"].split()[2] == "/etc/pinisi/recipe.yaml"
    assert job["spec"]["entrypoint"].endswith("/mine")
    head, *workers = (
        group["template"]["spec"]
        for group in (
            job["spec"]["rayClusterSpec"]["headGroupSpec"],
            *job["spec"]["rayClusterSpec"]["workerGroupSpecs"],
        )
    )
    volume = {"name": "recipe", "configMap": {"name": config["metadata"]["name"]}}
    assert volume in head["volumes"] and not any(volume in pod["volumes"] for pod in workers)
    (mount,) = [one for one in head["containers"][0]["volumeMounts"] if one["name"] == "recipe"]
    assert mount["mountPath"] == "/etc/pinisi"


def test_commands_name_what_is_there_whatever_it_is_called(tmp_path, monkeypatch):
    """A recipe of one's own by its path here, a run directory as one word of a shell."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PINISI_SAMPLE_DIR", raising=False)  # of this machine, which is said
    place = "s3://lab-bucket/rice & fish/it's $HOME"
    values = yaml.safe_load(EXAMPLE.read_text()) | {"run_dir": place}
    (tmp_path / "my cluster.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "my recipes").mkdir()
    (tmp_path / "my recipes" / "own.yaml").write_text(yaml.safe_dump({"base": "demo", "name": "mine"}))
    with pytest.raises(SystemExit) as ended:
        cli.main(["cluster", "render", "my cluster.yaml", "--out", "out", "--recipe", "my recipes/own.yaml"])
    assert ended.value.code == 0
    job = read(tmp_path / "out", "rayjob.yaml")[1]
    run = f"{place}/mine"
    asked = ["pinisi", "run", "/etc/pinisi/recipe.yaml", "--address", "auto", "--run-dir", run]
    assert shlex.split(job["spec"]["entrypoint"]) == asked

    def said(name, program):
        lines = (tmp_path / "out" / name).read_text().splitlines()
        return [shlex.split(line[1:], comments=True) for line in lines if line.startswith(f"#   pinisi {program}")]

    spark = ["pinisi", "run", "my recipes/own.yaml", "--run-dir", run, "--until", "filter"]
    assert said("sparkapplication.yaml", "run") == [spark]
    assert said("rayjob.yaml", "status") == [["pinisi", "status", run]]
    assert said("raycluster.yaml", "submit")[0][-1] == f"{place}/RECIPE"


def test_a_job_that_is_stopped_has_the_time_that_its_pod_has(rendered):
    job = read(rendered, "rayjob.yaml")["spec"]
    pod = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    variables = yaml.safe_load(job["runtimeEnvYAML"])["env_vars"]
    assert variables == {"RAY_JOB_STOP_WAIT_TIME_S": str(pod["terminationGracePeriodSeconds"])}


@pytest.mark.parametrize(
    ("file", "schema"),
    [("raycluster.yaml", RAY_CLUSTER), ("rayjob.yaml", RAY_JOB), ("sparkapplication.yaml", SPARK_APPLICATION)],
)
def test_custom_resources_fit_their_schemas(rendered, file, schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    resource = read(rendered, file)
    jsonschema.validate(resource, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**resource, "spec": {**resource["spec"], "imagePulPolicy": "Always"}}, schema)


def test_raycluster_groups_and_doors(rendered):
    for body in (read(rendered, "raycluster.yaml")["spec"], read(rendered, "rayjob.yaml")["spec"]["rayClusterSpec"]):
        head, groups = body["headGroupSpec"], {group["groupName"]: group for group in body["workerGroupSpecs"]}
        assert head["rayStartParams"]["num-cpus"] == "0"
        assert head["serviceType"] == "ClusterIP"
        assert body["authOptions"] == {"mode": "token"}
        assert body["autoscalerOptions"]["version"] == "v2"
        assert body["rayVersion"] == importlib.metadata.version("ray")
        assert {name: group["labels"] for name, group in groups.items()} == {
            "curate": {"role": "cpu"},
            "train": {"role": "gpu"},
        }
        assert [(g["minReplicas"], g["maxReplicas"]) for g in groups.values()] == [(0, 64), (0, 8)]
        limits = groups["train"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits["nvidia.com/gpu"] == "8"
        assert "nvidia.com/gpu" not in groups["curate"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        for group in groups.values():
            assert group["rayStartParams"]["object-spilling-directory"] == "/mnt/ray-spill"
    kinds = [document["kind"] for document in read(rendered, "kubernetes.yaml")]
    assert kinds == ["Namespace", "ServiceAccount", "Role", "RoleBinding", "NetworkPolicy"]


def test_no_file_holds_a_secret(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf-very-secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "ray-very-secret")
    for path in render.render(spec.load(str(EXAMPLE)), str(tmp_path)):
        assert "very-secret" not in Path(path).read_text()


def test_image_pins_what_runs_here(rendered):
    text = (rendered / "Dockerfile").read_text()
    assert f"m.version('ray') == '{importlib.metadata.version('ray')}'" in text
    assert f"fasttext-numpy2=={importlib.metadata.version('fasttext-numpy2')}" in text
    assert "openjdk-17" in text
    assert "pip install -e '/opt/pinisi[gpu]' s3fs" in text  # there is a GPU group, and the run lies on s3://
    assert "USER ray" in text
    ignored = (rendered / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [word for line in re.findall(r"^COPY \S+ (.*) \S+$", text, re.M) for word in line.split()]
    assert copied
    for (
        source
    ) in copied:  # the image copies nothing that .dockerignore keeps out, or that lies outside of the repository
        assert f"!{source}" in ignored, source
        assert (EXAMPLE.parent.parent / source).exists()


def test_entrypoint_runs_what_it_is_given(rendered, tmp_path):
    script = str(tmp_path / "entrypoint.sh")
    write = re.search(r"^RUN (printf (?:.*\\\n)+.*)$", (rendered / "Dockerfile").read_text(), re.M)[1]
    subprocess.run(["sh", "-c", write.replace("/opt/entrypoint.sh", script)], check=True)
    assert subprocess.run(["bash", script, "echo", "ray"], capture_output=True, text=True, check=True).stdout == "ray\n"
    java = tmp_path / "java"
    java.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    java.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "SPARK_HOME": "/spark",
        "SPARK_CONF_DIR": "/conf",
        "SPARK_EXECUTOR_MEMORY": "2g",
        "SPARK_DRIVER_URL": "spark://driver",
        "SPARK_JAVA_OPT_1": "-Da=two words",
        "SPARK_JAVA_OPT_0": "-Dfirst",
    }
    out = subprocess.run(
        ["bash", script, "executor"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    words = out.splitlines()
    assert words[:4] == ["-Dfirst", "-Da=two words", "-Xms2g", "-Xmx2g"]
    assert words[words.index("--driver-url") + 1] == "spark://driver"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_nodes: 64", "max_nodse: 64", "groups.0.max_nodse: unknown key; did you mean 'max_nodes'?"),
        ("image: registry.example.org/lab/pinisi:0.1.0 ", "image: lab/pinisi ", "`image` needs a tag"),
        ("min_nodes: 0", "min_nodes: 65", "min_nodes 65 is above max_nodes 64"),
        ("role: gpu", "role: cpu", "a group of role cpu has no gpus"),
        ("role: cpu", "role: tpu", "input should be 'cpu' or 'gpu'"),
        ("gcp: n2-standard-8, ", "", "head: instance.gcp is missing, but there is a section `gcp`"),
        ("- name: train", "- name: curate", "two groups have the same `name`"),
        ('  ssh_from: ["203.0.113.0/24"]', "", "aws.ssh_from: this key is required"),
    ],
)
def test_errors_are_one_sentence_with_file_and_key(tmp_path, old, new, message):
    text = EXAMPLE.read_text()
    assert old in text
    path = tmp_path / "cluster.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        spec.load(str(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_targets(tmp_path):
    cluster = spec.load(str(EXAMPLE)).model_copy(update={"gcp": None})
    with pytest.raises(ValueError, match="--target gcp: the cluster file has no section `gcp`"):
        render.render(cluster, str(tmp_path), "gcp")
    render.render(cluster, str(tmp_path), "aws")
    assert [path.name for path in tmp_path.glob("*.yaml")] == ["ray-aws.yaml"]
    nowhere = cluster.model_copy(update={"aws": None, "azure": None, "kubernetes": None})
    with pytest.raises(ValueError, match="nothing to render"):
        render.render(nowhere, str(tmp_path))


def test_every_key_is_documented():
    docs = EXAMPLE.parent.parent / "docs"
    text = (docs / "cluster.md").read_text() + (docs / "slurm.md").read_text()

    def keys(model):
        for name, field in model.model_fields.items():
            yield name
            for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if hasattr(part, "model_fields"):
                    yield from keys(part)

    assert [key for key in keys(spec.Cluster) if f"`{key}`" not in text and f"`.{key}`" not in text] == []
