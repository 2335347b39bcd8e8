"""A failing task ends the others and never the driver."""

import signal
import subprocess
import sys
import time

import pytest

from cluster.engines import embedded
from cluster.engines.on_ray import run_tasks

FAILS_OFTEN = """
import time
from cluster.engines import embedded
from cluster.engines.on_ray import run_tasks

def work(n):
    if n == 9:
        raise ValueError("nine")
    time.sleep(0.001 * (n % 3))
    return {}

embedded.start(cpus=4)
for _ in range(100):  # with ray.cancel in place of the flag, the driver died in the first dozens
    try:
        run_tasks(work, range(40))
    except ValueError as error:
        assert str(error) == "nine"
print("alive")
"""


def test_a_failure_beside_tasks_that_are_finishing_does_not_kill_the_driver():
    ran = subprocess.run([sys.executable, "-c", FAILS_OFTEN], check=False, capture_output=True, text=True, timeout=200)
    assert ran.stdout.splitlines()[-1:] == ["alive"], ran.stderr[-2000:]


def test_tasks_that_had_not_begun_do_nothing(tmp_path):
    def work(n):
        if n == 1:
            raise ValueError("one")
        time.sleep(2)
        (tmp_path / str(n)).touch()
        return {}

    embedded.start(cpus=2)
    with pytest.raises(ValueError, match="one"):
        run_tasks(work, range(100))
    written = sorted(path.name for path in tmp_path.iterdir())
    assert len(written) <= 3  # those that ran, and one whose start and the flag crossed
    time.sleep(2.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == written


WAITS = """
import signal, time
from cluster.engines import embedded
from cluster.engines.on_ray import run_tasks
from ray_jobs import exits

def terminated(*arguments):
    global begin
    begin = time.monotonic()
    exits.terminate(*arguments)

def work():
    try:
        run_tasks(print, range(3), gpus=True)  # which this machine's Ray has none of
    finally:
        print(time.monotonic() - begin, flush=True)

signal.signal(signal.SIGTERM, terminated)
embedded.start(cpus=1)
print("waits", flush=True)
exits.guarded(work)
"""


def test_sigterm_ends_a_driver_that_waits_for_nodes():
    driver = subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert driver.stdout.readline() == "waits\n"
    time.sleep(1)
    driver.send_signal(signal.SIGTERM)
    seconds, said = driver.communicate(timeout=100)
    assert (driver.returncode, said.splitlines()[-1:]) == (130, ["pinisi: stopped; the same command continues"])
    assert float(seconds) < 10  # it was 15 s, for tasks that nobody ran


def test_no_more_tasks_than_wanted_run_at_a_time(tmp_path):
    def work(n):
        (tmp_path / f"{n}").touch()
        seen = len(list(tmp_path.iterdir()))
        time.sleep(0.05)
        (tmp_path / f"{n}").unlink()
        return seen

    embedded.start(cpus=2)
    assert run_tasks(work, range(8), most=1) == [1] * 8
