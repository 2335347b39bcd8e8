"""The lock of a run: held by a live process of any machine, free when its holder died, given up when it was taken over."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from cluster import storage
from ray_jobs.errors import UserError
from ray_jobs.run import lock


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "DEAD_SECONDS", 0.6)


def write(uri, **values):
    parent = {"host": lock.socket.gethostname(), "pid": os.getppid(), "started": lock.started(os.getppid())}
    storage.write_json(
        f"{uri}/_lock.json", {**parent, "holder": "other", "attempt": None, "beat": 7, "at": 0, **values}
    )


def test_a_live_process_of_this_machine_keeps_it(tmp_path):
    write(tmp_path)
    with pytest.raises(UserError, match="is already running this"), lock.held(str(tmp_path)):
        raise AssertionError("not reached")
    write(tmp_path, started=1.0)  # that process is gone, its number reused
    with lock.held(str(tmp_path)):
        assert storage.read_json(f"{tmp_path}/_lock.json")["pid"] == os.getpid()
    assert not (tmp_path / "_lock.json").exists()


def test_a_lock_of_another_machine_is_free_when_its_beat_stands_still(tmp_path):
    write(tmp_path, host="gone", at=time.time() + 3600)  # its clock is an hour ahead
    said = []
    with lock.held(str(tmp_path), said.append):
        assert lock.alive(str(tmp_path))
    assert said == ["host gone had this run; waiting up to 1 s to see whether it still works on it"]


def test_a_lock_of_another_machine_that_beats_is_respected(tmp_path):
    write(tmp_path, host="far", attempt="tiny-3", at=5.0)  # its clock is decades behind

    def beat():
        for number in range(8, 40):
            write(tmp_path, host="far", attempt="tiny-3", at=5.0, beat=number)
            time.sleep(0.02)

    beating = threading.Thread(target=beat)
    beating.start()
    with pytest.raises(UserError, match=r"host far \(job tiny-3\) is running this"), lock.held(str(tmp_path)):
        raise AssertionError("not reached")
    beating.join()


def test_it_beats_and_stops_when_taken_over(tmp_path, capfd):
    with pytest.raises(KeyboardInterrupt), lock.held(str(tmp_path)):
        first = storage.read_json(f"{tmp_path}/_lock.json")["beat"]
        deadline = time.monotonic() + 120
        while storage.read_json(f"{tmp_path}/_lock.json")["beat"] < first + 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        write(tmp_path, host="far")
        time.sleep(30)
        raise AssertionError("not interrupted")
    assert storage.read_json(f"{tmp_path}/_lock.json")["host"] == "far"  # not ours to remove
    assert "took this run over" in capfd.readouterr().err


def test_a_killed_holder_is_not_alive(tmp_path):
    code = f"import time; from ray_jobs.run import lock\nwith lock.held({str(tmp_path)!r}): print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()
    assert lock.alive(str(tmp_path))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not lock.alive(str(tmp_path))
    with lock.held(str(tmp_path)):
        pass


RACE = """
import os, sys, time
from ray_jobs.errors import UserError
from ray_jobs.run import lock
from cluster import storage

folder, runners = sys.argv[1], 5
for n in range(12):
    uri = f"{folder}/{n}"
    if n % 2:  # a killed run has left its lock
        storage.write_json(f"{uri}/_lock.json", {"host": lock.socket.gethostname(), "pid": os.getppid(), "started": 1.0,
                                                 "holder": f"dead{n}", "attempt": None, "beat": 7, "at": 0})
    begin, end = os.pipe(), os.pipe()
    children = []
    for _ in range(runners):
        if child := os.fork():
            children.append(child)
            continue
        os.close(begin[1]); os.close(end[1])
        os.read(begin[0], 1)  # until the parent closes it: all at once
        try:
            with lock.held(uri):
                os.write(report, b"+")
                os.read(end[0], 1)
        except UserError:
            os.write(report, b"-")
        os._exit(0)
    os.close(begin[1])
    os.close(begin[0])
    seen = b""
    while len(seen) < runners:
        seen += os.read(reported, runners)
    os.close(end[1]); os.close(end[0])
    for child in children:
        os.waitpid(child, 0)
    left = [name for name in os.listdir(uri)]
    print(seen.count(b"+"), left)
"""


def test_of_several_that_start_at_once_one_gets_it(tmp_path):
    """A new folder, and one where a killed run has left its lock; what shall be left of the lock is nothing."""
    code = RACE.replace("folder, runners", "reported, report = os.pipe()\nfolder, runners")
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, timeout=100
    )
    assert ran.stdout.splitlines() == ["1 []"] * 12, ran.stderr[-2000:]


def test_what_is_created_is_not_written_over(tmp_path):
    for place in (str(tmp_path / "deep"), "memory://locks"):
        uri = f"{place}/one.json"
        assert storage.create_json(uri, {"first": 1}) and not storage.create_json(uri, {"second": 2})
        assert storage.read_json(uri) == {"first": 1}
    assert os.listdir(tmp_path / "deep") == ["one.json"]


def test_links_are_not_needed(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(storage.errno.EPERM, "no links here")

    monkeypatch.setattr(storage.os, "link", refused)
    assert storage.create_json(f"{tmp_path}/one.json", {"a": 1}) and not storage.create_json(f"{tmp_path}/one.json", {})
    assert storage.read_json(f"{tmp_path}/one.json") == {"a": 1} and os.listdir(tmp_path) == ["one.json"]
