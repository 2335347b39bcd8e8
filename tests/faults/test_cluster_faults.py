"""Faults on a simulated cluster of four nodes: what docs/reliability.md promises, each against an undisturbed run.

One cluster, one tiny corpus (`sample/`). A node is lost as a machine is: all its processes are killed at once.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from simulated_cluster import complete, lose, simulated, tree, wait_for

from cluster import storage
from ray_jobs.config import reader as recipes
from ray_jobs.errors import StageFailed
from ray_jobs.run.run import Run
from ray_jobs.work import spark
from train.checkpoint import checkpoint
from train.monitor import throughput

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]

ROOT = Path(__file__).parent.parent.parent
RECIPE = str(ROOT / "tests" / "e2e" / "tiny.yaml")
NODES = 3  # beside the head
MARK = "PINISI_TEST_CLUSTER"
GOOD = "{name: good, type: warc, path: '${PINISI_SAMPLE_DIR}/warc/*.warc.gz'}"
REST = (
    "{name: rest, type: jsonl, path: '${PINISI_SAMPLE_DIR}/eval/answers/*', text_field: context, trust_language: true}"
)
SETTINGS = [
    f"sources=[{GOOD}, {REST}]",
    "quality={positives: [good], negatives: [rest], min_examples: 2}",
    "cluster.spark_cores=1",
    "cluster.spark_memory=512m",
    "train.base.tokens=200_000",  # 98 updates, a checkpoint after every fifth
    "train.workers=2",
]
TIMES = throughput.MEASURED


class Store:
    """A local S3 server (moto) behind a proxy that fails in turn, drops, delays and cuts short; each request at most once.

    `faulty` switches the faults on; `down` answers everything with an error. `seen` counts the faults by kind."""

    def __init__(self):
        moto = pytest.importorskip("moto.server")
        self.server = moto.ThreadedMotoServer(port=0, verbose=False)
        self.server.start()
        self.behind = self.server.get_host_and_port()
        self.faulty = self.down = False
        self.seen = dict.fromkeys(("refused", "dropped", "late", "short"), 0)
        self.failed, self.number, self.lock = set(), 0, threading.Lock()
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def handle_one_request(self):
                with contextlib.suppress(ConnectionError):
                    super().handle_one_request()

            def forward(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = store.fault(f"{self.command} {self.path} {self.headers.get('Range')}")
                if fault == "dropped":
                    self.close_connection = True
                    return
                if fault == "refused":
                    return self.answer(503, {}, b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>")
                if fault == "late":
                    time.sleep(0.4)
                connection = HTTPConnection(*store.behind, timeout=60)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                data = answer.read()
                connection.close()
                self.answer(answer.status, dict(answer.getheaders()), data, cut=fault == "short")

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

            def answer(self, status, headers, data, cut=False):
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                length = headers.get("Content-Length", len(data)) if self.command == "HEAD" else len(data)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data[: len(data) // 2] if cut else data)
                self.close_connection = self.close_connection or cut

        self.proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.proxy.daemon_threads = True
        threading.Thread(target=self.proxy.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.proxy.server_port}"

    def fault(self, request):
        if self.down:
            return "refused"
        if not self.faulty:
            return None
        with self.lock:
            self.number += 1
            kind = {0: "refused", 3: "dropped", 6: "late", 9: "short"}.get(self.number % 12)
            if kind is None or request in self.failed or (kind == "short" and not request.startswith("GET")):
                return None
            self.failed.add(request)
            self.seen[kind] += 1
            return kind

    def stop(self):
        self.proxy.shutdown()
        self.server.stop()


@pytest.fixture(scope="module")
def store():
    with pytest.MonkeyPatch.context() as patch:
        store = Store()
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in {"AWS_ENDPOINT_URL": store.url, "AWS_MAX_ATTEMPTS": "3", **keys}.items():
            patch.setenv(name, value)
        import boto3

        boto3.client("s3").create_bucket(Bucket="runs")
        yield store
        store.stop()


@pytest.fixture(scope="module")
def cluster(store):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PINISI_SAMPLE_DIR", raising=False)
        with simulated(NODES, **{MARK: "faults"}) as nodes:
            yield nodes
            spark.stop()


def node_running(cluster, text):
    """The first worker node with a process whose command line begins with, or has as an argument, `text`."""
    for node in list(cluster.worker_nodes):
        for process in tree(node):
            with contextlib.suppress(psutil.Error):
                if any(part.startswith(text) for part in process.cmdline()):
                    return node
    return None


def execute(cluster, uri, until):
    """`pinisi run --until` in this process, as the cluster's driver."""
    said = []
    Run(str(uri), recipes.load(RECIPE, SETTINGS)).execute(until=until, address=cluster.address, say=said.append)
    return said


def disturbed(cluster, uri, until, disturb):
    """Run to the end of `until` while `disturb()` does its work in a thread; what it raises is raised here."""
    faults = []

    def guarded():
        try:
            disturb()
        except BaseException as error:
            faults.append(error)

    complete(cluster, NODES)
    thread = threading.Thread(target=guarded)
    thread.start()
    said = execute(cluster, uri, until)
    thread.join()
    assert not faults, faults
    return said


def contents(uri, stage):
    """The data of a stage and its ledger, by name; markers and manifests say when and where, so they may differ."""
    found = {}
    for folder in (stage, f"dropped/{stage}"):
        root = storage.join(str(uri), folder)
        for pattern in ("**/*.parquet", "**/*.bin", "**/tokenizer.json", "plan.json"):
            for path in storage.glob(storage.join(root, pattern)):
                found[f"{folder}/{path.rsplit(f'{folder}/', 1)[1]}"] = storage.read_bytes(path)
    assert found, stage
    return found


@pytest.fixture(scope="module")
def quiet(cluster, tmp_path_factory):
    """The undisturbed run, through training of the base model."""
    uri = tmp_path_factory.mktemp("quiet")
    execute(cluster, uri, "base")
    return uri


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """The run that the tests disturb, stage after stage."""
    return tmp_path_factory.mktemp("disturbed")


def started(uri, stage):
    return Path(uri, stage, "_started.json").exists


def test_node_lost_in_crawl(cluster, quiet, uri):
    def disturb():
        wait_for(started(uri, "crawl"))
        lose(cluster, wait_for(lambda: node_running(cluster, "ray::_read")))

    disturbed(cluster, uri, "crawl", disturb)
    assert contents(uri, "crawl") == contents(quiet, "crawl")


def test_node_lost_in_a_shard_stage(cluster, quiet, uri):
    def disturb():
        wait_for(started(uri, "extract"))
        lose(cluster, wait_for(lambda: node_running(cluster, "ray::_run_one")))

    disturbed(cluster, uri, "extract", disturb)
    assert contents(uri, "extract") == contents(quiet, "extract")


def scratch(node):
    """The folder of the Spark worker on a node, or None."""
    for process in tree(node):
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if "org.apache.spark.deploy.worker.Worker" in command:
                return Path(command[command.index("--properties-file") + 1]).parent
    return None


def test_node_lost_in_a_shuffle_of_spark(cluster, quiet, uri):
    def with_blocks():
        for node in list(cluster.worker_nodes):
            folder = scratch(node)
            if folder and any(folder.glob("blocks/**/shuffle_*.data")):
                return node
        return None

    def disturb():
        wait_for(started(uri, "dedup"))
        lose(cluster, wait_for(with_blocks))

    disturbed(cluster, uri, "dedup", disturb)
    for stage in ("filter/signals", "filter/policy", "dedup"):
        assert contents(uri, stage) == contents(quiet, stage)


def test_node_lost_in_scoring(cluster, quiet, uri):
    def disturb():
        wait_for(started(uri, "quality"))
        wait_for(Path(uri, "quality", "_models.json").exists)
        lose(cluster, wait_for(lambda: node_running(cluster, "ray::_run_one")))

    disturbed(cluster, uri, "quality", disturb)
    assert len(storage.read_json(f"{uri}/quality/_manifest.json")["classifiers"]) > 5
    assert contents(uri, "quality") == contents(quiet, "quality")


def test_node_lost_in_tokenizing(cluster, quiet, uri):
    def disturb():
        wait_for(Path(uri, "tokenize", "tokenizer", "tokenizer.json").exists)
        lose(
            cluster,
            wait_for(lambda: node_running(cluster, "ray::_run_one") or node_running(cluster, "ray::_write_pools")),
        )

    disturbed(cluster, uri, "tokenize", disturb)
    assert contents(uri, "tokenize") == contents(quiet, "tokenize")


def curve(uri):
    """The training records without what depends on the clock."""
    records = [json.loads(line) for line in Path(uri, "metrics", "base.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def test_node_lost_in_training(cluster, quiet, uri):
    def disturb():
        def ten_updates():
            with contextlib.suppress(FileNotFoundError):  # of an old one that is being removed
                newest = checkpoint.latest(str(Path(uri, "base", "checkpoints")))
                return newest and newest.step >= 10

        wait_for(ten_updates)
        lose(cluster, wait_for(lambda: node_running(cluster, "ray::RayTrainWorker")))

    disturbed(cluster, uri, "base", disturb)
    manifest = storage.read_json(f"{uri}/base/_manifest.json")
    assert 10 <= manifest["resumed_from"] < 98
    assert curve(uri) == curve(quiet)
    name = "base/model/model.safetensors"
    assert Path(uri, name).read_bytes() == Path(quiet, name).read_bytes()


def javas():
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == "java" and process.environ().get(MARK) == "faults":
                found.append(process.pid)
    return found


def test_driver_killed_in_a_spark_stage(cluster, quiet, tmp_path):
    spark.stop()
    complete(cluster, NODES)
    for stage in ("crawl", "extract", "language", "filter", "dropped"):
        shutil.copytree(Path(quiet, stage), Path(tmp_path, stage))
    sets = [text for setting in SETTINGS for text in ("--set", setting)]
    command = [
        sys.executable,
        "-m",
        "ray_jobs.cli",
        "run",
        RECIPE,
        "--until",
        "dedup",
        "--run-dir",
        str(tmp_path),
        *sets,
    ]
    driver = subprocess.Popen(
        [*command, "--address", cluster.address], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    wait_for(lambda: started(tmp_path, "dedup")() or driver.poll() is not None)
    assert driver.poll() is None, driver.communicate()[0].decode()
    time.sleep(1)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    assert not Path(tmp_path, "dedup", "_manifest.json").exists()
    wait_for(lambda: javas() == [], 60)  # Spark goes with its driver
    said = execute(cluster, tmp_path, "dedup")  # the lock of the dead process does not hold
    assert said[0] == "dedup: continues where it stopped"
    assert contents(tmp_path, "dedup") == contents(quiet, "dedup")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_disk_full(cluster, quiet, tmp_path, capfd):
    def mount(*arguments):
        return subprocess.run(["mount", *arguments, str(tmp_path)], capture_output=True, text=True, check=False)

    if (failed := mount("-t", "tmpfs", "-o", "size=150k", "none")).returncode:
        pytest.skip(f"mount: {failed.stderr}")
    try:
        with pytest.raises(StageFailed, match=r"stage crawl failed: .*No space left on device"):
            execute(cluster, tmp_path, "extract")
        trace = tmp_path / "crawl" / "_error.txt"  # or, where it had no room in the run's folder, on the terminal
        assert "Traceback" in (trace.read_text() if trace.exists() else capfd.readouterr().err)
        assert not list(tmp_path.rglob("_manifest.json")) and not list(tmp_path.rglob("*.tmp"))
        for part in tmp_path.rglob("part-*.parquet"):
            pq.read_table(part)  # whole, or not there
        for marker in tmp_path.glob("crawl/_shards/*.json"):
            json.loads(marker.read_text())
        assert mount("-o", "remount,size=100m").returncode == 0
        execute(cluster, tmp_path, "extract")
        for stage in ("crawl", "extract"):
            assert contents(tmp_path, stage) == contents(quiet, stage)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_object_store_refuses_drops_delays_and_cuts_short(cluster, quiet, store):
    store.faulty = True
    try:
        execute(cluster, "s3://runs/faulty", "language")
    finally:
        store.faulty = False
    assert min(store.seen.values()) >= 3, store.seen
    for stage in ("crawl", "extract", "language"):
        assert contents("s3://runs/faulty", stage) == contents(quiet, stage)


def test_object_store_gone(cluster, quiet, store):
    uri = "s3://runs/gone"
    execute(cluster, uri, "crawl")

    def disturb():
        wait_for(lambda: storage.exists(f"{uri}/extract/_started.json"))
        store.down = True

    try:
        with pytest.raises(StageFailed, match=r"stage extract failed: .*(slow down|Service Unavailable);"):
            disturbed(cluster, uri, "extract", disturb)
    finally:
        store.down = False
    assert not storage.exists(f"{uri}/extract/_manifest.json")
    execute(cluster, uri, "extract")
    for stage in ("crawl", "extract"):
        assert contents(uri, stage) == contents(quiet, stage)
