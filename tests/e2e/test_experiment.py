"""An experiment as a user runs it: killed once on the way, continued, then its page is read and two of its arms compared."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ray_jobs.config.reader import SAMPLE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent.parent
FILE = str(Path(__file__).parent / "experiment.yaml")
ENVIRONMENT = {**os.environ, "PINISI_SAMPLE_DIR": str(SAMPLE)}
COMMAND = [sys.executable, "-m", "ray_jobs.cli"]


def pinisi(*arguments):
    found = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, timeout=500, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """(folder, what was said) of a finished experiment that was killed by SIGKILL while an arm trained."""
    uri = tmp_path_factory.mktemp("runs") / "smallest"
    process = subprocess.Popen(
        [*COMMAND, "experiment", FILE, "--run-dir", str(uri)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    started, deadline = uri / "without/42/sft/stage1/_started.json", time.monotonic() + 300
    while not started.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return uri, pinisi("experiment", FILE, "--run-dir", str(uri))


def test_it_goes_on_and_makes_what_is_equal_once(experiment):
    uri, said = experiment
    done = [line.split(":")[0] for line in said.splitlines() if ": done in " in line]
    trained = ["expand", "pretrain/stage1", "pretrain/stage2", "sft/stage1", "evaluate", "tasks"]
    assert done == ["sft/stage1", "evaluate", "tasks", "mixture", *trained]
    adopted = json.loads((uri / "with/42/_adopted.json").read_text())
    assert {stage for stage in adopted if adopted[stage] == str(uri / "without/42")} >= {"crawl", "tokenize", "base"}
    assert not (uri / "with/42/tokenize").exists()


def test_the_page_answers_or_says_that_it_cannot(experiment):
    uri, said = experiment
    page, found = (uri / "index.html").read_text(), json.loads((uri / "comparison.json").read_text())
    assert "<script" not in page and found["sentences"]
    assert all(sentence in page for sentence in found["sentences"])
    titles = {table["title"] for table in found["tables"]}
    assert "bits per byte" in titles and len(titles) > 1
    assert found["costs"]["with"]["42"]["flops"] > found["costs"]["without"]["42"]["flops"] > 0
    assert "one seed cannot show" in said or "no difference shown" in said


def test_two_arms_are_two_runs(experiment, tmp_path):
    uri, _ = experiment
    runs = [str(uri / arm / "42") for arm in ("without", "with")]
    found = json.loads(pinisi("compare", *runs, "--json", "--html", str(tmp_path / "page.html")))
    keys = {row[0] for fact in found["facts"] if "recipes" in fact["title"] for row in fact["rows"]}
    assert keys == {"train.expand", "train.pretrain"}
    assert (tmp_path / "page.html").exists()
    assert "pretrain/stage2" in pinisi("status", runs[1]) and "report:" in pinisi("report", runs[1])
