"""Answers to shards of prompts: what is kept when a run is killed, what is made again, and when the probe stops it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ray_jobs.alignment import chats, generate, reward_model
from train import model

PROMPTS = [
    {
        "id": f"p{i}",
        "lang": "id",
        "task": None,
        "prompt": [{"role": "user", "content": "perahu " * (i % 5 + 1) + str(i)}],
    }
    for i in range(7)
]
SAMPLING = {"n": 2, "temperature": 1.0, "top_p": 0.95, "max_new_tokens": 8, "seed": 3}


@pytest.fixture
def common(tmp_path, chatml_tokenizer, tiny_model, monkeypatch):
    """Settings of a task, and a reward that is the length of the answer."""
    model.save(tiny_model(), chatml_tokenizer, str(tmp_path / "policy"), 512)
    monkeypatch.setattr(generate, "PROMPTS_PER_SHARD", 3)
    monkeypatch.setattr(
        reward_model, "scorer", lambda of: lambda c: np.array([len(x[-1]["content"]) for x in c], float)
    )
    return {
        "tokenizer": str(tmp_path / "policy"),
        "policy": str(tmp_path / "policy"),
        "reward": {"model": "length"},
        "engine": "hf",
        "python": None,
        "dtype": "float32",
        "max_gap": 1e-3,
        "max_model_len": 512,
        "sampling": SAMPLING,
    }


def answer(common, folder, prompts=PROMPTS):
    tasks = list(generate.groups(common, prompts, str(folder)))
    for task in tasks:
        generate.draw(task)
        generate.score(task)
    return [row for task in tasks for shard in task["shards"] for row in chats.read_rows(shard["out"])]


def texts(rows):
    return {(row["id"], row["sample"]): (row["answer"], row["reward"]) for row in rows}


def test_answers_are_the_same_however_prompts_are_sharded_and_batched(common, tmp_path, monkeypatch):
    rows = answer(common, tmp_path / "samples")
    assert [(row["id"], row["sample"]) for row in rows] == [(p["id"], k) for p in PROMPTS for k in range(2)]
    assert {row["gap"] for row in rows} <= {row["gap"] for row in rows if 0 <= row["gap"] < 1e-5}
    assert all(row["reward"] == len(row["answer"] or " ") for row in rows)
    for per_shard, batch_size, prompts in ((1, 1, PROMPTS[::-1]), (7, 7, PROMPTS[2:])):
        monkeypatch.setattr(generate, "PROMPTS_PER_SHARD", per_shard)
        other = {**common, "sampling": {**SAMPLING, "batch_size": batch_size}}
        found = texts(answer(other, tmp_path / f"{per_shard}", prompts))
        assert found == {key: value for key, value in texts(rows).items() if key[0] in {p["id"] for p in prompts}}


def test_a_failed_run_keeps_its_shards_and_a_changed_setting_does_not(common, tmp_path, monkeypatch):
    folder, whole = tmp_path / "samples", answer(common, tmp_path / "whole")
    written = chats.write_rows

    def full(uri, rows):
        if uri.endswith("drawn/part-00001.jsonl"):
            raise OSError("no space left on device")
        written(uri, rows)

    monkeypatch.setattr(chats, "write_rows", full)
    with pytest.raises(OSError, match="no space"):
        answer(common, folder)
    monkeypatch.setattr(chats, "write_rows", written)
    first = folder / "drawn" / "part-00000.jsonl"
    kept = first.stat().st_mtime_ns
    assert answer(common, folder) == whole
    assert first.stat().st_mtime_ns == kept
    for changed in ({"sampling": {**SAMPLING, "temperature": 0.5}}, {"reward": {"model": "other"}}):
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("part-*")}
        answer({**common, **changed}, folder)
        common = {**common, **changed}
        assert all(path.stat().st_mtime_ns != written_at for path, written_at in before.items())
    assert len(texts(answer(common, folder, PROMPTS[:2]))) == 4
    assert [path.name for path in sorted(folder.glob("part-*"))] == ["part-00000.jsonl"]


def test_an_engine_with_other_weights_stops_the_run(common, tmp_path, chatml_tokenizer, tiny_model):
    (task,) = generate.groups(common, PROMPTS[:3], str(tmp_path / "samples"))
    generate.draw(task)
    model.save(tiny_model(seed=1), chatml_tokenizer, common["policy"], 512)
    with pytest.raises(ValueError, match=r"does not sample from the model that is trained.*max_logprob_gap is 0\.001"):
        generate.score(task)
    assert not Path(task["shards"][0]["out"]).exists()


def test_a_gap_that_is_no_number_stops_the_run_too(common, monkeypatch):
    monkeypatch.setattr(generate.generate, "logprob_gap", lambda *_: float("nan"))
    with pytest.raises(ValueError, match="differ by nan"):
        generate.probe(None, [{}], common)


def test_vllm_without_a_gpu_is_refused():
    own = SimpleNamespace(engine="vllm")
    train = SimpleNamespace(device="cpu")
    job = SimpleNamespace(recipe=SimpleNamespace(train=train), train=train, dpo=SimpleNamespace(on_policy=own))
    with pytest.raises(ValueError, match=r"engine: vllm needs a GPU.*hf runs without"):
        generate.samples(job, "policy", PROMPTS, "samples", 0)


def test_the_shards_of_vllm_become_the_same_files(common, tmp_path, monkeypatch):
    """With an engine that answers the request by ours, whose answers so differ in nothing but how they are drawn."""
    requests = []

    def run(request, python, finished):
        requests.append((request, python))
        for number, shard in enumerate(request["shards"]):
            rows = [
                {"id": p["id"], "sample": k, "ids": [77, 78, 2], "logprobs": [-1.0] * 3}
                for p in shard["prompts"]
                for k in range(request["sampling"]["n"])
            ]
            local = tmp_path / f"{number}.jsonl"
            chats.write_rows(str(local), rows)
            finished(number, str(local))

    monkeypatch.setattr(generate.vllm_engine, "run", run)
    rows = answer({**common, "engine": "vllm", "python": "/env/python", "max_gap": 100.0}, tmp_path / "samples")
    ((request, python),) = requests
    assert python == "/env/python"
    assert [len(shard["prompts"]) for shard in request["shards"]] == [3, 3, 1]
    assert request["stop"] == [0, 2]
    assert request["max_model_len"] == 512
    assert [(row["id"], row["sample"], row["finished"], row["tokens"]) for row in rows] == [
        (p["id"], k, True, 3) for p in PROMPTS for k in range(2)
    ]


@pytest.mark.slow
def test_a_killed_task_leaves_whole_shards_and_the_rest_is_made(common, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "PROMPTS_PER_SHARD", 1)
    monkeypatch.setattr(generate, "SHARDS_PER_TASK", {"hf": len(PROMPTS)})
    common = {**common, "sampling": {**SAMPLING, "max_new_tokens": 64}}
    whole = answer(common, tmp_path / "whole")
    (task,) = generate.groups(common, PROMPTS, str(tmp_path / "killed"))
    code = f"import torch; torch.set_num_threads(1)\nfrom ray_jobs.alignment import generate\ngenerate.draw({task!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 240
    while not Path(task["shards"][1]["drawn"]).exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    drawn = sorted((tmp_path / "killed" / "drawn").glob("part-*.jsonl"))
    assert 2 <= len(drawn) < len(PROMPTS)
    kept = {path: path.stat().st_mtime_ns for path in drawn}
    assert answer(common, tmp_path / "killed") == whole
    assert all(path.stat().st_mtime_ns == written_at for path, written_at in kept.items())
