"""A Spark standalone cluster inside Ray: its Master and Workers are Java processes of Ray actors.

Each Worker holds one bundle of a placement group, with the cores and the memory of its executor and of the Python workers
beside it, on nodes that are not for GPU work; so Ray accounts for Spark, and an autoscaler starts the nodes that the group
waits for and lets go of them when it is removed. The Master runs on the node of this process and shares its fate.

- A Worker that is lost, with its node or alone, is started again by Ray, elsewhere if need be; Spark computes again what
  lay there.
- No Java process outlives its actor (the kernel kills it: PR_SET_PDEATHSIG), and no actor outlives this process (Ray).
- What Java and the executors write to standard error is in Ray's logs of the actors: `ray logs`, or the dashboard.
- Only processes that know the session's random secret can talk to the Master, Workers and executors; web pages of Spark
  listen on loopback.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import ray
from ray.actor import ActorHandle

from cluster.engines import placement
from cluster.spark import java

PYTHON_BYTES = 1 << 30  # of the Python worker beside each core of an executor
JAVA_OVERHEAD_BYTES = 1 << 30  # of the executor beyond its heap, and of the Worker
START_SECONDS = 300.0
STOP_SECONDS = 20.0
SAY_SECONDS = 60.0
WATCH_SECONDS = 1.0

# Runs a program that the kernel kills when the parent dies; the last line: should it have died before the first.
DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.getppid() == int(sys.argv[1]) and os.execv(sys.argv[2], sys.argv[2:])
"""

LOGGING = """rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %c{1}: %m%n%ex
"""


class Standalone:
    """The cluster of this process, on the Ray that it is connected to: `url`, `secret`, and `stop()`.

    `workers` of `cores` cores each, executors of `memory` heap (`4g`). Waits for the nodes as long as an autoscaler may
    still start them. Raises ValueError when Ray has no room for a Worker, or Java is missing there.
    """

    def __init__(self, workers: int, cores: int, memory: str):
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if ray.util.client.ray.is_connected():
            raise ValueError(
                "cluster.spark: ray works on a node of the cluster only; use `pinisi submit`, or spark: local"
            )
        bundle = {"CPU": cores, "memory": bytes_of(memory) + JAVA_OVERHEAD_BYTES + cores * PYTHON_BYTES}
        if not placement.autoscales():
            _check_room(bundle, workers)
        self.secret = secrets.token_hex(32)
        self.on_loss: Callable[[], None] = lambda: None
        self._group = placement_group([bundle] * workers, "SPREAD", bundle_label_selector=[placement.CPU] * workers)
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        self.master = ray.remote(num_cpus=0, label_selector=here)(_Master).remote(self.secret)
        self.workers = []
        self._stopped = threading.Event()
        try:
            self.url = ray.get(self.master.url.remote(), timeout=START_SECONDS)
            _wait(self._group, bundle, workers)
            actor = ray.remote(max_restarts=-1, max_task_retries=-1)(_Worker)
            for number in range(workers):
                strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number)
                options = {"num_cpus": cores, "memory": bundle["memory"], "scheduling_strategy": strategy}
                self.workers.append(actor.options(**options).remote(self.url, cores, memory, self.secret))
            ray.get([worker.java.remote() for worker in self.workers])
        except BaseException as error:
            self.stop()
            if isinstance(error, ray.exceptions.ActorDiedError | ray.exceptions.RayTaskError):
                raise ValueError(f"Spark did not start on Ray: {str(error).strip().splitlines()[-1]}") from error
            raise
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        """End all of it; when this returns no Java runs, and Ray has the resources again a moment later."""
        self._stopped.set()
        actors = [*self.workers, self.master]
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get([actor.stop.remote() for actor in actors], timeout=STOP_SECONDS)
        for actor in actors:
            assert isinstance(actor, ActorHandle)
            ray.kill(actor)
        ray.util.remove_placement_group(self._group)

    def _watch(self) -> None:
        """A Master that died does not come back, as it would not know the application: tell whoever waits for a job."""
        try:
            while not self._stopped.wait(WATCH_SECONDS):
                ray.get(self.master.url.remote())
        except ray.exceptions.RayError:
            if not self._stopped.is_set():
                self.on_loss()


def _wait(group, bundle: dict, workers: int) -> None:
    """Until Ray, or its autoscaler, has found a place for every worker."""
    ready = group.ready()
    while not ray.wait([ready], timeout=SAY_SECONDS)[0]:
        print(
            f"spark: waiting for room for {workers} workers of {bundle['CPU']} CPUs and {bundle['memory'] / 2**30:.1f} GB",
            file=sys.stderr,
            flush=True,
        )


def _check_room(bundle: dict, workers: int) -> None:
    """A group that does not fit would wait for ever on a cluster that cannot grow."""
    room = 0
    for node in ray.nodes():
        if node["Alive"] and node["Labels"].get(placement.ROLE) != "gpu":
            room += min(int(node["Resources"].get(name, 0) // amount) for name, amount in bundle.items())
    if room < workers:
        raise ValueError(
            f"cluster.spark: ray needs room for {workers} workers of {bundle['CPU']} CPUs and "
            f"{bundle['memory'] / 2**30:.1f} GB each, but the nodes hold {room}; lower cluster.spark_workers, "
            "cluster.spark_cores or cluster.spark_memory"
        )


def bytes_of(size: str) -> int:
    """Bytes of a Java size: `512m`, `4g`. Raises ValueError otherwise."""
    match = re.fullmatch(r"(\d+)([kmgt])b?", size.strip().lower())
    if not match:
        raise ValueError(f"cluster.spark_memory: {size!r} is not a size such as 512m or 4g")
    return int(match[1]) << {"k": 10, "m": 20, "g": 30, "t": 40}[match[2]]


class _Java:
    """What both actors do: one Java process as a child, a folder for its files, and its words in Ray's log."""

    def _start(self, program: str, *arguments: str, secret: str) -> None:
        import pyspark

        self._folder, self._lock = _scratch()
        self._seen: dict[Path, int] = {}
        settings = self._folder / "spark.properties"
        settings.touch(mode=0o600)
        settings.write_text(
            f"spark.authenticate true\nspark.authenticate.secret {secret}\nspark.port.maxRetries 0\n"
            "spark.master.rest.enabled false\nspark.ui.killEnabled false\nspark.worker.cleanup.enabled true\n"
        )
        (self._folder / "log4j2.properties").write_text(LOGGING)
        home = Path(pyspark.__file__).parent
        daemon = {
            **java.environment(),
            "SPARK_DAEMON_MEMORY": "512m",
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_DAEMON_JAVA_OPTS": "-XX:+UseSerialGC",
        }
        places = {"SPARK_LOCAL_DIRS": str(self._folder / "blocks"), "SPARK_WORKER_DIR": str(self._folder / "work")}
        command = [str(home / "bin" / "spark-class"), program, *arguments, "--properties-file", str(settings)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", DIE_WITH_PARENT, str(os.getpid()), *command],
            env={**os.environ, **daemon, **places, "SPARK_HOME": str(home), "SPARK_CONF_DIR": str(self._folder)},
            stdin=subprocess.DEVNULL,
        )
        self._stopping = False
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        """Copy what executors say; when Java ends by itself, end this actor, so that Ray starts it again."""
        while self._process.poll() is None:
            self._copy_logs()
            time.sleep(WATCH_SECONDS)
        self._copy_logs()
        if not self._stopping:
            print(f"Java ended with code {self._process.returncode}", file=sys.stderr, flush=True)
            shutil.rmtree(self._folder, ignore_errors=True)
            os._exit(1)

    def _copy_logs(self) -> None:
        for path in sorted(self._folder.glob("work/app-*/*/std*")):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                file.seek(self._seen.get(path, 0))
                lines, newline, _ = file.read().rpartition(b"\n")
                self._seen[path] = self._seen.get(path, 0) + len(lines) + len(newline)
                if lines:
                    print(f"executor {path.parent.name}: {lines.decode(errors='replace')}", file=sys.stderr, flush=True)

    @ray.method
    def java(self) -> int:
        """The number of the Java process."""
        return self._process.pid

    @ray.method
    def stop(self) -> None:
        self._stopping = True
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Master(_Java):
    def __init__(self, secret: str):
        host = ray.util.get_node_ip_address()
        with socket.create_server((host, 0)) as free:
            port = free.getsockname()[1]
        where = ("--host", host, "--port", str(port), "--webui-port", "0")
        self._start("org.apache.spark.deploy.master.Master", *where, secret=secret)
        self._url = f"spark://{host}:{port}"
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection((host, port), timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise ValueError("the Master of Spark did not start; see its log in Ray") from None
                time.sleep(0.1)

    @ray.method
    def url(self) -> str:
        return self._url


class _Worker(_Java):
    def __init__(self, url: str, cores: int, memory: str, secret: str):
        where = ("--host", ray.util.get_node_ip_address(), "--webui-port", "0")
        size = ("--cores", str(cores), "--memory", memory)
        self._start("org.apache.spark.deploy.worker.Worker", *where, *size, url, secret=secret)


def _scratch() -> tuple[Path, IO]:
    """A folder of this process for shuffled blocks and logs; those of processes that were killed are removed.

    A folder is in use while its lock file is locked, which ends with the process.
    """
    root = Path(tempfile.gettempdir())
    for old in root.glob("pinisi-spark-worker-*"):
        with contextlib.suppress(OSError), open(old / "lock", "rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old, ignore_errors=True)
    unlocked = Path(tempfile.mkdtemp(prefix="pinisi-spark-new-", dir=root))
    file = open(unlocked / "lock", "wb")  # noqa: SIM115 - locked as long as the process lives
    fcntl.flock(file, fcntl.LOCK_EX)
    return unlocked.rename(root / unlocked.name.replace("-new-", "-worker-")), file
