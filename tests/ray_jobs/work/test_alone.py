"""Work without Ray: shares of a stage, tasks in processes, and what is said of errors. Runs: tests/e2e/test_slurm_run.py."""

import base64
import itertools
import os
import pickle
import random
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from ray_jobs import cli
from ray_jobs.errors import UserError
from ray_jobs.run.job import Share, ShareDone
from ray_jobs.stages import __main__ as stages
from ray_jobs.work import alone
from train.monitor import stop as stopping


def job(share=None, cpus=2):
    progress = SimpleNamespace(before=0, done=[])
    progress.set = progress.done.append
    return SimpleNamespace(recipe=SimpleNamespace(cluster=SimpleNamespace(cpus=cpus)), progress=progress, share=share)


def test_shares_are_every_item_once():
    chance = random.Random(5)
    for _ in range(200):
        items, of = list(range(chance.randrange(40))), chance.randrange(1, 20)
        shares = [list(alone.of_share(items, Share(number, of))) for number in range(of)]
        assert sorted(item for share in shares for item in share) == items
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert alone.of_share([1, 2], None) == [1, 2]


def test_tasks_run_in_processes_of_one_thread_and_give_their_results_in_order(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")  # of torchrun: no affair of a task

    def square(n):  # a closure, as kernels are
        (tmp_path / str(n)).write_text(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']} {'RANK' in os.environ}")
        if n == 7:
            raise ValueError("seven")
        return n * n

    whole = job()
    try:
        assert alone.run(whole, square, range(6)) == [0, 1, 4, 9, 16, 25]
        assert whole.progress.done == [1, 2, 3, 4, 5, 6]
        told = [(tmp_path / str(n)).read_text().split() for n in range(6)]
        assert all(one[1:] == ["1", "False"] and int(one[0]) != os.getpid() for one in told)
        with pytest.raises(ShareDone):
            alone.run(job(Share(1, 3)), square, range(10, 16))
        assert sorted(int(path.name) for path in tmp_path.iterdir()) == [0, 1, 2, 3, 4, 5, 11, 14]
        with pytest.raises(ShareDone):  # a share of nothing
            alone.run(job(Share(5, 6)), square, [1])
        with pytest.raises(ValueError, match="seven"):
            alone.run(whole, square, [7])
    finally:
        alone.stop()


@pytest.mark.parametrize("text", ["3", "3/3", "4/3", "-1/3", "a/b", "/", "", "²/8", "0/٨", "1/8\n", "0/" + "9" * 5000])
def test_a_share_that_is_none_is_said(text, tmp_path, capsys):
    (tmp_path / "r.yaml").write_text("name: r\nlanguages: [th]\nsources: [{name: a, type: jsonl, path: x.jsonl}]\n")
    with pytest.raises(SystemExit) as end:
        stages.main(["crawl", "--run-dir", str(tmp_path), "--recipe", str(tmp_path / "r.yaml"), f"--share={text}"])
    assert end.value.code == 2 and "such as 0/8 to 7/8" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dedup", "quality", "tokenize", "pretrain/stage1", "pretrain", "tasks"])
def test_a_share_of_what_is_done_as_a_whole_is_refused_before_anything_begins(name, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        stages.main([name, "--run-dir", str(tmp_path / "run"), "--recipe", "demo", "--share", "0/2"])
    assert end.value.code == 2 and "is done as a whole, so run it without" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def ranks(monkeypatch):
    """The store of a torchrun of two, as whose rank 0 this process goes on."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    own = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(alone, "_numbers", itertools.count())
    former = signal.getsignal(signal.SIGTERM)
    yield store
    signal.signal(signal.SIGTERM, former)


def test_what_ends_rank_0_early_ends_the_other_ranks_too(tmp_path, monkeypatch, ranks):
    monkeypatch.setenv("PINISI_EXIT", str(tmp_path / "exit"))
    arguments = ["run", str(tmp_path / "none.yaml"), "--without-ray", "--run-dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert (end.value.code, (tmp_path / "exit").read_text()) == (0, "2\n")  # torchrun need say nothing of it
    monkeypatch.setenv("RANK", "1")
    assert ranks.check(["pinisi/0"])  # what they wait for is there
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 0


def notes_rank(folder: str) -> dict:
    Path(folder, "trained").touch()
    return {"steps": 1}


def test_a_rank_runs_what_lies_in_its_run_and_never_what_the_store_holds(tmp_path, monkeypatch, ranks):
    run = str(tmp_path / "run")
    command = {"function": f"{__name__}:notes_rank", "settings": str(tmp_path), "threads": 1, "gpus": False}
    monkeypatch.setattr(alone, "SEEN_SECONDS", 0.1)
    name = alone._written(run, command)
    file = tmp_path / "run" / alone.COMMANDS / name
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    other = pickle.dumps(command)
    (tmp_path / ("0" * 32)).write_bytes(other)
    wrong = [
        other,
        base64.b64encode(other),
        f"../../{'0' * 32}",
        str(file),
        f"{name}\n",
        "",
        "0" * 32,
        name.upper() + "0",
    ]
    for number, text in enumerate(wrong):
        ranks.set("pinisi/0", text)
        with pytest.raises(UserError, match="never writes" if number != 6 else "does not see it"):
            alone.serve(lambda: run)
        assert not (tmp_path / "trained").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")  # a process group of its own takes another process
    ranks.set("pinisi/0", name)
    ranks.set("pinisi/1", alone.END)
    alone.serve(lambda: run)
    assert (tmp_path / "trained").exists()


def trained(when: str) -> dict:
    """A training that gets SIGTERM after its last update, or else before."""
    os.kill(os.getpid(), signal.SIGTERM)
    if when == "before":
        raise stopping.Stopped("after update 3 of 9")
    return {"steps": 9}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_signal_is_not_lost_because_no_update_follows_it(when):
    train = SimpleNamespace(workers=1, exact=True, exact_threads=1)
    training = SimpleNamespace(**vars(job()), train=train)
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="after"):
        alone.launch(training, trained, when, False, lambda: None)
    assert signal.getsignal(signal.SIGTERM) is former and not stopping.requested.is_set()
