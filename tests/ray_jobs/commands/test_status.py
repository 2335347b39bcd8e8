"""`pinisi status` from another machine than the run's: manifests, the progress file and shard markers say everything; what is
left of the run is told as far as it is known."""

import json
import time

import pytest
from rich.console import Console

from cluster import storage
from ray_jobs.commands import status, time_left
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.run import lock, superseded
from ray_jobs.run.fingerprint import digest
from ray_jobs.run.progress import Progress
from ray_jobs.run.run import Run

RECIPE = {"name": "far", "sources": [{"name": "s", "type": "jsonl", "path": "/only/there/*.jsonl", "optional": True}]}


@pytest.fixture(params=["folder", "memory"])
def run(request, tmp_path):
    """A run whose crawl was done on another host with other code, and whose extract is under way there."""
    uri = str(tmp_path) if request.param == "folder" else f"memory://{tmp_path.name}"
    run = Run(uri, recipes.parse(RECIPE, "test"))
    storage.write_text(storage.join(uri, "recipe.yaml"), recipes.resolved(run.recipe))
    crawl = run.stages[0]
    config = recipes.all_fingerprinted(run.recipe, crawl.config)
    manifest = {"fingerprint": "f", "config": config, "inputs": {}, "code": "older", "hosts": ["head"], "docs_out": 9}
    storage.write_json(storage.join(uri, "crawl", "_manifest.json"), manifest | {"config_hash": digest(config)})
    for number in range(4):
        storage.write_bytes(storage.join(uri, "crawl", f"part-{number:05d}.parquet"), b"")
    storage.write_json(storage.join(uri, "extract", "_started.json"), {"fingerprint": "g"})
    return run


def states(run):
    return {row["name"]: row["state"] for row in status.rows(run)}


def test_states_without_the_files_and_code_of_the_run(run, monkeypatch):
    assert [states(run)[name] for name in ("crawl", "extract", "language")] == ["done", "started", "waiting"]
    holder = {"host": "head", "pid": 1, "started": 0.0, "holder": "x", "beat": 1, "at": lock.time.time()}
    storage.write_json(storage.join(run.uri, "_lock.json"), holder)
    assert states(run)["extract"] == "running"
    storage.write_json(storage.join(run.uri, "_lock.json"), holder | {"at": lock.time.time() - 3600})
    assert states(run)["extract"] == "started"
    changed = Run(run.uri, recipes.parse({**RECIPE, "crawl": {"max_bad_share": 0.1}}, "test"))
    assert states(changed)["crawl"] == "changed"


HOLDER = {"host": "head", "pid": 1, "started": 0.0, "holder": "x", "beat": 1}


def hold(run, **more):
    """As if somebody on another machine worked on the run."""
    storage.write_json(storage.join(run.uri, "_lock.json"), {**HOLDER, "at": time.time(), **more})


def extract(run):
    return next(row for row in status.rows(run) if row["name"] == "extract")


def test_progress_of_shards_and_of_the_running_stage(run, monkeypatch):
    storage.write_text(storage.join(run.uri, "extract", "_shards", "part-00000.json"), "{}")
    found = extract(run)["progress"]
    assert (found["done"], found["total"], found["unit"], found["per_second"]) == (1, 4, "shards", None)
    monkeypatch.setattr("ray_jobs.run.progress.EVERY_SECONDS", 0.0)
    clock = [0.0]
    hold(run)
    with Progress("extract", lambda line: None, storage.join(run.uri, "extract"), lambda: clock[0]) as progress:
        progress.start(4, "shards")
        clock[0] = 4.0
        progress.set(1)
        assert status._under_way(extract(run)) == "extract: 1/4 shards"  # it may have been the start that took so long
        clock[0] = 10.0
        progress.set(3)
        row = extract(run)
        found = row["progress"]
        assert (found["done"], found["total"], found["per_second"], found["seconds_left"]) == (
            3,
            4,
            pytest.approx(1 / 3, abs=1e-6),
            3,
        )
        assert (row["seconds_left"], row["estimate"]) == (3, "its progress")
        assert status._under_way(row) == "extract: 3/4 shards, 20/min, about 3 s left"
        storage.write_json(storage.join(run.uri, "_lock.json"), {**HOLDER, "at": 0.0})
        assert status._under_way(extract(run)) == "extract: stopped at 3/4 shards"
    assert not storage.exists(storage.join(run.uri, "extract", "_progress.json"))


def test_another_machine_computes_the_same_time_left(run):
    """Of 586 steps 324 were done before; 44 since, in 20 s. Both clocks are those of the machine that runs."""
    written = {"done": 368, "total": 586, "unit": "steps", "before": 324, "lately": [22, 10.0], "at": 5000.0}
    storage.write_json(storage.join(run.uri, "extract", "_progress.json"), written)
    storage.write_json(storage.join(run.uri, "_lock.json"), {**HOLDER, "at": 5008.0})
    assert extract(run)["progress"]["per_second"] == 2.2  # nobody lives, by the clock here; it will go on like this
    hold(run, at=time.time() + 8)
    written["at"] = time.time()
    storage.write_json(storage.join(run.uri, "extract", "_progress.json"), written)
    assert extract(run)["progress"]["seconds_left"] == 99
    hold(run, at=time.time() + 30)  # 20 s more than between two reports: it has become slower, or stands
    assert extract(run)["progress"]["seconds_left"] == pytest.approx(218 * 30 / 22, rel=0.05)
    hold(run, started=time.time() + 1)  # a new process that has not come to its first step
    assert extract(run)["progress"]["per_second"] is None
    assert status._under_way(extract(run)) == "extract: 368/586 steps"


def test_a_file_of_an_earlier_version_has_no_rate(run):
    old = {"done": 3, "total": 4, "unit": "shards", "seconds": 1.0}
    storage.write_json(storage.join(run.uri, "extract", "_progress.json"), old)
    assert extract(run)["progress"] == {
        "done": 3,
        "total": 4,
        "unit": "shards",
        "per_second": None,
        "seconds_left": None,
    }


def test_what_is_left_of_the_run_is_known_as_far_as_stages_have_run_here(run):
    rows = status.rows(run)
    waiting = [row["name"] for row in rows if row["state"] != "done"]
    names = ", ".join(waiting)
    assert time_left.left(rows) == f"run: nobody works on it; {len(waiting)} stages not estimated ({names})"
    hold(run)
    for stage, fingerprint, seconds in (("dedup", "older", 5.0), ("dedup", "old", 3600.0), ("language", "old", 600.0)):
        storage.write_json(
            storage.join(run.uri, stage, "_manifest.json"), {"fingerprint": fingerprint, "seconds": seconds}
        )
        superseded.set_aside(run.uri, stage)
    report = {"done": 1, "total": 3, "unit": "shards", "before": 0, "lately": [1, 90.0], "at": time.time()}
    storage.write_json(storage.join(run.uri, "extract", "_progress.json"), report)
    rows = status.rows(run)
    found = {row["name"]: (row["seconds_left"], row["estimate"]) for row in rows if row["state"] != "done"}
    assert found["extract"] == (180, "its progress") and found["dedup"] == (3600, "the last time")
    assert found["quality"] == (None, None) and "seconds_left" not in rows[0]
    said = time_left.left(rows, names=False)
    assert said == f"run: about 1 h 13 m left (by the last time) + {len(waiting) - 3} stages not estimated"
    for row in rows:
        row |= {"state": "done", "seconds": 60}
    assert time_left.left(rows) == f"run: done, {len(rows)} m of stages"


def test_pre_training_is_estimated_by_the_speed_of_its_other_stage(tmp_path):
    sizes = [f"train.pretrain.{stage}.tokens={tokens}" for stage, tokens in (("stage1", 200_000), ("stage2", 64_000))]
    run = Run(str(tmp_path), recipes.load("demo", sizes))
    pretrain = run.recipe.train.pretrain
    rows = [
        {"name": "pretrain/stage1", "state": "done", "tokens": pretrain.stage1.tokens, "seconds": 300.0},
        {"name": "pretrain/stage2", "state": "changed", "tokens": 7, "seconds": 1.0},  # what is measured now says more
        {"name": "control/stage2", "state": "changed", "tokens": 7, "seconds": 44.0},
        {"name": "dpo/on_policy", "state": "done", "tokens": None, "seconds": 77.0},
        {"name": "dpo/on_policy_2", "state": "waiting", "tokens": None, "seconds": None},
    ]
    time_left.estimate(run, rows)
    found = [(row["seconds_left"], row["estimate"]) for row in rows if row["state"] != "done"]
    seconds = round(pretrain.stage2.tokens / pretrain.stage1.tokens * 300)
    assert found[0] == (seconds, "the speed of pretrain/stage1")
    assert found[1:] == [(44, "the last time"), (77, "the time of dpo/on_policy")]
    under_way = {"done": 10, "total": 100, "unit": "steps", "per_second": 2.0, "seconds_left": 45}
    rows[0] |= {"state": "running", "progress": under_way}
    time_left.estimate(run, rows)
    per_second = 2.0 * pretrain.stage1.rows_per_step * run.recipe.train.context
    assert rows[1]["seconds_left"] == round(pretrain.stage2.tokens / per_second)


def test_a_budget_of_auto_is_estimated_once_the_mixture_is_planned(tmp_path):
    run = Run(str(tmp_path), recipes.load("demo", ["train.pretrain.stage2.tokens=auto"]))
    rows = [
        {"name": "pretrain/stage1", "state": "done", "tokens": 200_000, "seconds": 100.0},
        {"name": "pretrain/stage2", "state": "waiting", "tokens": None, "seconds": None},
    ]
    time_left.estimate(run, rows)
    assert rows[1]["seconds_left"] is None
    storage.write_json(storage.join(run.uri, "mixture", "plan.json"), {"stage2": {"tokens": 50_000}})
    time_left.estimate(run, rows)
    assert (rows[1]["seconds_left"], rows[1]["estimate"]) == (25, "the speed of pretrain/stage1")


def test_watching_in_a_pipe_prints_a_line_for_each_change_and_ends_with_the_run(run, monkeypatch, capsys):
    hold(run)
    report = {"done": 1, "total": 4, "unit": "shards", "before": 0, "lately": [1, 90.0], "at": time.time()}
    storage.write_json(storage.join(run.uri, "extract", "_progress.json"), report)
    steps = iter([None, report | {"done": 2}, None, "end"])

    def sleep(seconds):
        assert seconds == 5
        step = next(steps)
        if step == "end":
            storage.remove(storage.join(run.uri, "_lock.json"))
        elif step:
            storage.write_json(storage.join(run.uri, "extract", "_progress.json"), step)

    monkeypatch.setattr(status.time, "sleep", sleep)
    assert status.watch(run.uri, 5) == 1  # it ended before its last stage
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("; ")[0] for line in lines] == [
        "crawl: done",
        "extract: 1/4 shards, 40/h, about 4 m 30 s left",
        "extract: 2/4 shards, 40/h, about 3 m left",
        "extract: stopped at 2/4 shards",
    ]
    assert lines[1].startswith("extract: 1/4 shards, 40/h, about 4 m 30 s left; run: about 4 m 30 s left + ")
    assert "nobody works on it" in lines[-1]


def test_watching_on_a_terminal_draws_the_table_anew_and_ctrl_c_ends_it(run, monkeypatch, capsys):
    hold(run)
    monkeypatch.setattr(status, "Console", lambda: Console(force_terminal=True))
    calls = iter([None, KeyboardInterrupt])

    def sleep(seconds):
        if error := next(calls):
            raise error

    monkeypatch.setattr(status.time, "sleep", sleep)
    assert status.watch(run.uri, 5) == 130
    shown = capsys.readouterr().out
    assert shown.count("\x1b[2J") == 2 and shown.count("stage ") == 2


def test_watching_as_json_and_a_store_that_fails_for_a_moment(run, monkeypatch, capsys):
    hold(run)
    calls = []

    def sleep(seconds):
        calls.append(seconds)
        if len(calls) == 1:
            monkeypatch.setattr(status.lock, "alive", failing)
        elif len(calls) == 3:
            monkeypatch.setattr(status.lock, "alive", lambda uri: False)

    def failing(uri):
        raise OSError("for a moment")

    monkeypatch.setattr(status.time, "sleep", sleep)
    assert status.watch(run.uri, 1, as_json=True) == 1
    first, *_ = capsys.readouterr().out.splitlines()
    assert [row["name"] for row in json.loads(first)][:2] == ["crawl", "extract"] and len(calls) == 3
    with pytest.raises(UserError, match="no run here"):
        status.watch(run.uri + "-not", 1)


def test_a_done_run_is_watched_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(status, "rows", lambda run: [{"name": "crawl", "state": "done", "seconds": 3.0}])
    monkeypatch.setattr(status, "open_run", lambda uri: None)
    assert status.watch(str(tmp_path), 5) == 0
    assert capsys.readouterr().out == "crawl: done in 3 s\nrun: done, 3 s of stages\n"
