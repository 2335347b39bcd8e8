"""Sampling answers with vLLM: engine "vllm", one GPU, in a process and, if need be, a Python environment of its own.

vLLM pins its own torch and transformers, so it cannot live in this project's environment. This file is therefore also a
program that needs nothing but vLLM and the standard library: `PYTHON train/generation/vllm_engine.py REQUEST.json` loads the
engine once, answers the request's shards one after another and writes each as a file at once, under its final name only when
it is whole. When it ends, the GPU is free again. API: vLLM 0.33, `LLM.generate` with token prompts and `SamplingParams`.

A request: {"model": folder, "max_model_len": tokens, "sampling": fields of `generate.Sampling`, "stop": token ids,
"shards": [{"prompts": [{"id", "ids"}], "out": path}]}. An answer file: JSON lines {"id", "sample", "ids", "logprobs"}.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

STALL_SECONDS = 1800.0  # without a finished shard: an engine that is out of memory may hang instead of failing
_NO_VLLM = 3  # exit status


def seed(run_seed: int, prompt_id: str, sample: int) -> int:
    """The seed of one answer, 63 bits: it depends on nothing but the run, the prompt and the answer's number."""
    digest = hashlib.blake2b(f"{run_seed} {sample} {prompt_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def draw(llm: Any, params: type, request: dict, prompts: list[dict]) -> list[dict]:
    """Answers {"id", "sample", "ids", "logprobs"} of `llm` (vllm.LLM) to prompts {"id", "ids"}; `params`: SamplingParams.

    Every answer is a request of its own with its own seed; that the prompts of a group are equal costs little, as vLLM
    keeps the keys and values of what it has read. The log-probabilities are the model's at temperature 1.
    """
    sampling = request["sampling"]
    wanted = [(prompt, k) for prompt in prompts for k in range(sampling["n"])]
    outputs = llm.generate(
        [{"prompt_token_ids": prompt["ids"]} for prompt, _ in wanted],
        [
            params(
                n=1,
                temperature=sampling["temperature"],
                top_p=sampling["top_p"],
                max_tokens=sampling["max_new_tokens"],
                seed=seed(sampling["seed"], prompt["id"], k),
                stop_token_ids=request["stop"],
                logprobs=0,
                detokenize=False,
            )
            for prompt, k in wanted
        ],
        use_tqdm=False,
    )
    rows = []
    for (prompt, k), output in zip(wanted, outputs, strict=True):
        answer = output.outputs[0]
        ids = list(answer.token_ids)
        logprobs = [at[token].logprob for token, at in zip(ids, answer.logprobs, strict=True)]
        rows.append({"id": prompt["id"], "sample": k, "ids": ids, "logprobs": logprobs})
    return rows


def main(path: str) -> None:
    """Answer the request in the file `path`."""
    request = json.loads(Path(path).read_text(encoding="utf-8"))
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        import vllm
    except ImportError as error:
        print(error, file=sys.stderr)
        sys.exit(_NO_VLLM)
    llm = vllm.LLM(
        model=request["model"],
        max_model_len=request["max_model_len"],
        dtype="bfloat16",
        seed=request["sampling"]["seed"],
        logprobs_mode="raw_logprobs",
        generation_config="vllm",  # nothing from the model's own generation_config.json
    )
    for shard in request["shards"]:
        rows = draw(llm, vllm.SamplingParams, request, shard["prompts"])
        temporary = Path(f"{shard['out']}.tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        os.replace(temporary, shard["out"])


def _end_with(parent: int) -> None:
    """End this process group when `parent` has gone: a killed task must not leave an engine on the GPU."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


def run(
    request: dict,
    python: str | None,
    finished: Callable[[int, str], None],
    stall_seconds: float = STALL_SECONDS,
) -> None:
    """Answer `request` in a process of `python` (None: this one's interpreter); its shards need no "out".

    `finished(number, path)` is called for each shard as soon as it is done; its file is removed at the end. Raises ValueError
    when that Python has no vLLM, RuntimeError with the end of its output when the engine fails, and OSError, after which a
    Ray task is tried again, when no shard was done for `stall_seconds`.
    """
    python = python or sys.executable
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, f"{number}.jsonl")) for number in range(len(request["shards"]))]
        shards = [{**shard, "out": file} for shard, file in zip(request["shards"], files, strict=True)]
        path, log = Path(folder, "request.json"), Path(folder, "log.txt")
        path.write_text(json.dumps({**request, "shards": shards}), encoding="utf-8")
        try:
            with open(log, "wb") as output:
                process = subprocess.Popen(
                    [python, __file__, str(path)], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
                )
        except OSError as error:
            raise ValueError(f"The engine vllm cannot be started with {python}: {error.strerror}.") from error
        try:
            status = _follow(process, files, finished, stall_seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the processes that vLLM starts
            process.wait()
        said = log.read_text(encoding="utf-8", errors="replace").strip()
    if status == _NO_VLLM:
        raise ValueError(
            f"The engine vllm needs vLLM, which {python} does not have; make an environment for it (`python -m venv vllm`, "
            "`vllm/bin/pip install vllm==0.33.0`), name its Python in train.dpo.on_policy.vllm_python, or take engine: hf."
        )
    if status:
        raise RuntimeError(f"vLLM ended with status {status}: {said[-2000:]}")


def _follow(process: subprocess.Popen, files: list[str], finished: Callable[[int, str], None], stall: float) -> int:
    """The exit status of `process`, which writes `files` one after another."""
    done, since = 0, time.monotonic()
    while True:
        status = process.poll()
        while done < len(files) and Path(files[done]).exists():
            finished(done, files[done])
            done, since = done + 1, time.monotonic()
        if status is not None:
            return status
        if time.monotonic() - since > stall:
            raise OSError(f"vLLM has finished no shard for {stall:.0f} s ({done} of {len(files)} are done).")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules have names that others use too
    main(sys.argv[1])
