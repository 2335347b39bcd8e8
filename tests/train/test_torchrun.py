"""The script of docs/training.md ("Without Ray"), started as it says there: in one process and by torchrun in two."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DOCS = Path(__file__).parents[2] / "docs" / "training.md"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def start(folder: Path, arguments: list[str] = (), **settings) -> subprocess.CompletedProcess:
    """Run the script in `folder`; `settings` are more fields of its LoopConfig."""
    section = DOCS.read_text(encoding="utf-8").split("## Without Ray", 1)[1]
    script = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    more = "".join(f", {name}={value!r}" for name, value in ({"parallel": "fsdp"} | settings).items())
    script, places = re.subn(r', parallel="fsdp"', lambda _: more, script)
    assert places == 1
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(script)
    environment = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(DOCS.parents[1])}
    return subprocess.run(
        [sys.executable, *arguments, "mine.py"],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def result(folder: Path, done: subprocess.CompletedProcess) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """(records, weights)"""
    assert done.returncode == 0, done.stderr[-3000:]
    records = [ast.literal_eval(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return records, safetensors.torch.load_file(folder / "out" / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[list[dict], dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("alone")
    return result(folder, start(folder))


@pytest.mark.parametrize("context_parallel", [1, 2])
def test_two_processes_train_as_one(tmp_path, alone, context_parallel):
    (want, want_weights), (got, weights) = (
        alone,
        result(tmp_path, start(tmp_path, TORCHRUN, context_parallel=context_parallel)),
    )
    assert [r["step"] for r in got] == [r["step"] for r in want] == [10, 20]  # rank 0 alone writes them
    for a, b in zip(got, want, strict=True):
        assert a["tokens"] == b["tokens"] == b["step"] * 8 * 128
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=2e-5)
    for name, weight in want_weights.items():
        assert (weights[name] - weight).norm() <= 1e-4 * weight.norm() + 1e-5, name


def test_with_exact_two_processes_train_as_one_to_the_last_bit(tmp_path):
    exact = {"parallel": "replicate", "exact": True}
    (want, want_weights), (got, weights) = (
        result(tmp_path / name, start(tmp_path / name, arguments, **exact))
        for name, arguments in (("one", []), ("two", TORCHRUN))
    )
    assert [(r["loss"], r["grad_norm"]) for r in got] == [(r["loss"], r["grad_norm"]) for r in want]
    assert all(torch.equal(weights[name], weight) for name, weight in want_weights.items())


def test_one_process_cannot_share_its_rows_and_says_so(tmp_path):
    done = start(tmp_path, context_parallel=2)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ValueError: context_parallel 2 does not divide the number of workers, 1; each row is shared by 2 of them, so start a "
        "multiple of 2, or set it to 1."
    )
    assert not (tmp_path / "out").exists()
