"""Every function that makes a task, actor, placement group or trainer says which nodes it may run on."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path for folder in ("ray_jobs", "cluster", "curation") for path in (ROOT / folder).rglob("*.py"))
MAKES = {"remote", "placement_group", "ScalingConfig"}  # ray.remote(…), placement_group(…), ScalingConfig(…)


def makes_work(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    if isinstance(called, ast.Attribute):  # not `handle.remote(…)`, which calls what has been made
        return called.attr in MAKES and isinstance(called.value, ast.Name) and called.value.id == "ray"
    return isinstance(called, ast.Name) and called.id in MAKES - {"remote"}


def unplaced(tree: ast.Module) -> list[str]:
    """Names of functions that make work and name no label selector, nor the group that has one."""
    return [
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        and any(makes_work(node) for node in ast.walk(function))
        and not any(word in ast.unparse(function) for word in ("label_selector", "scheduling_strategy"))
    ]


def test_the_search_finds_what_it_looks_for():
    bodies = {
        "a": "ray.remote(f).options(num_cpus=1).remote()",
        "b": "ray.remote(num_cpus=0, label_selector=x)(A).remote()",
        "c": "placement_group([c])",
        "d": "T(ScalingConfig(num_workers=2))",
        "e": "actor.start.remote(); ray.util.remove_placement_group(g)",
    }
    code = "\n".join(f"def {name}():\n    {body}" for name, body in bodies.items())
    assert unplaced(ast.parse(code)) == ["a", "c", "d"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_piece_of_work_is_placed(path):
    assert unplaced(ast.parse(path.read_text())) == []
