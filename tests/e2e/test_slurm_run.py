"""Runs through a real slurmctld and two slurmd on loopback (tests/slurm_daemons.py): what is stopped goes on by itself, and the
bytes are those of the run that nobody disturbed."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm_daemons
import yaml

from ray_jobs.config import reader as recipes
from ray_jobs.config.reader import SAMPLE
from ray_jobs.errors import UserError
from ray_jobs.run.job import Share
from ray_jobs.run.run import Run
from ray_jobs.work import alone

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(slurm_daemons.MISSING), reason=slurm_daemons.MISSING),
]

ROOT = Path(__file__).parents[2]
RECIPE = """
name: micro
languages: [th, id, en]
sources:
  - {name: th, type: warc, path: "${PINISI_SAMPLE_DIR}/warc/th.warc.gz"}
  - {name: id, type: warc, path: "${PINISI_SAMPLE_DIR}/warc/id.warc.gz"}
  - {name: en, type: warc, path: "${PINISI_SAMPLE_DIR}/warc/en.warc.gz"}
tokenize: {tokenizer: train, vocab_size: 600, train_bytes: 200_000, heldout_share: 0.06, heldout_bytes_per_language: 4000}
mixture: {replay_languages: [en], max_epochs: 400}
cluster: {engine: local, cpus: 1}
train:
  context: 64
  workers: 1
  device: cpu
  exact: true
  eval_every: 10000
  eval_bytes_per_language: 500
  base:
    shape: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 2, intermediate_size: 64}
    languages: [en]
    tokens: 120_000
    optimiser: {rows_per_step: 4, lr: 4e-3, schedule: cosine, warmup_steps: 2, checkpoint_every: 100_000}
  pretrain:
    stage1: {tokens: 10_000, rows_per_step: 4}
    stage2: {tokens: 5000, rows_per_step: 4, schedule: cosine}
"""
GROUP = {"name": "all", "role": "cpu", "cpus": 1, "memory_gb": 1, "max_nodes": 1}
SLURM = {"ray": False, "partition": "main", "time": "10:00", "checkpoint_seconds": 120, "array": 2, "shared": ["/"]}
OWN = re.compile(r"/_|/metrics/|/report/|/recipe.yaml$")
"""Files that hold times, or are of Slurm."""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with slurm_daemons.running(tmp_path_factory.mktemp("slurm")) as environment:
        yield {**environment, "PINISI_SAMPLE_DIR": str(SAMPLE), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "micro.yaml"
    path.write_text(RECIPE)
    return path


def pinisi(slurm, *arguments):
    command = [sys.executable, "-m", "ray_jobs.cli", *map(str, arguments)]
    done = subprocess.run(command, env=slurm, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def undisturbed(slurm, recipe, tmp_path_factory):
    """A run of one process, without Slurm; and a copy of it as it was before training."""
    folder = tmp_path_factory.mktemp("undisturbed")
    pinisi(slurm, "run", recipe, "--without-ray", "--run-dir", folder / "run", "--until", "mixture")
    shutil.copytree(folder / "run", folder / "curated")
    pinisi(slurm, "run", recipe, "--without-ray", "--run-dir", folder / "run", "--until", "base")
    return folder


@pytest.fixture(scope="module")
def whole(slurm, recipe, undisturbed):
    """The same run with all that comes after training."""
    shutil.copytree(undisturbed / "run", undisturbed / "whole")
    pinisi(slurm, "run", recipe, "--without-ray", "--run-dir", undisturbed / "whole")
    return undisturbed / "whole"


def submit(slurm, recipe, run_dir, *more, groups=(GROUP,), **keys):
    """The numbers of the jobs, by their names."""
    file = run_dir.parent / "lab.yaml"
    own = {"name": "lab", "run_dir": str(run_dir.parent), "groups": list(groups), "slurm": {**SLURM, **keys}}
    file.write_text(yaml.safe_dump(own))
    said = pinisi(slurm, "submit", recipe, "--slurm", file, "--run-dir", run_dir, *more)
    return dict(re.findall(r"submitted (\S+): job (\d+)", said))


def ended(slurm, jobs, run_dir, seconds):
    """Wait until the queue has none of them; their states."""
    deadline = time.monotonic() + seconds
    while subprocess.run(
        ["squeue", "-h", "-j", ",".join(jobs)], env=slurm, capture_output=True, check=False
    ).stdout.strip():
        assert time.monotonic() < deadline, logs(run_dir)
        time.sleep(0.3)
    return {job: state(slurm, job) for job in jobs}


def state(slurm, job):
    shown = subprocess.run(["scontrol", "show", "job", job], env=slurm, capture_output=True, text=True, check=False)
    return re.search(r"JobState=(\S+)", shown.stdout)[1]


def logs(run_dir):
    return "".join(f"--- {path.name}\n{path.read_text()}" for path in sorted((run_dir / "_slurm").glob("*.log")))


def files(run_dir):
    """Path -> bytes, of what the run has made; of manifests what is neither time nor place."""
    found = {}
    for path in sorted(run_dir.rglob("*")):
        name = f"/{path.relative_to(run_dir)}"
        if not path.is_file() or OWN.search(name):
            continue
        found[name] = path.read_bytes()
    return found


def same(run_dir, other):
    mine, others = files(run_dir), files(other)
    assert mine.keys() == others.keys()
    assert [name for name in mine if mine[name] != others[name]] == []
    assert any(name.endswith("base/model/model.safetensors") for name in mine)


def steps_done(run_dir):
    path = run_dir / "metrics" / "base.jsonl"
    rows = path.read_text().splitlines() if path.exists() else []
    return json.loads(rows[-1])["step"] if rows else 0


def test_shares_of_stages_leave_nothing_to_do_and_give_the_same_bytes(recipe, undisturbed, tmp_path, monkeypatch):
    """As the tasks of an array do them, here one after another in one process."""
    monkeypatch.setenv("PINISI_SAMPLE_DIR", str(SAMPLE))
    run = Run(str(tmp_path / "run"), recipes.load(str(recipe)))
    quiet = {"say": lambda line: None}
    try:
        for name in ("crawl", "extract", "language", "filter/signals", "filter/policy"):
            with pytest.raises(UserError, match="--begin does that"):
                run.share(name, Share(0, 2), **quiet)
            run.execute(only=name, begin=True, ray=False, **quiet)
            for number in (1, 0):
                assert run.share(name, Share(number, 2), **quiet)
            assert len(list((tmp_path / "run" / name / "_shards").glob("*.json"))) == 3
            made = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / name).glob("*.parquet")}
            assert len(made) == 3
            run.execute(only=name, ray=False, **quiet)
            assert {path: path.stat().st_mtime_ns for path in made} == made
            assert not run.share(name, Share(0, 2), **quiet)
    finally:
        alone.stop()
    mine, others = files(tmp_path / "run"), files(undisturbed / "curated")
    assert [name for name in mine if mine[name] != others[name]] == []
    assert {name for name in others if name.startswith(("/crawl/", "/filter/", "/dropped/filter"))} <= mine.keys()


@pytest.mark.parametrize("times", [1, pytest.param(3, marks=pytest.mark.cluster)])
def test_training_under_torchrun_is_stopped_by_its_signal_and_ends_with_the_same_bytes(
    slurm, recipe, undisturbed, tmp_path, times
):
    """The signal is sent by `scancel --signal`, as Slurm sends it before a time limit, which is minutes at least."""
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed / "curated", run_dir)
    (job,) = submit(slurm, recipe, run_dir).values()  # what is done needs no job
    before = 0
    for number in range(times):
        deadline = time.monotonic() + 120
        while steps_done(run_dir) <= before:
            assert time.monotonic() < deadline and state(slurm, job) != "FAILED", logs(run_dir)
            time.sleep(0.05)
        subprocess.run(["scancel", "--signal=USR1", "--batch", job], env=slurm, check=True)
        while logs(run_dir).count("in the queue again") <= number:
            assert time.monotonic() < deadline, logs(run_dir)
            time.sleep(0.05)
        before = steps_done(run_dir)
    manifest = run_dir / "base" / "_manifest.json"
    deadline = time.monotonic() + 200
    while not manifest.exists():
        assert time.monotonic() < deadline and state(slurm, job) != "FAILED", logs(run_dir)
        time.sleep(0.1)
    subprocess.run(["scancel", job], env=slurm, check=True)  # what comes after training takes its time
    assert ended(slurm, [job], run_dir, 60) == {job: "CANCELLED"}, logs(run_dir)
    assert logs(run_dir).count("time is over") == logs(run_dir).count("base: continues where it stopped") == times
    assert json.loads(manifest.read_text())["attempt"] == f"slurm-{job}.{times}"
    shutil.rmtree(run_dir / "pretrain", ignore_errors=True)  # begun before it heard of that
    same(run_dir, undisturbed / "run")


@pytest.mark.cluster
@pytest.mark.timeout(1800)
def test_time_limits_of_slurm_itself_change_no_byte(slurm, recipe, undisturbed, tmp_path):
    """Three minutes, of which the last is for a checkpoint; Slurm's signal comes up to a minute earlier. As much training as
    takes this machine four such times."""
    rows = [json.loads(line) for line in (undisturbed / "run" / "metrics" / "base.jsonl").read_text().splitlines()]
    pace = (rows[-1]["tokens"] - rows[0]["tokens"]) / (rows[-1]["seconds"] - rows[0]["seconds"])
    long = ["--set", f"train.base.tokens={int(240 * pace)}"]
    for name in ("run", "whole"):
        shutil.copytree(undisturbed / "curated", tmp_path / name)
    (job,) = submit(slurm, recipe, tmp_path / "run", *long, time="3:00", checkpoint_seconds=60).values()
    assert ended(slurm, [job], tmp_path / "run", 1200) == {job: "COMPLETED"}, logs(tmp_path / "run")
    assert logs(tmp_path / "run").count("time is over") >= 3
    pinisi(slurm, "run", recipe, *long, "--without-ray", "--run-dir", tmp_path / "whole")
    same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.cluster
def test_arrays_and_two_nodes_of_torchrun_give_the_bytes_of_one_process(slurm, recipe, whole, tmp_path):
    run_dir = tmp_path / "run"
    two = {**GROUP, "max_nodes": 2}
    jobs = submit(slurm, recipe, run_dir, "--set", "train.workers=2", groups=[two])
    assert {"before-crawl", "crawl", "filter-policy", "curate", "train"} <= jobs.keys()
    assert ended(slurm, [jobs["train"]], run_dir, 800) == {jobs["train"]: "COMPLETED"}, logs(run_dir)
    same(run_dir, whole)
    assert "nothing to do: every stage is done" in pinisi(
        slurm, "submit", recipe, "--slurm", tmp_path / "lab.yaml", "--run-dir", run_dir, "--set", "train.workers=2"
    )


@pytest.mark.cluster
def test_a_ray_of_two_nodes_lives_and_ends_with_its_job(slurm, recipe, undisturbed, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed / "curated", run_dir)
    two = {**GROUP, "max_nodes": 2}
    (job,) = submit(slurm, recipe, run_dir, "--until", "base", groups=[two], ray=True).values()
    assert ended(slurm, [job], run_dir, 400) == {job: "COMPLETED"}, logs(run_dir)
    assert "2 nodes, 2 CPUs" in logs(run_dir)
    same(run_dir, undisturbed / "run")
    left = subprocess.run(["pgrep", "-f", f"pinisi-{job}-"], capture_output=True, text=True, check=False).stdout
    assert not left, "processes of the job's Ray are left"
    assert not list(Path("/tmp").glob(f"pinisi-{job}-*"))
