"""A run directory on a local S3 server: the same files as on disk, and nothing that a reader could see half written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import storage
from ray_jobs.config.reader import SAMPLE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent.parent
RECIPE = str(Path(__file__).parent / "tiny.yaml")


@pytest.fixture
def bucket(s3):
    s3.create_bucket(Bucket="runs")


def pinisi(*arguments):
    environment = {**os.environ, "PINISI_SAMPLE_DIR": str(SAMPLE)}
    command = [sys.executable, "-m", "ray_jobs.cli", *arguments]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=500, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_corpus_and_token_stores_on_s3_equal_those_on_disk(bucket, tmp_path):
    disk, remote = str(tmp_path / "run"), "s3://runs/tiny"
    pinisi("run", RECIPE, "--run-dir", remote, "--until", "mixture")
    pinisi("run", RECIPE, "--run-dir", disk, "--until", "mixture", "--set", "cluster.engine=local")
    rows = json.loads(pinisi("status", remote, "--json"))
    assert [row["state"] for row in rows[:9]] == ["done"] * 9
    files = [p for p in Path(disk).rglob("*") if p.suffix in (".parquet", ".bin") or p.name == "plan.json"]
    assert len(files) > 50
    for file in files:
        uri = storage.join(remote, file.relative_to(disk).as_posix())
        assert storage.read_bytes(uri) == file.read_bytes(), uri
    assert "nothing to do" in pinisi("run", RECIPE, "--run-dir", remote, "--until", "mixture")
    kept = storage.read_table(storage.join(remote, "tokenize"), ["url"])["url"][0].as_py()
    assert json.loads(pinisi("explain", remote, kept, "--json"))[-1]["stage"] == "tokenize"
