"""`pinisi bundle` and `make setup BUNDLE=…`, on a project of two files and an index of two wheels; the network is closed off."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from cluster import bundle_check
from ray_jobs import cli
from ray_jobs.errors import UserError
from ray_jobs.publish import bundle

ROOT = Path(__file__).parents[3]
PROJECT = """[build-system]
requires = ["tinybuild==1"]
build-backend = "tinybuild"
[project]
name = "pinisi"
version = "0.1.0"
dependencies = [
    "fasttext-numpy2==0.10.4",
]
[project.optional-dependencies]
dev = []
java = []
"""
BACKEND = '''
"""A build backend that writes a wheel of nothing but what it depends on."""
import zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    meta = "Metadata-Version: 2.1\\nName: pinisi\\nVersion: 0.1.0\\nRequires-Dist: fasttext-numpy2==0.10.4\\n"
    meta += "Provides-Extra: dev\\nProvides-Extra: java\\n"
    name = "pinisi-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("pinisi-0.1.0.dist-info/METADATA", meta)
        wheel.writestr("pinisi-0.1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("pinisi-0.1.0.dist-info/RECORD", "")
    return name

build_editable = build_wheel
'''


def wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    info = f"{name}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as made:
        for path, text in (files | {f"{info}/RECORD": record}).items():
            made.writestr(path, text)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the bundle, the project it is of)."""
    folder = tmp_path_factory.mktemp("bundle")
    index, project = folder / "index", folder / "project"
    index.mkdir()
    wheel(index, "fasttext_numpy2", "0.10.4", {"fasttext.py": "WORDS = 'from the bundle'\n"})
    wheel(index, "tinybuild", "1", {"tinybuild.py": BACKEND})
    (project / "cluster/spark").mkdir(parents=True)
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "cluster/spark/java.py").write_text("print('Java for Spark: any')\n")
    for name in ("Makefile", "cluster/bundle_check.py"):
        shutil.copyfile(ROOT / name, project / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(index))
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setattr(bundle, "_installed", lambda: [])
        bundle.make(folder / "out", None, bundle.EXTRAS, root=project)
    return folder / "out", project


def setup(project: Path, folder: Path) -> subprocess.CompletedProcess:
    """`make setup BUNDLE=…`, where nothing but this machine can be reached if that can be had, and no proxy lets out."""
    namespace = ["unshare", "--net"]
    closed = namespace if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode == 0 else []
    environment = {**os.environ, "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    for name in ("PIP_FIND_LINKS", "PIP_NO_INDEX", "MAKEFLAGS"):
        environment.pop(name, None)
    command = [*closed, "make", "setup", f"BUNDLE={folder}", f"PYTHON={sys.executable}"]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def test_it_holds_wheels_code_and_sums(made):
    out, project = made
    assert {path.name for path in (out / "wheels").iterdir()} == {
        "fasttext_numpy2-0.10.4-py3-none-any.whl",
        "pinisi-0.1.0-py3-none-any.whl",
        "tinybuild-1-py3-none-any.whl",
    }
    with tarfile.open(out / "pinisi.tar.gz") as archive:
        assert "pinisi/pyproject.toml" in archive.getnames() and "pinisi/Makefile" in archive.getnames()
    facts = json.loads((out / "bundle.json").read_text())
    assert facts["python"] == "{}.{}".format(*sys.version_info[:2]) and facts["extras"] == ["dev", "java"]
    listed = {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert listed == files - {"SHA256SUMS"} and "make setup BUNDLE=" in (out / "README.md").read_text()
    assert bundle_check.fault(out) is None and not (project / "build").exists()


@pytest.mark.slow
def test_setup_without_a_network(made, tmp_path):
    out, _ = made
    with tarfile.open(out / "pinisi.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    done = setup(tmp_path / "pinisi", out)
    assert done.returncode == 0, done.stderr
    python = tmp_path / "pinisi/.venv/bin/python"
    said = subprocess.run(
        [python, "-c", "import fasttext; print(fasttext.WORDS)"], capture_output=True, text=True, check=True
    )
    assert said.stdout == "from the bundle\n" and "Java for Spark" in done.stdout


def test_a_bundle_that_is_not_whole_or_not_for_here(made, tmp_path, monkeypatch):
    broken = tmp_path / "bundle"
    shutil.copytree(made[0], broken)
    project = tmp_path / "project"
    shutil.copytree(made[1], project)
    target = next((broken / "wheels").glob("fast*"))
    content = target.read_bytes()
    target.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = setup(project, broken)
    assert done.returncode and f"{target.name} is not what it was" in done.stderr and not (project / ".venv").exists()
    target.unlink()
    assert "is missing; copy the bundle again" in (bundle_check.fault(broken) or "")
    facts = json.loads((broken / "bundle.json").read_text())
    for what, other in (("python", "3.9"), ("platform", "plan9-vax")):
        (broken / "bundle.json").write_text(json.dumps(facts | {what: other}))
        assert f"is for {what} {other}" in (bundle_check.fault(broken) or "")
    spaced = broken.rename(tmp_path / "my bundle")
    assert "no path with a space" in (bundle_check.fault(spaced) or "")
    assert "there is no bundle here" in (bundle_check.fault(tmp_path) or "")


def test_models_of_a_recipe_come_along(tmp_path):
    """A folder is copied, the recipe names it in the bundle, and what stays behind is said."""
    from ray_jobs.config import reader as recipes

    model = tmp_path / "our-tokenizer"
    model.mkdir()
    (model / "tokenizer.json").write_text("{}")
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("{}\n")
    mine = tmp_path / "mine.yaml"
    asked = {"name": "mine", "languages": ["km"], "tokenize": {"tokenizer": str(model)}}
    asked["sources"] = [{"name": "a", "type": "jsonl", "path": str(corpus)}]
    mine.write_text(yaml.safe_dump(asked))
    recipe = recipes.load(str(mine), [])
    moved = bundle._models(recipe, tmp_path / "models")
    assert (
        moved == {"tokenize.tokenizer": "our-tokenizer"} and (tmp_path / "models/our-tokenizer/tokenizer.json").exists()
    )
    written = yaml.safe_load(bundle._recipe(str(mine), moved))["base"]
    assert written["tokenize"]["tokenizer"] == "${PINISI_BUNDLE}/models/our-tokenizer"
    (left,) = bundle.left_here(recipe, moved)
    assert left.startswith(f"sources: {corpus} is a path of this machine")


def test_each_model_has_a_folder_of_its_own(tmp_path, monkeypatch):
    """Also where two are called alike, of any key; a name of the hub may have no owner."""
    from ray_jobs.config import reader as recipes

    def download(name, local_dir, allow_patterns):
        assert name in ("gpt2", "a/b", "old/model"), name
        local_dir.mkdir(parents=True)
        (local_dir / "config.json").write_text(name)
        kind = "bin" if name == "old/model" else "safetensors"
        (local_dir / f"model.{kind}").write_text("w" if f"*.{kind}" in allow_patterns else "")
        if f"*.{kind}" not in allow_patterns:
            (local_dir / f"model.{kind}").unlink()

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for name in ("one/model", "two/Model", "three/a--b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(name)
        (tmp_path / name / "pytorch_model.bin").write_text(name)  # a folder is copied whole
    monkeypatch.chdir(tmp_path)
    asked = {"train": {"base": {"model": "x/y"}, "reward": {"preference": "s3://b/rows.jsonl"}}}
    asked["train"] |= {
        "sft": {"instruct": "s3://b/rows.jsonl", "select": {}},
        "dpo": {"preference": "s3://b/rows.jsonl"},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"base": "align", "name": "mine", **asked}))

    def moved(number, *values):
        keys = ("train.base.model", "tokenize.tokenizer", "train.reward.model", "train.sft.select.embedding_model")
        recipe = recipes.load(
            str(tmp_path / "mine.yaml"), [f"{key}={one}" for key, one in zip(keys, values, strict=True)]
        )
        folder = tmp_path / f"models{number}"
        found = bundle._models(recipe, folder)
        return [(folder / found[key] / "config.json").read_text() for key in keys], len(list(folder.iterdir()))

    assert moved(1, "one/model", "two/Model", "one/model/", "gpt2") == (
        ["one/model", "two/Model", "one/model", "gpt2"],
        3,
    )
    assert moved(2, "a/b", "old/model", "three/a--b", "gpt2") == (["a/b", "old/model", "three/a--b", "gpt2"], 4)
    with pytest.raises(UserError, match=r"train\.base\.model: old/model has no \*\.safetensors"):
        moved(3, "old/model", "a/b", "a/b", "a/b")


def test_what_cannot_be_bundled(tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="needs a checkout"):
        bundle.make(tmp_path / "out", None, [], root=tmp_path)
    with pytest.raises(UserError, match=r"--extra moon: pyproject\.toml has"):
        bundle.make(tmp_path / "out", None, ["moon"])
    with pytest.raises(SystemExit):
        cli.main(["bundle", str(tmp_path)])
    assert "exists and is no bundle" in capsys.readouterr().err
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UserError, match=r"pip cannot collect the wheels: .*tinybuild"):
        bundle.make(tmp_path / "out", None, bundle.EXTRAS, root=tmp_path)
    assert not (tmp_path / "out").exists()
