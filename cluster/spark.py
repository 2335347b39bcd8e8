"""A Spark session for the batch steps of curation: embedded in this process, or the one that spark-submit gives.

Spark only moves keys, so the driver needs little memory; texts are read and written by the Python workers.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JAVA_VERSION = 17


def java() -> str:
    """Path of the Java that Spark will start. Raises ValueError when there is none, or one older than Java 17."""
    home = os.environ.get("JAVA_HOME")
    path = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if path is None or not os.access(path, os.X_OK):
        where = f"JAVA_HOME={home} has no bin/java" if home else "there is no `java` on the PATH"
        raise ValueError(
            f"Spark needs Java {JAVA_VERSION}, but {where}; on Debian: apt-get install openjdk-17-jre-headless"
        )
    said = subprocess.run([path, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', said.stderr + said.stdout)
    if version and int(version[1]) < JAVA_VERSION:
        raise ValueError(
            f"Spark needs Java {JAVA_VERSION} or newer, but {path} is Java {version[1]}; set JAVA_HOME to a newer one"
        )
    return path


def session(
    mode: Literal["local", "submit"] = "local",
    cores: int | None = None,
    memory: str = "1g",
    app_name: str = "pinisi",
    temp_dir: str | None = None,
) -> SparkSession:
    """The session of this process, made at the first call.

    `local`: Spark inside this process on `cores` cores (None: all), heap `memory`, scratch files below `temp_dir` (None:
    the system's temporary folder), loopback only, no UI. `submit`: the session of the surrounding spark-submit, whose
    own options say cores and memory. Raises ValueError for an unknown mode or a missing Java.
    """
    if mode not in ("local", "submit"):
        raise ValueError(f"unknown Spark mode {mode!r}: use local or submit")
    from pyspark.sql import SparkSession

    settings = {
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.adaptive.enabled": "true",
    }
    if mode == "local":
        java()
        os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
        cores = cores or os.cpu_count() or 1
        settings |= {
            "spark.driver.memory": memory,
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.default.parallelism": str(cores),
            "spark.sql.shuffle.partitions": str(cores),
            "spark.log.level": "ERROR",
            "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1" if cores <= 2 else "",
        }
        if temp_dir:
            Path(temp_dir).mkdir(parents=True, exist_ok=True)
            settings |= {"spark.local.dir": temp_dir, "spark.sql.warehouse.dir": str(Path(temp_dir) / "warehouse")}
    builder = SparkSession.builder.appName(app_name)
    if mode == "local":
        builder = builder.master(f"local[{cores}]")
    for key, value in settings.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def stop(spark: SparkSession) -> None:
    """End the session and, where this process started it, the Java process too, so that its memory is free again."""
    from pyspark import SparkContext

    gateway = SparkContext._gateway
    spark.stop()
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
