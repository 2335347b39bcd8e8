"""The house: floors, no circles, no crowded folder (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MOST_FILES = 26  # of a folder

# Top to bottom. A folder or module may import from floors below its own, and from its own folder.
FLOORS = {
    "ray_jobs": [
        ("cli",),
        ("publish",),
        ("commands",),
        ("experiment",),
        ("plan",),
        ("stages",),
        ("inspect",),
        ("prepare", "report"),
        ("alignment",),
        ("commoncrawl", "training"),
        ("work",),
        ("run",),
        ("config",),
        ("exits",),
        ("errors",),
    ],
    "curation": [
        ("spark_job",),
        ("parallel",),
        ("encoder",),
        ("pdf", "subtitles", "wiki"),
        ("annotations", "dedup", "decontaminate", "quality", "commoncrawl", "extract", "lid", "signals"),
        ("lm", "policy", "sources"),
        ("text",),
        ("schema",),
    ],
    "mixture": [
        ("order", "regmix", "sailor2", "tokenizer", "long_weights"),
        ("bpe", "store", "weights"),
        ("readings",),
    ],
    "train": [
        ("long",),
        ("tasks",),
        ("drafts",),
        ("methods", "export", "generation"),
        ("loader", "loop"),
        ("model", "monitor"),
        ("bases", "checkpoint", "loop_config", "preference_losses", "scores", "selection"),
        ("chat",),
        ("kernels",),
        ("distributed",),
        ("batches",),
    ],
    "cluster": [
        ("deploy", "doctor"),
        ("fetch", "spark"),
        ("engines", "shards"),
        (
            "bundle_check",
            "chatml",
            "document_tokens",
            "gauges",
            "kenlm",
            "kernel_files",
            "storage",
            "strict_yaml",
            "terminal",
            "user_code",
        ),
    ],
}
BELOW = {"ray_jobs": ("curation", "mixture", "train", "cluster")}  # of the others each imports cluster alone
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in FLOORS
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.name != "__init__.py"
}


def imports(module, everywhere=True):
    """The modules of ours that a module imports, in functions too or (`everywhere` false) when it is imported itself."""
    tree = ast.parse(FILES[module].read_text("utf-8"))
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return sorted(found & FILES.keys())


def floor(module):
    package, place, *_ = module.split(".")
    return next((number for number, names in enumerate(FLOORS[package]) if place in names), None)


def test_every_module_has_a_floor():
    assert [module for module in FILES if floor(module) is None] == []


@pytest.mark.parametrize("package", FLOORS)
def test_arrows_go_down(package):
    up = []
    for module in (name for name in FILES if name.startswith(f"{package}.")):
        for other in imports(module):
            same_folder = module.split(".")[:2] == other.split(".")[:2]
            if other.startswith(f"{package}."):
                fits = same_folder or floor(module) < floor(other)
            else:
                fits = other.split(".")[0] in BELOW.get(package, ("cluster",))
            up += [] if fits else [f"{module} -> {other}"]
    assert up == []


def test_no_module_is_reached_from_itself():
    graph = {module: imports(module, everywhere=False) for module in FILES}
    done, path = set(), []

    def visit(module):
        if module in path:
            raise AssertionError(" -> ".join([*path[path.index(module) :], module]))
        if module not in done:
            path.append(module)
            for other in graph[module]:
                visit(other)
            path.pop()
            done.add(module)

    for module in FILES:
        visit(module)


def test_no_folder_is_crowded():
    folders = {path.parent for path in FILES.values()}
    counts = {folder.relative_to(ROOT).as_posix(): len(list(folder.glob("*.py"))) - 1 for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_the_search_finds_an_arrow_that_goes_up():
    assert "cluster.storage" in imports("cluster.shards")
    assert floor("ray_jobs.stages.dedup") < floor("ray_jobs.run.run") and floor("train.kernels.layers") > floor(
        "train.loop"
    )


def test_files_of_tests_have_names_of_their_own():
    """docs/reliability.md and people name them without their folders."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
