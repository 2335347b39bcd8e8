"""Proxy runs killed with SIGKILL: the same command trains what is missing, and the table is that of an undisturbed run."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import regmix_run
from killed import kill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parent.parent.parent


def start(folder):
    command = [sys.executable, "-m", "ray_jobs.stages", "regmix/proxies", "--run-dir", str(folder / "run")]
    return subprocess.Popen(command, cwd=ROOT)


def made(folder):
    return {path.name: path for path in (folder / "run/regmix/proxies/runs").glob("proxy-*.json")}


def test_killed_and_continued(tmp_path):
    settings = {"tokens": 8_000, "group": 2}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    regmix_run.build(whole, **settings)
    assert start(whole).wait(timeout=400) == 0
    regmix_run.build(killed, **settings)
    run = start(killed)
    deadline = time.monotonic() + 350
    while len(made(killed)) < 4:
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    kill(run)
    before = {name: (path.stat().st_mtime_ns, path.read_bytes()) for name, path in made(killed).items()}
    assert 4 <= len(before) < 16
    assert start(killed).wait(timeout=400) == 0
    after = made(killed)
    assert len(after) == 16
    finished = [name for name in before if all(f"proxy-{n:05}.json" in before for n in pair(name))]
    assert finished
    for name in finished:  # groups that were whole are not trained again
        assert (after[name].stat().st_mtime_ns, after[name].read_bytes()) == before[name]
    table = "run/regmix/proxies/mixtures.parquet"
    assert (killed / table).read_bytes() == (whole / table).read_bytes()


def pair(name):
    """The numbers of the two proxies that are trained together."""
    number = int(name.removeprefix("proxy-").removesuffix(".json"))
    return number // 2 * 2, number // 2 * 2 + 1
