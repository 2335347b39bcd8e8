"""Spark inside Ray on a simulated cluster: accounted for, on CPU nodes only, a lost worker replaced, no Java left behind; and
deduplication keeps the same documents on it, on the embedded Spark and by spark-submit on a standalone cluster."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from simulated_cluster import simulated, wait_for

from cluster import storage
from cluster.spark import java
from cluster.spark import standalone as spark_on_ray

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[3]
MARK = "PINISI_TEST_CLUSTER"  # an environment variable that every process of the cluster inherits


def test_sizes_of_java():
    assert [spark_on_ray.bytes_of(size) for size in ("512m", "4g", "1GB")] == [512 << 20, 4 << 30, 1 << 30]
    with pytest.raises(ValueError, match="'4 apples' is not a size"):
        spark_on_ray.bytes_of("4 apples")


def test_folders_of_dead_processes_are_removed_and_those_of_live_ones_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(spark_on_ray.tempfile, "tempdir", str(tmp_path))
    code = (
        "from cluster.spark.standalone import _scratch; folder, lock = _scratch(); print(folder, flush=True); input()"
    )
    live = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    dead = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, input="\n", capture_output=True,
        text=True, check=True,
    ).stdout.strip()  # fmt: skip
    kept = live.stdout.readline().strip()
    mine, lock = spark_on_ray._scratch()
    assert not Path(dead).exists() and Path(kept).exists() and mine.exists()
    live.communicate("\n")
    lock.close()


@pytest.fixture(autouse=True, scope="module")
def java_of_seconds():
    """A dozen of JVMs start here and soon end: none gets back what the second compiler and the parallel collector cost."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
        yield


@pytest.fixture(scope="module")
def cluster():
    """Head without CPUs, two CPU nodes of one core, and a GPU node with cores to spare."""
    with simulated(2, gpu=True, **{MARK: "spark"}) as nodes:
        yield nodes


def javas():
    """The Java processes of the cluster: driver, Master, Workers, executors."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() == "java" and process.environ().get(MARK) == "spark":
                found.append(process.pid)
        except psutil.Error:
            pass
    return found


DRIVER = """
import json, os, signal, sys, time
import ray
from cluster.spark import session as spark
from cluster.engines.on_spark import Spark
from curation.dedup.steps import dedup
from curation.dedup.schema import DedupConfig

address, task, temp, folder = sys.argv[1:]
ray.init(address, log_to_driver=False)
def say(**values): print(json.dumps(values), flush=True)
session = spark.session("ray", cores=1, memory="512m", workers=2, temp_dir=temp)
standalone = spark._standalone[0]
pids = lambda: ray.get([worker.java.remote() for worker in standalone.workers])
say(java=pids(), secret=standalone.secret, free=ray.available_resources().get("CPU"))
if task == "wait":
    session.sparkContext.parallelize(range(2), 2).map(lambda i: time.sleep(300)).collect()
job = json.load(open(f"{folder}/_job.json"))
before = session.sparkContext.parallelize(range(2), 2).map(lambda i: os.getppid()).collect()
lost = pids()[0]
os.kill(lost, signal.SIGKILL)
where = (job["parts"], f"{folder}-ray", f"{folder}-ray-dropped", DedupConfig(**job["config"]), "f")
counts = dedup(Spark(session), *where, name="n")
deadline = time.monotonic() + 240
while session.sparkContext._jsc.sc().statusTracker().getExecutorInfos().__len__() < 3:  # the driver counts as one
    assert time.monotonic() < deadline, "the lost worker was not replaced"
    time.sleep(0.2)
say(counts=counts, java=pids(), lost=lost)
spark.stop(session)
deadline = time.monotonic() + 120
while (free := ray.available_resources().get("CPU")) != 10 and time.monotonic() < deadline:
    time.sleep(0.1)
say(free=free)
"""


def drive(cluster, task, tmp_path, folder="none"):
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(DRIVER))
    command = [sys.executable, str(script), cluster.address, task, str(tmp_path / "temp"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(process):
    for line in process.stdout:
        if line.startswith("{"):  # else it is Ray's, about the worker that we kill
            return json.loads(line)
    raise AssertionError(process.communicate()[1])


WORDS = (
    "boat",
    "sails",
    "harbour",
    "rice",
    "fish",
    "before",
    "wind",
    "turns",
    "night",
    "quiet",
    "water",
    "old",
    "stone",
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """RUN with `dedup/_job.json` and three parts: 120 pages, some of them again, or almost again, or under the same URL."""
    run = tmp_path_factory.mktemp("run")
    rows = []
    for n in range(120):
        start = n if n % 4 else max(0, n - 8)  # every fourth repeats an earlier text, with one word more
        text = (
            " ".join(WORDS[(start * 7 + i * i * (start % 5 + 1)) % len(WORDS)] for i in range(60))
            + f" end {start % 30}"
        )
        url = f"https://a.example/{n if n % 9 else 0}"
        rows.append(
            {"doc_id": f"{n:032x}", "url": url, "crawl": "c", "lang": "en", "text": text + (" more" if n % 4 else "")}
        )
    parts = []
    for number in range(3):
        parts.append(str(run / "filter" / f"part-{number:05d}.parquet"))
        storage.write_table(parts[-1], pa.Table.from_pylist(rows[number::3]))
    out = {"out": str(run / "dedup"), "ledger": str(run / "dropped"), "fingerprint": "f", "name": "n", "parts": parts}
    storage.write_json(str(run / "dedup" / "_job.json"), {"config": {"seed": 1, "line_max_count": 1000}, **out})
    return run


def kept(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("part-*.parquet"))}


@pytest.fixture(scope="module")
def on_ray(cluster, corpus, tmp_path_factory):
    """What a driver said that lost a worker and then deduplicated the corpus, and the Java processes meanwhile and after."""
    process = drive(cluster, "dedup", tmp_path_factory.mktemp("driver"), corpus / "dedup")
    started = said(process)
    running = [" ".join(psutil.Process(pid).cmdline()) for pid in javas()]
    ended, stopped = said(process), said(process)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    return {"started": started, "running": running, "ended": ended, "stopped": stopped, "left": javas()}


def test_spark_is_accounted_for_and_leaves_nothing(on_ray):
    assert on_ray["started"]["free"] == 8.0  # both CPU nodes are held, the GPU node is not
    assert len(on_ray["running"]) >= 4  # driver, Master, two Workers, and executors when they have come
    assert not [command for command in on_ray["running"] if on_ray["started"]["secret"] in command]
    assert on_ray["stopped"]["free"] == 10.0
    assert on_ray["left"] == []


def test_a_lost_worker_is_replaced(on_ray):
    ended = on_ray["ended"]
    assert ended["lost"] in on_ray["started"]["java"] and ended["lost"] not in ended["java"]
    assert len(set(ended["java"])) == 2
    assert ended["counts"]["docs_in"] == 120 and 0 < ended["counts"]["docs_out"] < 120


def test_a_killed_driver_leaves_no_java(cluster, tmp_path):
    process = drive(cluster, "wait", tmp_path)
    said(process)
    wait_for(lambda: len(javas()) >= 6)  # driver, Master, two Workers, two executors
    process.kill()
    process.communicate()
    wait_for(lambda: javas() == [])


def test_no_room_is_said_at_once(cluster):
    code = (
        "import sys, ray; ray.init(sys.argv[1], log_to_driver=False)\n"
        "from cluster.engines import placement; from cluster.spark import standalone as spark_on_ray\n"
        "placement.autoscales = lambda: False  # a head without CPUs looks as if it could grow\n"
        "spark_on_ray.Standalone(1, 16, '1g')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, cluster.address], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert "needs room for 1 workers of 16 CPUs and 18.0 GB each, but the nodes hold 0" in ended.stderr
    assert javas() == []


@pytest.fixture
def standalone(tmp_path):
    """A Spark standalone cluster of the wheel's own programs."""
    import pyspark

    home = Path(pyspark.__file__).parent
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    spark = {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m"}
    environment = {**os.environ, **java.environment(), **spark}
    program, processes = [str(home / "bin" / "spark-class")], []
    url = f"spark://127.0.0.1:{port}"
    worker = ["--cores", "2", "--memory", "512m", "--work-dir", str(tmp_path / "work"), url]
    for name, arguments in (("master.Master", ["--port", str(port)]), ("worker.Worker", worker)):
        where = ["--host", "127.0.0.1", "--webui-port", "0"]
        with open(tmp_path / f"{name}.log", "wb") as log:
            processes.append(
                subprocess.Popen(
                    [*program, f"org.apache.spark.deploy.{name}", *where, *arguments],
                    env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )
            )  # fmt: skip
    yield home, url
    for process in reversed(processes):
        process.terminate()
        process.wait(timeout=120)


def test_the_same_documents_on_all_three(on_ray, corpus, standalone, tmp_path):
    home, url = standalone
    spark = {**java.environment(), "PYSPARK_PYTHON": sys.executable, "SPARK_HOME": str(home)}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **spark}
    submit = [
        str(home / "bin" / "spark-submit"),
        "--master",
        url,
        "--executor-memory",
        "512m",
        "--conf",
        "spark.ui.enabled=false",
    ]
    command = [*submit, str(ROOT / "curation" / "spark_job.py"), "--run-dir", str(corpus), "--steps", "dedup"]
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    submitted = kept(corpus / "dedup")

    code = textwrap.dedent("""
        import json, sys
        from cluster.spark import session as spark
        from cluster.engines.on_spark import Spark
        from curation.dedup.steps import dedup
        from curation.dedup.schema import DedupConfig
        folder, temp = sys.argv[1:]
        job = json.load(open(f"{folder}/_job.json"))
        session = spark.session("local", cores=2, memory="512m", temp_dir=temp)
        where = (job["parts"], f"{folder}-local", f"{folder}-local-dropped", DedupConfig(**job["config"]), "f")
        dedup(Spark(session), *where, name="n")
    """)
    command = [sys.executable, "-c", code, str(corpus / "dedup"), str(tmp_path / "temp")]
    subprocess.run(command, env=environment, check=True, timeout=300)
    local = kept(f"{corpus}/dedup-local")
    assert (
        len(local) == 3
        and sum(pq.read_metadata(path).num_rows for path in Path(f"{corpus}/dedup-local").glob("part*")) < 120
    )
    assert submitted == local
    assert kept(f"{corpus}/dedup-ray") == local
