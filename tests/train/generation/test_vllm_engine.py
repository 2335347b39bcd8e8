"""The vLLM engine's program and its requests, with engines that have vLLM's call signatures: vLLM itself needs a GPU."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from train.chat.conversations import encode_prompts
from train.generation import generate, nucleus, vllm_engine

FAKE = """
import random, time
from types import SimpleNamespace

class SamplingParams:
    def __init__(
        self, n=1, temperature=1.0, top_p=1.0, max_tokens=16, seed=None, stop_token_ids=None, logprobs=None, detokenize=True
    ):
        assert n == 1 and logprobs == 0 and not detokenize
        self.seed, self.max_tokens, self.stop = seed, max_tokens, stop_token_ids

class LLM:
    def __init__(self, model, *, max_model_len, dtype, seed, logprobs_mode, generation_config):
        assert logprobs_mode == "raw_logprobs" and generation_config == "vllm"
        if model == "broken":
            raise RuntimeError("CUDA out of memory")
        self.model = model

    def generate(self, prompts, sampling_params, use_tqdm=True):
        assert all(set(p) == {"prompt_token_ids"} for p in prompts) and len(prompts) == len(sampling_params)
        if self.model == "hangs":
            time.sleep(60)
        outputs = []
        for params in sampling_params:
            draw = random.Random(params.seed)
            ids = [draw.randrange(3, 300) for _ in range(draw.randint(1, params.max_tokens - 1))] + [params.stop[0]]
            logprobs = [{i: SimpleNamespace(logprob=-2.0)} for i in ids]
            outputs.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, logprobs=logprobs)]))
        return outputs
"""
SAMPLING = {"n": 2, "temperature": 0.9, "top_p": 0.95, "max_new_tokens": 6, "seed": 7}


@pytest.fixture
def fake_vllm(tmp_path, monkeypatch):
    """A module `vllm` for the engine's process."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "vllm.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def request(*shards, model="right"):
    prompts = [{"prompts": [{"id": f"p{i}", "ids": [5, i]} for i in shard]} for shard in shards]
    return {"model": model, "max_model_len": 64, "sampling": SAMPLING, "stop": [2], "shards": prompts}


def answers(asked, **more):
    found = {}
    with_rows = lambda number, path: found.update({number: [json.loads(line) for line in open(path)]})  # noqa: E731, SIM115
    vllm_engine.run(asked, sys.executable, with_rows, **more)
    return found


def test_an_answer_depends_on_its_prompt_and_number_not_on_its_shard(fake_vllm):
    found = answers(request([0, 1, 2], [3]))
    assert {number: [(r["id"], r["sample"]) for r in rows] for number, rows in found.items()} == {
        0: [(f"p{i}", k) for i in range(3) for k in range(2)],
        1: [("p3", 0), ("p3", 1)],
    }
    rows = [row for rows in found.values() for row in rows]
    assert len({tuple(row["ids"]) for row in rows}) == len(rows)
    assert all(len(row["ids"]) == len(row["logprobs"]) and row["ids"][-1] == 2 for row in rows)
    assert answers(request([3, 1]))[0] == [r for i in (3, 1) for r in rows if r["id"] == f"p{i}"]


def test_what_goes_wrong_is_said(fake_vllm, monkeypatch):
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        answers(request([0], model="broken"))
    with pytest.raises(OSError, match=r"no shard for 0 s \(0 of 1 are done\)"):
        answers(request([0], model="hangs"), stall_seconds=0.3)
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(ValueError, match=r"needs vLLM, which .* does not have"):
        answers(request([0]))
    with pytest.raises(ValueError, match="cannot be started with /nowhere/python"):
        vllm_engine.run(request([0]), "/nowhere/python", print)


def test_an_engine_does_not_outlive_the_task_that_started_it(fake_vllm, tmp_path):
    path = tmp_path / "request.json"
    path.write_text(json.dumps(request([0], model="hangs")))
    code = f"import json; from train.generation import vllm_engine; vllm_engine.run(json.load(open({str(path)!r})), None, print)"
    task = subprocess.Popen([sys.executable, "-c", code])
    children = f"/proc/{task.pid}/task/{task.pid}/children"
    deadline = time.monotonic() + 240  # a busy machine starts Python in a minute; the wait ends as soon as it can
    while not (engine := open(children).read().split()):  # noqa: SIM115
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(task.pid, signal.SIGKILL)
    task.wait()
    while os.path.exists(f"/proc/{engine[0]}"):
        assert time.monotonic() < deadline, "the engine still runs"
        time.sleep(0.05)


class OfOurs:
    """An engine of vLLM's call signature that samples from one of our models, one prompt at a time."""

    def __init__(self, net):
        self.net = net

    def generate(self, prompts, sampling_params, use_tqdm=True):
        outputs = []
        for prompt, params in zip(prompts, sampling_params, strict=True):
            ids, logprobs, draw = list(prompt["prompt_token_ids"]), [], random.Random(params.seed)
            while len(logprobs) < params.max_tokens and (not logprobs or ids[-1] not in params.stop_token_ids):
                with torch.no_grad():
                    logp = self.net(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
                u = torch.tensor([draw.random()], dtype=torch.float64)
                ids.append(int(nucleus.draw(logp[None], u, params.temperature, params.top_p)))
                logprobs.append({ids[-1]: SimpleNamespace(logprob=float(logp[ids[-1]]))})
            new = ids[len(prompt["prompt_token_ids"]) :]
            outputs.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(new), logprobs=logprobs)]))
        return outputs


def test_the_probe_tells_the_trainers_weights_from_others(chatml_tokenizer, tiny_model):
    net = tiny_model()
    prompts = [
        {"id": t, "lang": "id", "prompt": [{"role": "user", "content": t}]} for t in ("ikan", "apa itu perahu layar?")
    ]
    ids = encode_prompts(chatml_tokenizer, [p["prompt"] for p in prompts])
    asked = {"sampling": {**SAMPLING, "max_new_tokens": 12}, "stop": generate.stop_ids(chatml_tokenizer)}
    named = [{"id": p["id"], "ids": i} for p, i in zip(prompts, ids, strict=True)]
    rows = vllm_engine.draw(OfOurs(net), SimpleNamespace, asked, named)
    drawn = [[generate.Drawn(r["ids"], r["logprobs"]) for r in rows if r["id"] == p["id"]] for p in prompts]
    samples = generate.answers(chatml_tokenizer, prompts, ids, drawn)
    assert [(s["id"], s["sample"]) for s in samples] == [(p["id"], k) for p in prompts for k in range(2)]
    assert generate.logprob_gap(net, samples) < 1e-5
    assert generate.logprob_gap(tiny_model(seed=1), samples) > 0.5
