"""The built wheel holds all that the checkout has, and runs outside of it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ray_jobs.run import fingerprint

ROOT = Path(__file__).parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves files behind
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(source)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True)
    (built,) = folder.glob("pinisi-*.whl")
    return built


def test_it_holds_every_file_of_the_packages(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", *fingerprint.PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    ours = {
        name for name in listed.stdout.split() if (ROOT / name).is_file() and not name.startswith("cluster/rendered")
    }
    assert sorted(ours - held) == []


def test_it_runs_outside_of_the_checkout(wheel, tmp_path):
    """Only the wheel's own files are reachable: not this checkout, which is installed in place."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    (tmp_path / "a.jsonl").write_text(
        '{"id": "1", "text": "Perahu itu berlayar ke pelabuhan membawa beras dan ikan asin."}\n'
    )
    (tmp_path / "mine.yaml").write_text(
        f"name: mine\nlanguages: [id]\ncluster: {{engine: local}}\n"
        f"sources: [{{name: a, type: jsonl, path: {tmp_path}/a.jsonl, trust_language: true}}]\n"
    )
    # kernels are compiled anew, for one sentence
    environment = {**os.environ, "PYTHONPATH": str(site), "NUMBA_OPT": "0"}
    where = "import ray_jobs, cluster; print(ray_jobs.__file__, cluster.__file__)"
    said = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert all(path.startswith(str(site)) for path in said.stdout.split())
    command = [sys.executable, "-m", "ray_jobs.cli"]
    for arguments in (["run", "mine.yaml", "--until", "filter"], ["status", "runs/mine"], ["run", "demo", "--dry-run"]):
        done = subprocess.run(
            [*command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs" / "mine" / "filter" / "policy" / "_manifest.json").is_file()
