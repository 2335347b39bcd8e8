"""`spark-submit curation/spark_job.py`: reads the job of a run, and gives the files that every engine gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dedup_corpus import CONFIG, corpus, files, run, write_parts

from cluster import storage
from cluster.engines.in_process import Local
from cluster.spark import java
from curation.spark_job import main


def test_main_without_a_job_says_which_file_is_missing(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--run-dir", str(tmp_path), "--steps", "dedup"])
    assert stop.value.code == 2 and f"{tmp_path}/dedup/_job.json is not there" in capsys.readouterr().err


@pytest.mark.slow
def test_spark_submit_reads_the_job_of_the_run(tmp_path):
    parts = write_parts(tmp_path / "in", corpus(), 3)
    with Local() as engine:
        counts, _, _ = run(engine, tmp_path / "local", parts)
    job = {
        "config": CONFIG.__dict__,
        "name": "run",
        "parts": parts,
        "out": str(tmp_path / "dedup"),
        "ledger": str(tmp_path / "dropped"),
        "fingerprint": "f1",
    }
    storage.write_json(str(tmp_path / "dedup" / "_job.json"), job)
    settings = ["spark.ui.enabled=false", "spark.sql.shuffle.partitions=2"]
    settings += ["spark.driver.extraJavaOptions=-XX:+UseSerialGC -XX:TieredStopAtLevel=1"]
    submit = [str(Path(sys.executable).with_name("spark-submit")), "--master", "local[2]", "--driver-memory", "1g"]
    submit += [word for setting in settings for word in ("--conf", setting)]
    submit += ["curation/spark_job.py", "--run-dir", str(tmp_path), "--steps", "dedup"]
    environment = {**os.environ, **java.environment(), "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    root = Path(__file__).parents[2]
    said = subprocess.run(submit, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, (said.stdout + said.stderr)[-2000:]
    assert json.loads(said.stdout.strip().splitlines()[-1]) == {"step": "dedup", **counts}
    expected = files(tmp_path / "local")
    assert {path: (tmp_path / path).read_bytes() for path in expected} == expected
