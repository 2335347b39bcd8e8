"""Python 3.11 to 3.13: what is said of it agrees, the packages take all three, and the code names nothing that one lacks."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MINORS = (11, 12, 13)
FOLDERS = ("ray_jobs", "curation", "mixture", "train", "cluster", "tests", "benchmarks")


def python(minor: int) -> str | None:
    """A Python 3.`minor` of this machine: the one that runs, on the PATH, or one of pyenv's."""
    if sys.version_info[:2] == (3, minor):
        return sys.executable
    found = [shutil.which(f"python3.{minor}"), *map(str, Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3"))]
    works = (p for p in found if p and subprocess.run([p, "-c", ""], capture_output=True, check=False).returncode == 0)
    return next(works, None)


def test_every_place_says_the_same_range():
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    for name in ("Makefile", "cluster/doctor/checks.py"):
        assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in (ROOT / name).read_text(), name
    assert re.search(r"Python 3\.11\b.{1,20}\b3\.13\b", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("minor", MINORS)
def test_the_code_reads_and_names_nothing_that_this_version_lacks(minor):
    program = python(minor)
    if program is None:
        pytest.skip(f"no Python 3.{minor} here")
    command = [program, str(ROOT / "tests" / "standard_names.py"), *FOLDERS]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("import cgi, os", "no cgi"),
        ("from distutils.version import LooseVersion", "no distutils"),
        ("import pkg_resources", "pkg_resources is in no new environment"),
        ("import typing as t\nx: t.Imaginary", "no typing.Imaginary"),
        ("from itertools import imaginary", "no itertools.imaginary"),
        ("import os.path, numpy\nos.path.join('a')\nnumpy.imaginary", None),
        ("def f(:", "invalid syntax"),
        ("x = '\\d'", "invalid escape"),
        ("import ast\nast.Str", "ast.Str is deprecated"),
    ],
)
def test_the_check_finds_what_it_should(tmp_path, code, fault):
    (tmp_path / "module.py").write_text(code)
    program = python(13) if fault in ("no cgi", "no distutils", "ast.Str is deprecated") else sys.executable
    if program is None:
        pytest.skip("no Python 3.13 here")
    command = [program, str(ROOT / "tests" / "standard_names.py"), str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == (fault is not None), said.stderr
    assert (fault or "") in said.stdout


def test_the_pinned_packages_take_all_three():
    """What `pip` reads before it installs a package; a pin that leaves a version behind fails here, and not there."""
    refused = []
    extras = PROJECT["optional-dependencies"]
    for line in [*PROJECT["dependencies"], *extras["dev"], *extras["java"]]:
        name = re.match(r"[\w.-]+", line)[0]
        range_ = importlib.metadata.metadata(name).get("Requires-Python") or ""
        refused += [f"{line}: {range_}" for minor in MINORS if f"3.{minor}.20" not in SpecifierSet(range_)]
    assert refused == []
