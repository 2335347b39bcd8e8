"""`pinisi submit` on a real cluster of `ray start --head` with token authentication: attempts, log, detach, stop, continue."""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from simulated_cluster import wait_for

from train.checkpoint import checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[3]
RECIPE = str(ROOT / "tests" / "e2e" / "tiny.yaml")
OPEN_END = ("train.base.optimiser.checkpoint_every=100000", "train.base.tokens=600_000")  # 293 steps, no checkpoint


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def cluster():
    """Address and environment of a one-node cluster that asks for a token; ended by the numbers of its processes."""
    folder = tempfile.mkdtemp(prefix="pr-", dir="/tmp")  # short: sockets lie below it
    token = secrets.token_hex(16)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PINISI_SAMPLE_DIR"},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": folder,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    port = free_port()
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", "--port", str(free_port())]
    command += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(port), "--node-ip-address", "127.0.0.1"]
    command += ["--ray-client-server-port", str(free_port()), "--dashboard-agent-listen-port", str(free_port())]
    command += ["--min-worker-port", "0", "--max-worker-port", "0", "--object-store-memory", str(100 << 20)]
    with open(f"{folder}/start.log", "wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            assert head.poll() is None and time.monotonic() < deadline, Path(folder, "start.log").read_text()
            time.sleep(0.3)
    yield f"http://127.0.0.1:{port}", environment
    processes = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=60)
    head.wait()
    shutil.rmtree(folder, ignore_errors=True)


def pinisi(environment, *arguments):
    command = [sys.executable, "-m", "ray_jobs.cli", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process, code=0, seconds=400):
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == code, out + err
    return out, err


def test_without_the_token_nobody_gets_in(cluster, tmp_path):
    address, environment = cluster
    submit = ("submit", RECIPE, "--address", address, "--run-dir", str(tmp_path))
    _, err = ended(pinisi({**environment, "RAY_AUTH_TOKEN": secrets.token_hex(16)}, *submit), 2)
    assert f"{address}: the cluster wants its token: export RAY_AUTH_MODE=token" in err and err.count("\n") == 1
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{address}/api/jobs/")
    _, err = ended(pinisi(environment, *submit[:-1], "runs/here"), 2)
    assert "--run-dir must be a place that every node reaches, such as s3://BUCKET/runs/tiny" in err
    _, err = ended(pinisi(environment, *submit[:3], f"http://127.0.0.1:{free_port()}", *submit[4:]), 2)
    assert "no Ray dashboard answers" in err and err.count("\n") == 1


def test_run_joins_the_cluster_that_this_user_started(cluster, tmp_path):
    _, environment = cluster
    run = (
        "run",
        RECIPE,
        "--run-dir",
        str(tmp_path),
        "--until",
        "crawl",
        "--set",
        "cluster.engine=local",
        "--address",
        "auto",
    )
    _, err = ended(pinisi({**environment, "RAY_AUTH_TOKEN": secrets.token_hex(16)}, *run), 2)
    assert "the cluster wants its token" in err and err.count("\n") == 1
    _, err = ended(pinisi({**environment, "RAY_TMPDIR": str(tmp_path)}, *run), 2)  # a Ray that only runs is not joined
    assert "--address auto: RAY_ADDRESS is not set, and no `ray start`" in err and err.count("\n") == 1
    assert not (tmp_path / "crawl").exists()
    out, _ = ended(pinisi(environment, *run))
    where = re.escape(f"{environment['RAY_TMPDIR']}/ray/ray_current_cluster")
    assert re.search(rf"^joined the Ray cluster at [\d.:]+ \(of {where}\): 1 node, 2 CPUs, 0 GPUs$", out, re.M)
    assert re.search(r"^crawl: done in ", out, re.M)


def test_attempts_of_a_run(cluster, tmp_path):
    address, environment = cluster
    run = tmp_path / "run"
    settings = ("cluster.engine=local", *OPEN_END)
    sets = [text for setting in settings for text in ("--set", setting)]
    submit = ("submit", RECIPE, "--address", address, "--run-dir", str(run), *sets, "--no-code", "--until")

    with_code = [text for text in submit if text != "--no-code"]
    out, _ = ended(pinisi(environment, *with_code, "crawl"))
    assert "submitted tiny-1; `ray job logs" in out and re.search(r"^crawl: done in .* documents in", out, re.M)
    assert re.search(r"^joined the Ray cluster at [\d.:]+ \(of RAY_ADDRESS\): 1 node, 2 CPUs, 0 GPUs$", out, re.M)
    assert (run / "crawl" / "_manifest.json").exists() and not (run / "extract").exists()

    following = pinisi(environment, *submit, "base")
    wait_for((run / "extract" / "_started.json").exists)
    following.send_signal(signal.SIGINT)  # the log is left, the job goes on
    _, err = ended(following)
    assert f"tiny-2 goes on; `ray job logs --address {address} --follow tiny-2` follows it" in err
    _, err = ended(pinisi(environment, *submit, "base"), 2)
    assert "attempt tiny-2 still works on it" in err

    rows = {row["name"]: row for row in json.loads(ended(pinisi(environment, "status", str(run), "--json"))[0])}
    assert rows["crawl"]["state"] == "done" and "running" in {row["state"] for row in rows.values()}

    wait_for((run / "metrics" / "base.jsonl").exists)
    rows = {row["name"]: row for row in json.loads(ended(pinisi(environment, "status", str(run), "--json"))[0])}
    assert rows["base"]["state"] == "running"
    assert rows["base"]["progress"]["total"] == 293 and rows["base"]["progress"]["unit"] == "steps"
    ray = subprocess.run(
        ["ray", "job", "stop", "--address", address, "tiny-2"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ray.returncode == 0 and "stopped" in ray.stdout + ray.stderr
    newest = checkpoint.latest(str(run / "base" / "checkpoints"))
    assert newest is not None and 0 < newest.step < 293  # written because of the stop

    out, _ = ended(pinisi(environment, *submit, "base"))
    assert "submitted tiny-3" in out and "base: continues where it stopped" in out
    assert json.loads((run / "base" / "_manifest.json").read_text())["resumed_from"] == newest.step

    log = subprocess.run(
        ["ray", "job", "logs", "--address", address, "tiny-2"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "crawl: runs again" not in log.stdout and "extract: done" in log.stdout
