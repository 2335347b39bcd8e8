"""Rate and time left, by a clock of the test: of what this process does, now."""

import json
import re
from types import SimpleNamespace

import pytest

from cluster import storage
from cluster.shards import Shard, finished
from ray_jobs.run import progress
from ray_jobs.run.progress import Progress
from ray_jobs.work import trainer
from ray_jobs.work.tasks import written
from train.monitor.metrics import JsonLines


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def run(stage, clock, done, rate, seconds, *, step=1):
    """Work from `done` on at `rate` for so long; returns what is done then."""
    end, begin, first = clock.now + seconds, clock.now, done
    while clock.now < end:
        clock.now += step / rate
        done = first + round((clock.now - begin) * rate)
        stage.set(done)
    return done


def told(said):
    """(rate per second, seconds left) of the last line."""
    rate, left = re.search(r", ([\d.,]+)/s, about (.+) left$", said[-1]).groups()
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    parts = left.split()
    return float(rate), sum(int(n) * units[unit] for n, unit in zip(parts[::2], parts[1::2], strict=True))


def test_what_was_done_before_a_resume_is_no_work_of_this_process(clock):
    said = []
    stage = Progress("pretrain/stage1", said.append, clock=clock)
    stage.start(586, "steps", 324)
    done = run(stage, clock, 324, 2.2, 15)
    rate, left = told(said)
    assert rate == pytest.approx(2.2, rel=0.02) and left == pytest.approx((586 - done) / 2.2, abs=15)
    assert said[0].startswith("pretrain/stage1: 3") and "/586 steps, 2.2/s, about 1 m" in said[0]


def test_a_slow_beginning_is_forgotten(clock):
    said = []
    stage = Progress("pretrain/stage1", said.append, clock=clock)
    stage.start(200, "steps")
    clock.now += 10  # starts, compiles
    done = run(stage, clock, 0, 2.2, 22)
    rate, left = told(said)
    assert rate == pytest.approx(2.2, rel=0.02) and left == pytest.approx((200 - done) / 2.2, rel=0.15)
    assert re.fullmatch(r"pretrain/stage1: \d/200 steps", said[0])  # nothing is known before


def test_a_rate_that_changes_is_followed(clock):
    said = []
    stage = Progress("crawl", said.append, clock=clock)
    stage.start(10**6, "parts")
    done = run(stage, clock, 0, 50, 600)
    run(stage, clock, done, 5, 700)
    assert told(said)[0] == pytest.approx(5, rel=0.05)
    fast = Progress("crawl", said.append, clock=clock)
    fast.start(10**6, "parts")
    done = run(fast, clock, 0, 5, 20 * 3600, step=30)  # a long day, then more nodes
    run(fast, clock, done, 50, progress.WINDOW_SECONDS + 10, step=30)
    assert told(said)[0] == pytest.approx(50, rel=0.05)


def test_shards_that_end_together_are_not_taken_for_a_fast_stage(clock):
    said = []
    stage = Progress("extract", said.append, clock=clock)
    stage.start(640, "shards")
    for wave in range(1, 6):  # 64 at a time, each 600 s
        clock.now += 560
        for one in range(64):
            clock.now += 40 / 64
            stage.set(64 * (wave - 1) + one + 1)
        if wave == 1:  # it may have been the start that took so long
            assert all(re.fullmatch(r"extract: \d+/640 shards", line) for line in said)
            continue
        left = (640 - 64 * wave) * 600 / 64
        assert left / 1.2 <= told([f"x, 1/s, {said[-1].rsplit(', ', 1)[1]}"])[1] <= left * 1.2


def test_an_unknown_total_tells_no_time(clock):
    said = []
    stage = Progress("sft/stage1", said.append, clock=clock)
    stage.start(0, "steps")
    run(stage, clock, 0, 4, 12)
    assert re.fullmatch(r"sft/stage1: \d+ steps, 4/s", said[-1])


def test_work_that_is_found_done_is_no_progress(clock, tmp_path):
    """Tasks that find their marker end at once, whatever their order."""
    said = []
    stage = Progress("extract", said.append, str(tmp_path), clock=clock)
    stage.start(100, "shards", 40)
    for number in range(1, 41):
        clock.now += 0.5
        stage.set(number)
    assert said == [] and storage.read_json(stage.uri)["done"] == 40
    run(stage, clock, 40, 1, 35)
    assert told(said)[0] == pytest.approx(1, rel=0.1)


def test_work_that_is_lost_is_done_again(clock):
    """A worker group that died goes on from its last checkpoint."""
    said = []
    stage = Progress("pretrain/stage1", said.append, clock=clock)
    stage.start(1000, "steps")
    done = run(stage, clock, 0, 2, 300)
    clock.now += 60
    run(stage, clock, done - 100, 2, 11)
    rate, _ = told(said)
    assert rate == pytest.approx(2, rel=0.1)


def test_the_file_has_what_another_machine_needs(clock, tmp_path):
    stage = Progress("extract", lambda line: None, str(tmp_path), clock=clock)
    with stage:
        stage.start(50, "shards", 10)
        run(stage, clock, 10, 0.5, 30)
        found = json.loads((tmp_path / "_progress.json").read_text())
        assert (found["total"], found["unit"], found["before"]) == (50, "shards", 10) and found["done"] > 20
        assert progress.per_second(found["lately"]) == pytest.approx(0.5, rel=0.05)
        assert progress.per_second(found["lately"], silence=found["lately"][1]) == pytest.approx(0.25, rel=0.05)
    assert not (tmp_path / "_progress.json").exists()


def test_training_resumes_at_its_checkpoint_and_counts_from_its_first_new_record(clock, tmp_path, monkeypatch):
    """Records after the checkpoint are of a process that is gone; the first update compiles."""
    monkeypatch.setattr("train.checkpoint.checkpoint.latest", lambda uri: SimpleNamespace(step=324))
    said, uri = [], str(tmp_path / "metrics.jsonl")
    records = JsonLines(uri)
    for step in (318, 327):
        records({"step": step, "loss": 1.0})
    stage = Progress("sft/stage1", said.append, clock=clock)
    job = SimpleNamespace(progress=stage, path=lambda *parts: str(tmp_path), metrics_uri=uri)
    follow = trainer._follower(job, 0)
    follow()
    assert (stage.done, stage.total) == (324, 0)
    clock.now += 60
    for step in range(333, 460, 9):
        clock.now += 9 / 2.2
        records({"step": step, "loss": 1.0, "steps": 586})
        follow()
    assert (stage.done, stage.total, stage.before) == (459, 586, 324)
    rate, left = told(said)
    assert rate == pytest.approx(2.2, rel=0.02) and left == pytest.approx(127 / 2.2, abs=11)


def test_finished_shards_are_counted_by_their_fingerprint(tmp_path):
    shards = [Shard(f"part-{n}", "in", str(tmp_path / "stage"), "ledger", "now") for n in range(4)]
    assert finished(shards) == 0
    for shard, fingerprint in zip(shards, ("now", "before", "now"), strict=False):
        storage.write_json(shard.marker, {"fingerprint": fingerprint})
    assert finished(shards) == 2


@pytest.mark.parametrize("root", ["{tmp}", "memory://{name}"])
def test_items_whose_files_are_all_there_are_counted(tmp_path, root):
    root = root.format(tmp=tmp_path, name=tmp_path.name)
    files = [[storage.join(root, folder, f"{n}.json") for folder in ("a", "b")] for n in range(3)]
    assert written(files) == 0
    for uri in (*files[0], files[1][0], storage.join(root, "a", "other.json")):
        storage.write_json(uri, {})
    assert storage.present(uri for item in files for uri in item) == {*files[0], files[1][0]}
    assert written(files) == 1
