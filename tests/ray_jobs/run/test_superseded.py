"""No finished result is lost: not by a change, not by Ctrl-C at any moment, not by an object store's slow moves."""

import contextlib
import sys
import types
import uuid

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cluster import storage
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.run import graph
from ray_jobs.run import run as runs
from ray_jobs.run.graph import Stage

RECIPE = {"name": "tiny", "sources": [{"name": "s", "type": "jsonl", "path": "/nothing/*.jsonl", "optional": True}]}
LINE = (
    Stage("filter/policy", "fake_first", (), ("filter",)),
    Stage("pretrain/stage1", "fake_second", ("filter/policy",), ("dedup",)),
    Stage("export", "fake_third", ("pretrain/stage1",), ()),
)
OPERATIONS = ("write_bytes", "remove", "move")


@pytest.fixture(params=["local", "memory"])
def uri(request, tmp_path):
    return str(tmp_path / "run") if request.param == "local" else f"memory://{uuid.uuid4().hex}/run"


@pytest.fixture
def world(monkeypatch):
    """Three stages whose code is `world.code[job]` and whose work takes `world.seconds[stage]`; `ran` is a log of the work."""
    world = types.SimpleNamespace(ran=[], code={stage.job: {"a.py": "1"} for stage in LINE}, seconds={}, stop=None)

    def work(job):
        name = job.stage.name
        world.ran.append(name)
        made = f"{name} by {job.fingerprint}"
        storage.write_text(job.path("part-00000.txt"), made)
        for number in range(3):
            storage.write_text(storage.join(job.ledger, f"part-{number:05d}.txt"), made)
            storage.write_text(job.path("checkpoint", f"{number}.txt"), made)
        storage.write_text(storage.join(job.metrics, f"{name.replace('/', '-')}.jsonl"), made)
        if world.stop == name:
            raise KeyboardInterrupt
        return {"bytes": 1}

    for stage in LINE:
        monkeypatch.setitem(sys.modules, f"ray_jobs.stages.{stage.job}", types.SimpleNamespace(run=work))
    monkeypatch.setattr(graph, "STAGES", LINE)
    monkeypatch.setattr(runs, "code", lambda job, languages=(): dict(world.code[job]))
    return world


def lasted(uri, stage, seconds):
    """Say in a manifest that the stage took so long."""
    path = storage.join(uri, stage, "_manifest.json")
    storage.write_json(path, {**storage.read_json(path), "seconds": seconds})


def execute(uri, changes=None, **options):
    said = []
    run = runs.Run(uri, recipes.parse({**RECIPE, **(changes or {})}, "test"))
    run.execute(say=said.append, **options)
    return said


def results(uri, stage):
    """What lies in the stage's places: result, ledger, metrics."""
    places = (
        storage.join(uri, stage, "part-00000.txt"),
        *(storage.join(uri, stage, "checkpoint", f"{number}.txt") for number in range(3)),
        *(storage.join(uri, "dropped", stage, f"part-{number:05d}.txt") for number in range(3)),
        storage.join(uri, "metrics", f"{stage.replace('/', '-')}.jsonl"),
    )
    return tuple(storage.read_bytes(place).decode() if storage.exists(place) else None for place in places)


def finished(uri, stage):
    """Fingerprints of the finished results of a stage, in its place or aside."""
    pattern = [storage.join(uri, stage), storage.join(uri, "_superseded", stage, "*", "result")]
    found = [path for one in pattern for path in storage.glob(storage.join(one, "_manifest.json"))]
    return {storage.read_json(path)["fingerprint"] for path in found}


def test_a_superseded_result_lies_aside_until_its_successor_is_done(uri, world):
    execute(uri)
    old = results(uri, "pretrain/stage1")
    world.stop = "pretrain/stage1"
    with pytest.raises(KeyboardInterrupt):
        execute(uri, {"dedup": {"threshold": 0.8}})
    (aside,) = storage.glob(storage.join(uri, "_superseded", "pretrain/stage1", "*", "result", "part-00000.txt"))
    assert storage.read_bytes(aside).decode() == old[0]
    world.stop = None
    execute(uri, {"dedup": {"threshold": 0.8}})
    assert not storage.exists(aside) and len(set(results(uri, "pretrain/stage1"))) == 1
    assert results(uri, "pretrain/stage1") != old


def test_a_change_that_is_taken_back_brings_the_result_back(uri, world):
    execute(uri)
    old = {stage.name: results(uri, stage.name) for stage in LINE}
    world.stop = "pretrain/stage1"
    with pytest.raises(KeyboardInterrupt):
        execute(uri, {"dedup": {"threshold": 0.8}})
    world.ran.clear()
    said = execute(uri)
    assert "pretrain/stage1: what it made before is asked for again, and is back" in said
    assert world.ran == [] and {stage.name: results(uri, stage.name) for stage in LINE} == old


@pytest.mark.parametrize("after", [False, True])
def test_ctrl_c_at_any_moment_loses_nothing_finished(uri, world, monkeypatch, after):
    """KeyboardInterrupt before or after the n-th write, removal or move of a run that supersedes two results, for every n."""
    execute(uri)
    first = {stage.name: results(uri, stage.name) for stage in LINE}
    old = {stage.name: finished(uri, stage.name) for stage in LINE}
    changed = {"dedup": {"threshold": 0.8}}
    for number in range(1, 1000):
        left = [number]

        def watched(operation, left=left):
            def one(*arguments, **options):
                left[0] -= 1
                if left[0] == 0 and not after:
                    raise KeyboardInterrupt
                done = operation(*arguments, **options)
                if left[0] == 0:
                    raise KeyboardInterrupt
                return done

            return one

        with monkeypatch.context() as patch:
            for name in OPERATIONS:
                patch.setattr(storage, name, watched(getattr(storage, name)))
            if uri.startswith("memory"):  # within the copies and deletions of a move, too
                for name in ("cp_file", "rm_file"):
                    patch.setattr(MemoryFileSystem, name, watched(getattr(MemoryFileSystem, name)))
            with contextlib.suppress(KeyboardInterrupt):
                execute(uri, changed)
        new = {stage.name: finished(uri, stage.name) for stage in LINE}
        assert all(old[name] <= new[name] or new[name] - old[name] for name in old), number
        execute(uri)  # taken back: everything as at first, whatever was interrupted
        assert {stage.name: results(uri, stage.name) for stage in LINE} == first, number
        if left[0] > 0:
            break
    assert number > 10
    execute(uri, changed)
    assert all(len(set(results(uri, stage.name))) == 1 for stage in LINE)
    assert not storage.glob(storage.join(uri, "_superseded", "**", "part-00000.txt"))


def test_what_took_long_is_not_made_again_for_code_alone(uri, world):
    execute(uri)
    lasted(uri, "pretrain/stage1", 3 * 86400)
    old = {stage.name: results(uri, stage.name) for stage in LINE}
    world.code["fake_second"] = {"a.py": "2", "b.py": "1"}
    with pytest.raises(UserError) as error:
        execute(uri)
    assert str(error.value) == (
        "pretrain/stage1 (3 d) would run again for a change of code alone (a.py, b.py): --keep pretrain/stage1 "
        "leaves it as it is, --rerun pretrain/stage1 runs it and what depends on it again (run.guard_minutes: 30)"
    )
    assert {stage.name: results(uri, stage.name) for stage in LINE} == old
    world.ran.clear()
    execute(uri, keep=["pretrain/stage1"])
    assert world.ran == []
    (kept,) = storage.read_json(storage.join(uri, "pretrain/stage1", "_manifest.json"))["kept"]
    assert kept["changed"] == ["a.py", "b.py"]
    execute(uri)  # the acceptance holds
    assert world.ran == []
    world.code["fake_second"] = {"a.py": "3"}
    with pytest.raises(UserError, match="would run again"):
        execute(uri)
    execute(uri, rerun=["pretrain"])
    assert world.ran == ["pretrain/stage1", "export"]
    assert "kept" not in storage.read_json(storage.join(uri, "pretrain/stage1", "_manifest.json"))


def test_the_guard_looks_through_inputs(uri, world):
    """A cheap stage's code changed; the dear stage after it would run again for nothing else."""
    execute(uri)
    lasted(uri, "pretrain/stage1", 3 * 86400)
    world.code["fake_first"] = {"a.py": "2"}
    world.ran.clear()
    with pytest.raises(UserError, match=r"^pretrain/stage1 \(3 d\) would run again .* \(a\.py\)"):
        execute(uri)
    assert world.ran == []  # not even the cheap one
    execute(uri, keep=["filter"])
    assert world.ran == []


def test_changed_settings_need_no_permission(uri, world):
    execute(uri)
    lasted(uri, "pretrain/stage1", 3 * 86400)
    world.code["fake_second"] = {"a.py": "2"}
    world.ran.clear()
    execute(uri, {"dedup": {"threshold": 0.8}})
    assert world.ran == ["pretrain/stage1", "export"]


def test_the_limit_is_a_key(uri, world):
    execute(uri)
    lasted(uri, "pretrain/stage1", 100)
    world.code["fake_second"] = {"a.py": "2"}
    with pytest.raises(UserError, match=r"run\.guard_minutes: 1"):
        execute(uri, {"run": {"guard_minutes": 1}})
    execute(uri)


def test_a_begun_stage_is_guarded_too_and_goes_on_when_kept(uri, world):
    world.stop = "pretrain/stage1"
    with pytest.raises(KeyboardInterrupt):
        execute(uri)
    storage.write_json(storage.join(uri, "pretrain/stage1", "_progress.json"), {"seconds": 5000.0})
    storage.write_text(storage.join(uri, "pretrain/stage1", "half-way.txt"), "")
    world.stop = None
    world.code["fake_second"] = {"a.py": "2"}
    with pytest.raises(UserError, match=r"pretrain/stage1 \(1 h 23 m\) would run again"):
        execute(uri)
    said = execute(uri, keep=["pretrain/stage1"])
    assert "pretrain/stage1: continues where it stopped" in said
    assert storage.exists(storage.join(uri, "pretrain/stage1", "half-way.txt"))
    manifest = storage.read_json(storage.join(uri, "pretrain/stage1", "_manifest.json"))
    assert manifest["seconds"] >= 5000 and manifest["kept"][0]["changed"] == ["a.py"]
    world.ran.clear()
    execute(uri)
    assert world.ran == []


def test_a_forced_stage_is_kept_aside_too(uri, world):
    execute(uri)
    old = results(uri, "export")
    world.stop = "export"
    with pytest.raises(KeyboardInterrupt):
        execute(uri, start="export")
    assert storage.glob(storage.join(uri, "_superseded", "export", "*", "result", "_manifest.json"))
    world.ran.clear()
    execute(uri)
    assert world.ran == [] and results(uri, "export") == old


def test_keep_needs_something_to_keep_and_the_same_settings(uri, world):
    with pytest.raises(UserError, match="--keep export: nothing of it is there"):
        execute(uri, keep=["export"])
    with pytest.raises(UserError, match="--keep exprot: this recipe has no such stage"):
        execute(uri, keep=["exprot"])
    execute(uri)
    with pytest.raises(UserError, match="--keep pretrain/stage1: it must run again, as recipe key dedup changed"):
        execute(uri, {"dedup": {"threshold": 0.8}}, keep=["pretrain"])


def test_a_run_of_an_earlier_version_is_guarded_too(uri, world):
    execute(uri)
    for stage in LINE:  # it had one hash of all code and no `asked`
        path = storage.join(uri, stage.name, "_manifest.json")
        made = storage.read_json(path)
        made.pop("asked")
        storage.write_json(path, {**made, "code": "0123456789abcdef", "seconds": 4000.0})
    world.code["fake_first"] = {"a.py": "2"}
    with pytest.raises(UserError, match="would run again for a change of code alone"):
        execute(uri)
