"""`cluster.engine`: the stages from texts to deduplicated Parquet leave the same bytes on Spark, Ray and in one process.

That those before them do is in test_chain.py: a run with Ray and Spark beside one that has neither."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.sources.warc import read_warc
from ray_jobs.config.reader import SAMPLE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parent.parent.parent
STAGES = ("annotate", "filter/signals", "filter/policy", "dedup")


def annotations(folder):
    """Two tables about the pages of the sample, by URL: some of their rows are of the same page, some of none."""
    batches = [
        batch for path in sorted((SAMPLE / "warc").glob("*.warc.gz")) for batch, _ in read_warc(str(path), source="web")
    ]
    urls = [url for batch in batches for url in batch["url"].to_pylist()]
    for number in range(2):
        mine = [*urls[number::3], *urls[::5], "https://nowhere.example"]
        kinds = [("blog", "news", None)[i % 3] for i in range(len(mine))]
        table = pa.table({"url": mine, "kind": kinds, "score": [float(i) for i in range(len(mine))]})
        pq.write_table(table, folder / f"notes-{number}.parquet")
    return f"[{{path: {folder}/notes-*.parquet, key: url, columns: [kind, score]}}]"


def test_engines_leave_the_same_bytes(tmp_path):
    notes = annotations(tmp_path)

    def pinisi(engine, until, *more):
        command = [sys.executable, "-m", "ray_jobs.cli", "run", str(Path(__file__).parent / "tiny.yaml")]
        command += ["--run-dir", str(tmp_path / engine), "--until", until, "--set", f"cluster.engine={engine}"]
        command += ["--set", "dedup.substring_min_chars=60", "--set", f"annotations={notes}", *more]
        command += ["--set", "filter.policy.default={kind: {forbidden: [news]}, score: {max: 100}}"]
        environment = {**os.environ, "PINISI_SAMPLE_DIR": str(SAMPLE), "HOME": str(tmp_path)}
        if engine == "local":
            environment["JDK_JAVA_OPTIONS"] = "-nonsense"  # no Java would start; none is needed
        said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stdout + said.stderr
        return said.stdout

    found = {}
    pinisi("local", "language", "--without-ray")
    for engine in ("ray", "spark"):
        shutil.copytree(tmp_path / "local", tmp_path / engine)
    for engine in ("local", "ray", "spark"):
        said = pinisi(engine, "dedup")
        assert [line.split(":")[0] for line in said.splitlines() if ": done in " in line] == [*STAGES]
        folders = [tmp_path / engine / name for stage in STAGES for name in (stage, f"dropped/{stage}")]
        paths = sorted(path for folder in folders for path in folder.rglob("*.parquet"))
        found[engine] = {str(path.relative_to(tmp_path / engine)): path.read_bytes() for path in paths}
    assert len(found["local"]) > 10
    assert any("dedup/index/bands" in path for path in found["local"])
    assert found["ray"] == found["local"] and found["spark"] == found["local"]
