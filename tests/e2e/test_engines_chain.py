"""`cluster.engine`: the stages from WARC to deduplicated Parquet leave the same bytes on Spark, Ray and in one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ray_jobs.config.reader import SAMPLE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parent.parent.parent
STAGES = ("filter/signals", "filter/policy", "dedup")


def test_engines_leave_the_same_bytes(tmp_path):
    found = {}
    for engine in ("local", "ray", "spark"):
        command = [sys.executable, "-m", "ray_jobs.cli", "run", str(Path(__file__).parent / "tiny.yaml")]
        command += ["--run-dir", str(tmp_path / engine), "--until", "dedup", "--set", f"cluster.engine={engine}"]
        command += ["--set", "dedup.substring_min_chars=60"]
        environment = {**os.environ, "PINISI_SAMPLE_DIR": str(SAMPLE), "HOME": str(tmp_path)}
        if engine == "local":
            environment["JDK_JAVA_OPTIONS"] = "-nonsense"  # no Java would start; none is needed
        said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stdout + said.stderr
        folders = [tmp_path / engine / name for stage in STAGES for name in (stage, f"dropped/{stage}")]
        paths = sorted(path for folder in folders for path in folder.rglob("*.parquet"))
        found[engine] = {str(path.relative_to(tmp_path / engine)): path.read_bytes() for path in paths}
    assert len(found["local"]) > 10
    assert any("dedup/index/bands" in path for path in found["local"])
    assert found["ray"] == found["local"] and found["spark"] == found["local"]
