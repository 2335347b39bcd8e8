"""Every promise of docs/reliability.md names tests, and those exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
# (fault, promise, lines that name tests) of each item `- **fault** promise`, under which each test has a line of its own
ROWS = [
    (" ".join(fault.split()), rest.partition("\n  - ")[0].strip(), re.findall(r"^  - (.*)$", rest, re.MULTILINE))
    for fault, rest in re.findall(r"^- \*\*(.+?)\*\*(.*?)(?=^- |^#|\Z)", TEXT, re.DOTALL | re.MULTILINE)
]


def functions_of(name):
    (path,) = (ROOT / "tests").rglob(name)
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_tests_of_a_promise_exist(row):
    _, promise, tests = row
    named = [re.fullmatch(r"`(test_\w+\.py)::(test_\w+)`", line) for line in tests]
    assert promise and named and all(named)
    for file, test in (match.groups() for match in named):
        assert test in functions_of(file)


def test_there_are_promises():
    assert len(ROWS) >= 39
