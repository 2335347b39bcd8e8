"""benchmarks/gpu_train.py, which a GPU is seldom lent for, runs here in every item, at shapes of a CPU."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from train.kernels import layers

BENCHMARKS = str(Path(layers.__file__).parents[2] / "benchmarks")


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, BENCHMARKS)  # as for a script of that folder
    try:
        yield importlib.import_module("gpu_train")
    finally:
        sys.path.remove(BENCHMARKS)
        torch.use_deterministic_algorithms(False)


@pytest.mark.slow
def test_every_item_runs_and_what_is_right_here_is_said_to_be(script, capsys):
    torch.set_num_threads(1)
    rows = script.main(["--tiny"])
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"metric"')]
    assert printed == rows
    assert {script.item_of(row) for row in rows} == {*script.ITEMS}
    assert not [row["metric"] for row in rows if "failed" in row["metric"] or "skipped" in row["metric"]]
    speed = [name for name in script.ITEMS if "beside" in name]
    missed = [row["metric"] for row in rows if row["met"] is False and script.item_of(row) not in speed]
    assert missed == []
    assert sum(row["met"] is True for row in rows) > 20
    assert [row for row in rows if row["peer"]]  # beside trainers that are installed


def test_without_a_gpu_it_measures_nothing_and_says_so(script, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert script.main([]) == [] and "no CUDA device here" in capsys.readouterr().out


def test_items_that_do_not_fit_the_budget_are_skipped_and_said(script, capsys):
    rows = script.main(["--tiny", "--budget", "0", "--only", "rates", "proxies"])
    assert [row["metric"] for row in rows] == ["rates: skipped, out of time", "proxies: skipped, out of time"]


def test_each_item_and_the_whole_fit_twelve_minutes(script):
    assert max(item.seconds for item in script.ITEMS.values()) <= 120
    assert all(item.least < item.seconds for item in script.ITEMS.values())
    right = ["rates", "attention", "cross-entropy", "curves", "resume and FSDP2", "8-bit moments", "decoding"]
    assert list(script.ITEMS)[:7] == right and sum(script.ITEMS[name].seconds for name in right) <= 420


def test_a_process_that_hangs_or_fails_keeps_the_rows_that_it_printed(script):
    line = 'import json, sys, time; print(json.dumps({"metric": "x: a"}), flush=True); print("noise"); '
    assert script.in_process([sys.executable, "-c", line], 60) == ([{"metric": "x: a"}], "")
    rows, why = script.in_process([sys.executable, "-c", line + "time.sleep(60)"], 3)
    assert rows == [{"metric": "x: a"}] and why == "over its limit of 3 s"
    rows, why = script.in_process([sys.executable, "-c", line + "raise ValueError('no memory')"], 60)
    assert rows == [{"metric": "x: a"}] and why == "ValueError: no memory"


def test_items_that_were_not_measured_now_keep_their_rows(script, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    from table import row

    script.write([row("a: x", "GB", 1.0), row("b: y", "GB", 1.0), row("c: z", "GB", 1.0)])
    script.write(
        [row("a: failed, no memory", "", 0.0), row("b: y", "GB", 2.0), row("c: skipped, out of time", "", 0.0)]
    )
    found = json.loads((tmp_path / "training-gpu.json").read_text())["rows"]
    assert {r["metric"]: r["ours"] for r in found} == {"a: failed, no memory": 0, "b: y": 2, "c: z": 1}
    assert all(r["date"] and "torch" in r["hardware"] for r in found)
