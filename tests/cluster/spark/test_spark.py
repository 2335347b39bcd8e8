"""The embedded Spark session: errors a user can act on, quiet, on loopback, and no Java left behind."""

import os
import subprocess
import sys

import pytest

from cluster.spark import session as spark


def test_missing_java_is_an_error_of_the_user(monkeypatch):
    monkeypatch.setattr(spark.java, "_places", lambda: iter(()))
    with pytest.raises(ValueError, match="Spark needs Java 17 or newer, but there is none on this machine"):
        spark.session()


def test_java_that_does_not_start_is_an_error_of_the_user(tmp_path):
    with pytest.raises(ValueError, match=r"Java for Spark did not start: \w+"):
        spark.session(memory="1x", temp_dir=str(tmp_path))


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="unknown Spark mode 'yarn'"):
        spark.session(mode="yarn")


PROGRAM = """
import sys
from cluster.spark import session as spark
session = spark.session(cores=2, memory="512m", app_name="quiet", temp_dir=sys.argv[1])
assert session is spark.session(cores=2, temp_dir=sys.argv[1])
conf = session.sparkContext.getConf()
print(conf.get("spark.master"), conf.get("spark.driver.host"), conf.get("spark.driver.memory"), conf.get("spark.local.dir"))
print(session.sparkContext.uiWebUrl, session.conf.get("spark.sql.execution.arrow.pyspark.enabled"))
workers = session.sparkContext.parallelize([0], 1).map(lambda _: __import__("sys").executable).collect()
print(workers[0] == sys.executable)
print(session.sparkContext._gateway.proc.pid, flush=True)
spark.stop(session)
again = spark.session(cores=1, temp_dir=sys.argv[1])  # a stopped session can be followed by a new one
print(again.range(7).count(), again.sparkContext._gateway.proc.pid, flush=True)
__import__("os").kill(__import__("os").getpid(), 9)
"""


def test_session_is_quiet_local_and_leaves_no_java(tmp_path):
    """Stopped, Java is gone at once; after kill -9 of its parent it ends by itself."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=240, check=False
    )
    assert run.returncode == -9 and run.stderr == ""
    settings, arrow, python, stopped, orphan = run.stdout.strip().splitlines()
    assert settings == f"local[2] 127.0.0.1 512m {tmp_path}"
    assert arrow == "None true" and python == "True"
    assert not os.path.exists(f"/proc/{stopped}")
    count, pid = orphan.split()
    assert count == "7"
    for _ in range(300):
        if not _runs_java(pid):
            break
        __import__("time").sleep(0.1)
    assert not _runs_java(pid)


def _runs_java(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"java" in file.read()
    except OSError:
        return False
