"""`pinisi status` from another machine than the run's: manifests, the progress file and shard markers say everything."""

import pytest

from cluster import storage
from ray_jobs.commands import status
from ray_jobs.config import reader as recipes
from ray_jobs.run import lock
from ray_jobs.run.fingerprint import digest
from ray_jobs.run.progress import Progress
from ray_jobs.run.run import Run

RECIPE = {"name": "far", "sources": [{"name": "s", "type": "jsonl", "path": "/only/there/*.jsonl", "optional": True}]}


@pytest.fixture(params=["folder", "memory"])
def run(request, tmp_path):
    """A run whose crawl was done on another host with other code, and whose extract is under way there."""
    uri = str(tmp_path) if request.param == "folder" else f"memory://{tmp_path.name}"
    run = Run(uri, recipes.parse(RECIPE, "test"))
    crawl = run.stages[0]
    config = {key: recipes.lookup(run.recipe, key) for key in crawl.config}
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


def test_progress_of_shards_and_of_the_running_stage(run, monkeypatch):
    storage.write_text(storage.join(run.uri, "extract", "_shards", "part-00000.json"), "{}")
    found = status.rows(run)[1]["progress"]
    assert (found["done"], found["total"], found["unit"], found["per_second"]) == (1, 4, "shards", None)
    monkeypatch.setattr("ray_jobs.run.progress.EVERY_SECONDS", 0.0)
    with Progress("extract", lambda line: None, storage.join(run.uri, "extract")) as progress:
        progress.start(4, "shards")
        progress.begin -= 10.0  # ten seconds ago
        progress.set(3)
        found = status.rows(run)[1]["progress"]
        assert (found["done"], found["total"], found["per_second"], found["seconds_left"]) == (3, 4, 0.3, 3)
        assert "3/4 shards, 0.3/s, 3 s left" in status._so_far(found)
    assert not storage.exists(storage.join(run.uri, "extract", "_progress.json"))
