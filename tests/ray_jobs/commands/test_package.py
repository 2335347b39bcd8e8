"""What `pinisi submit` sends: the code without runs and hidden folders, the same bytes each time, never too much."""

import os
import zipfile

import pytest
import yaml

from ray_jobs.commands import package
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.run.fingerprint import ROOT


def checkout(root):
    for name in (
        "pyproject.toml",
        "curation/text/words.py",
        "curation/languages/th.yaml",
        "sample/text/a.jsonl",
        ".git/HEAD",
        ".venv/bin/python",
        ".peers/big.bin",
        "runs/tiny/crawl/part-00000.parquet",
        "curation/__pycache__/words.pyc",
        "pinisi.egg-info/PKG-INFO",
        "tests/test_a.py",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def test_the_code_is_sent_and_nothing_else(tmp_path):
    root = checkout(tmp_path / "checkout")
    package.write(tmp_path / "one.zip", "name: tiny\n", root)
    sent = zipfile.ZipFile(tmp_path / "one.zip")
    wanted = ["curation/languages/th.yaml", "curation/text/words.py", "pyproject.toml", "sample/text/a.jsonl"]
    assert sorted(sent.namelist()) == [*wanted[:3], "sample/text/a.jsonl", "submitted-recipe.yaml"]
    assert sent.read("submitted-recipe.yaml") == b"name: tiny\n"
    (root / "curation/text/words.py").chmod(0o755)
    package.write(tmp_path / "one.zip", "name: tiny\n", root)
    modes = {info.filename: info.external_attr >> 16 for info in zipfile.ZipFile(tmp_path / "one.zip").infolist()}
    assert modes["curation/text/words.py"] == 0o755 and modes["pyproject.toml"] == 0o644  # programs stay programs
    os.utime(root / "curation/text/words.py", (1, 1))
    package.write(tmp_path / "two.zip", "name: tiny\n", root)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_an_installed_pinisi_sends_the_recipe_alone(tmp_path):
    (tmp_path / "site-packages" / "ray_jobs").mkdir(parents=True)
    package.write(tmp_path / "one.zip", "name: tiny\n", tmp_path / "site-packages")
    assert zipfile.ZipFile(tmp_path / "one.zip").namelist() == ["submitted-recipe.yaml"]


def test_a_package_too_large_names_its_biggest_files(tmp_path, monkeypatch):
    monkeypatch.setattr(package, "LIMIT_BYTES", 1 << 20)
    root = checkout(tmp_path / "checkout")
    for number in range(7):
        (root / f"data-{number}.bin").write_bytes(os.urandom(300_000 + number))
    with pytest.raises(
        UserError, match=r"has 2\.0 MiB, Ray takes 1; the biggest files are data-6\.bin \(0\.3 MiB\), data-5"
    ):
        package.write(tmp_path / "one.zip", "", root)


def test_this_checkout_fits_easily(tmp_path):
    package.write(tmp_path / "one.zip", "", ROOT)
    names = zipfile.ZipFile(tmp_path / "one.zip").namelist()
    assert "ray_jobs/cli.py" in names and "cluster/spark/session.py" in names
    assert (tmp_path / "one.zip").stat().st_size < 20 << 20
    assert not [name for name in names if name.startswith((".", "runs/", "tests/"))]


def test_variables_that_only_the_cluster_knows_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("BUCKET", "corpus")
    monkeypatch.delenv("PINISI_SAMPLE_DIR", raising=False)
    (tmp_path / "mine.yaml").write_text(
        "base: demo\nname: mine\nquality: {positives: [], negatives: []}\nsources: [{name: a, type: jsonl, path: 's3://${BUCKET}/${THERE}/*.jsonl'}]\n"
    )
    name, text = recipes.portable(str(tmp_path / "mine.yaml"), ["seed=7"])
    sent = yaml.safe_load(text)["base"]  # so that nothing of it counts as asked for on the other machine
    assert name == "mine" and sent["seed"] == 7 and "base" not in sent
    assert sent["sources"][0]["path"] == "s3://corpus/${THERE}/*.jsonl"
    assert sent["train"]["sft"]["instruct"].startswith("${PINISI_SAMPLE_DIR}/")
    with pytest.raises(UserError, match="unknown key"):
        recipes.portable(str(tmp_path / "mine.yaml"), ["sede=7"])
