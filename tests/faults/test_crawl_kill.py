"""A crawl killed with SIGKILL: the same command continues, asks no index again, and its files are those of an undisturbed run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from commoncrawl_site import Server, Snapshot, build, faults, pages

from cluster import storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).parent.parent.parent


def command(tmp_path, name, base):
    recipe = {
        "name": name,
        "cluster": {"cpus": 2},
        "crawl": {"shard_bytes": 40_000},
        "fetch": {
            "base": base,
            "contact": "crawl@example.org",
            "gap_bytes": 2000,
            "requests_per_second": 30.0,
            "concurrency": 4,
            "timeout_seconds": 5.0,
        },
        "sources": [
            {
                "name": "cc",
                "type": "commoncrawl",
                "snapshots": "CC-MAIN-2024-18",
                "select": {"tlds": ["kh", "la", "id"]},
            }
        ],
    }
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ["run", str(tmp_path / f"{name}.yaml"), "--run-dir", str(tmp_path / name), "--until", "crawl"]
    return [sys.executable, "-m", "ray_jobs.cli", *arguments]


def files(uri):
    return {
        str(path.relative_to(uri)): path.read_bytes()
        for part in ("crawl", "dropped/crawl")
        for path in sorted(Path(uri, part).rglob("*"))
        if path.suffix == ".parquet" or path.parent.name == "_shards"
    }


def test_killed_and_continued(tmp_path):
    site = tmp_path / "site"
    build(site, [Snapshot("CC-MAIN-2024-18", [pages(40, seed=i, kilobytes=8) for i in range(5)])])
    subprocess.run(command(tmp_path, "whole", str(site)), cwd=ROOT, check=True, timeout=200)
    out = tmp_path / "killed" / "crawl"
    with Server(site, fault=faults(0.1, ("short", "drop", "corrupt")), latency_seconds=0.05) as server:
        run = subprocess.Popen(command(tmp_path, "killed", server.url), cwd=ROOT)
        deadline = time.monotonic() + 150
        while len(list(out.glob("_shards/*.json"))) < 3:
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        # the node's two agents notice a minute later that they are alone; they write nothing of ours
        family = [p for p in psutil.Process(run.pid).children(recursive=True) if "Agent" not in p.name()]
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive  # the private Ray ended with its driver
        done = len(list(out.glob("_shards/*.json")))
        plan = storage.read_json(str(next(out.glob("_plan/*/plan.json"))))
        assert 3 <= done < plan["shards"]
        before = len(server.log)
        subprocess.run(command(tmp_path, "killed", server.url), cwd=ROOT, check=True, timeout=200)
        again = server.log[before:]
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert not any("cc-index" in seen.path for seen in again)  # the plan is there
    fetched = {(seen.path, seen.start) for seen in again if "crawl-data" in seen.path and seen.start >= 0}
    assert len(fetched) < plan["ranges"]
    assert not list(out.rglob("*.tmp"))
