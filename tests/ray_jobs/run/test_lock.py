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
