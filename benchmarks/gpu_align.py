"""SFT and DPO of ours beside TRL's on one GPU: tokens per second and memory, bf16, with Qwen's vocabulary.

    python benchmarks/gpu_align.py [--case 0.5b] [--task dpo] [--steps 10]     on a CUDA device, without Ray
    python benchmarks/gpu_align.py --tiny                                      the same code on CPU, tiny shapes

The work of benchmarks/alignment_cpu.py, larger: rows of 4096 tokens; prompts and answers of 250 tokens in the median, as the
paper's chats have; fp32 weights with bf16 products, fused AdamW, random weights and tokens. Each variant is a process of its own;
one that fails (memory, no compiler) is a row that says so. TRL, where it is installed, has the same rows for SFT, one at a time,
and precomputed reference log-probabilities for DPO, with as many pairs at a time as ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from alignment_cpu import PEERS, SPEED, TASKS, Work, measure, prepare
from gpu_train import CASES, FIELDS, TINY, VOCABULARY
from table import row, write

VARIANTS = {
    "eager": {},
    "compile": {"compile": True},
    "compile, full": {"compile": True, "activation_checkpointing": "full"},
    "trl": None,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=[*CASES, *TINY], action="append")
    parser.add_argument("--task", choices=TASKS, action="append")
    parser.add_argument("--variant", choices=VARIANTS, action="append")
    parser.add_argument("--steps", type=int, default=10, help="timed updates, after two that are not")
    parser.add_argument(
        "--tiny", action="store_true", help="tiny shapes on CPU: shows that the script runs, nothing else"
    )
    parser.add_argument("--one", nargs=4, metavar=("CASE", "TASK", "VARIANT", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(*args.one, args)))
        return
    rows = []
    for case in TINY if args.tiny else args.case or ("0.5b", "1b"):
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), shape(case), work(case, "eager", folder, args).context)
            for task in args.task or TASKS:
                done = {name: run_one(case, task, name, folder, args) for name in args.variant or installed()}
                rows += report(case, task, done)
    if not args.tiny:
        write("alignment-gpu", rows, tuned_on="nothing")


def installed() -> list[str]:
    return [name for name in VARIANTS if name != "trl" or importlib.util.find_spec("trl")]


def shape(case: str) -> dict:
    numbers, tied, *_ = (CASES | TINY)[case]
    own = {"vocab_size": 997 if case in TINY else VOCABULARY, "tie_word_embeddings": tied}
    return dict(zip(FIELDS, numbers, strict=True)) | own


def work(case: str, variant: str, folder: str, args: argparse.Namespace) -> Work:
    own = {"steps": args.steps, "warm": 2, "precision": "bf16", "folder": folder, "loop": VARIANTS[variant] or {}}
    if case in TINY:
        return Work(**own, vocab=997, context=128, median=12, pairs=4, micro_pairs=2, peer_pairs=2)
    return Work(
        **own, device="cuda", context=4096, median=250, rows=32, pairs=64, micro_rows=8, micro_pairs=16, peer_pairs=16
    )


def one(case: str, task: str, variant: str, folder: str, args: argparse.Namespace) -> dict:
    import torch

    if case not in TINY and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; --tiny tries the script out on CPU")
    return measure(task, "trl" if variant == "trl" else "pinisi", work(case, variant, folder, args))


def run_one(case: str, task: str, variant: str, folder: str, args: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--steps", str(args.steps), "--one", case, task, variant, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        print(f"{case}, {task}, {variant}: {lines[-1]}", flush=True)
        return {}
    measured = json.loads(done.stdout.strip().splitlines()[-1])
    print(case, task, variant, {k: v for k, v in measured.items() if k != "losses"}, flush=True)
    return measured


def report(case: str, task: str, done: dict[str, dict]) -> list[dict]:
    theirs = done.get("trl")
    peer = {key: (PEERS[task], theirs[key]) for key in ("tokens_per_second", "peak_mib")} if theirs else {}
    rows = []
    for variant, measured in done.items():
        if variant == "trl":
            continue
        name = f"{case}, {task}: {variant}"
        if not measured:
            rows.append(row(f"{name}: failed", "tokens/s", 0.0))
            continue
        target = round(SPEED * theirs["tokens_per_second"]) if theirs else None
        speed = measured["tokens_per_second"]
        rows.append(row(name, "tokens/s", speed, peer=peer.get("tokens_per_second"), target=target))
        rows.append(row(f"{name}: most memory", "MiB", measured["peak_mib"], peer=peer.get("peak_mib")))
    return rows


if __name__ == "__main__":
    main()
