"""A Spark session for the batch steps of curation: embedded in this process, inside Ray, or on an existing Spark.

Spark only moves keys, so the driver needs little memory; texts are read and written by the Python workers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cluster.spark import java

if TYPE_CHECKING:
    from py4j.java_gateway import JavaGateway
    from pyspark import SparkConf
    from pyspark.sql import SparkSession

    from cluster.spark.standalone import Standalone

_standalone: list[Standalone] = []  # of this process: at most one


def session(
    mode: Literal["local", "ray", "submit"] = "local",
    cores: int | None = None,
    memory: str = "1g",
    app_name: str = "pinisi",
    temp_dir: str | None = None,
    *,
    workers: int = 2,
    master: str | None = None,
) -> SparkSession:
    """The session of this process, made at the first call.

    `local`: Spark inside this process on `cores` cores (None: all), heap `memory`, loopback only, no UI.
    `ray`: `workers` executors of `cores` cores (None: 1) and heap `memory` inside the Ray that this process is connected
    to (`cluster.spark.standalone`), and the driver here.
    `submit`: the Spark at `master` (`spark://HOST:7077`), the driver here; None: the session of the surrounding
    spark-submit, whose own options say cores and memory.
    Scratch files and Java's log (`spark.log`) of this process lie below `temp_dir` (None: the system's temporary folder,
    and standard error). Raises ValueError for an unknown mode, a missing Java, one that does not start, or a Ray without
    room.
    """
    if mode not in ("local", "ray", "submit"):
        raise ValueError(f"unknown Spark mode {mode!r}: use local, ray or submit")
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

    conf = SparkConf().setAppName(app_name)
    conf.set("spark.sql.execution.arrow.pyspark.enabled", "true")
    conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "65536")
    conf.set("spark.sql.session.timeZone", "UTC")
    conf.set("spark.log.level", "ERROR")
    if SparkContext._active_spark_context is None:
        if mode == "local":
            _local(conf, cores or os.cpu_count() or 1, memory, temp_dir)
            SparkContext(conf=conf, gateway=_start_java(conf, temp_dir))
        elif mode == "ray":
            _on_ray(conf, workers, cores or 1, memory, temp_dir)
        elif master:
            _embedded(conf, memory, temp_dir)
            SparkContext(conf=conf.setMaster(master), gateway=_start_java(conf, temp_dir))
    return SparkSession.builder.config(conf=conf).getOrCreate()


def _on_ray(conf: SparkConf, workers: int, cores: int, memory: str, temp_dir: str | None) -> None:
    import ray
    from pyspark import SparkContext

    from cluster.spark.standalone import Standalone

    host = ray.util.get_node_ip_address()
    _embedded(conf, "1g", temp_dir)
    os.environ["SPARK_LOCAL_IP"] = host
    conf.set("spark.driver.host", host).set("spark.driver.bindAddress", host)
    conf.set("spark.executor.memory", memory)
    conf.set("spark.default.parallelism", str(workers * cores)).set(
        "spark.sql.shuffle.partitions", str(workers * cores)
    )
    conf.set("spark.stage.maxConsecutiveAttempts", "20")  # nodes come and go; a task that fails is counted elsewhere
    gateway = _start_java(conf, temp_dir)
    try:
        standalone = Standalone(workers, cores, memory)
    except BaseException:
        _end(gateway)
        raise
    _standalone.append(standalone)
    # set after Java was started, as its command line can be read by everyone on this machine
    conf.set("spark.authenticate", "true").set("spark.authenticate.secret", standalone.secret)
    try:
        context = SparkContext(conf=conf.setMaster(standalone.url), gateway=gateway)
    except BaseException:
        _standalone.pop().stop()
        _end(gateway)
        raise
    standalone.on_loss = context.cancelAllJobs


def _local(conf: SparkConf, cores: int, memory: str, temp_dir: str | None) -> None:
    _embedded(conf, memory, temp_dir)
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    conf.setMaster(f"local[{cores}]")
    conf.set("spark.driver.host", "127.0.0.1").set("spark.driver.bindAddress", "127.0.0.1")
    conf.set("spark.default.parallelism", str(cores)).set("spark.sql.shuffle.partitions", str(cores))
    if cores <= 4:  # a small machine: no compiler and collector threads that compete with the work
        conf.set("spark.driver.extraJavaOptions", "-XX:+UseSerialGC -XX:TieredStopAtLevel=1")


def _embedded(conf: SparkConf, memory: str, temp_dir: str | None) -> None:
    """What is the same for every driver inside this process."""
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    conf.set("spark.driver.memory", memory)
    conf.set("spark.ui.enabled", "false").set("spark.ui.showConsoleProgress", "false")
    if temp_dir:
        Path(temp_dir).mkdir(parents=True, exist_ok=True)
        conf.set("spark.local.dir", temp_dir).set("spark.sql.warehouse.dir", str(Path(temp_dir) / "warehouse"))


def _start_java(conf: SparkConf, temp_dir: str | None) -> JavaGateway:
    from pyspark.errors import PySparkRuntimeError
    from pyspark.java_gateway import launch_gateway

    os.environ.update(java.environment())
    if temp_dir is None:
        return launch_gateway(conf)
    log = Path(temp_dir) / "spark.log"
    with open(log, "ab") as file:
        try:
            return launch_gateway(conf, {"stdout": file, "stderr": file})
        except PySparkRuntimeError:
            said = log.read_text(errors="replace").strip().splitlines()
            raise ValueError(f"Java for Spark did not start: {said[-1] if said else f'see {log}'}") from None


def stop(spark: SparkSession) -> None:
    """End the session and what this process started for it, so that its memory and its place in Ray are free again."""
    from pyspark import SparkContext

    gateway = SparkContext._gateway
    spark.stop()
    _end(gateway)
    while _standalone:
        _standalone.pop().stop()


def _end(gateway: JavaGateway) -> None:
    from pyspark import SparkContext

    process = getattr(gateway, "proc", None)
    if process is None:  # under spark-submit Java is our parent
        return
    gateway.shutdown()
    process.stdin.close()  # Java ends when its input does
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    SparkContext._gateway = SparkContext._jvm = None
