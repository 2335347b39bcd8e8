"""Our loop on one GPU: tokens per second, MFU and memory of Qwen2.5-0.5B, the 48-layer 1B and the 8B shape, in variants.

    python benchmarks/gpu_train.py [--case 0.5b] [--variant compile] [--steps 10]     on a CUDA device, without Ray
    python benchmarks/gpu_train.py --tiny                                             the same code on CPU, tiny shapes

Nothing has to be installed but torch, transformers, safetensors, fsspec, pyarrow, psutil and xxhash: neither Ray nor Pinisi.
Packed rows of 4096 tokens, documents of log-normal length kept apart, fp32 weights with bf16 products, fused AdamW, random
weights and tokens. Each variant is a process of its own; one that fails (memory, no compiler) is a row that says so. All 32
layers of the 8B fit one card with 8-bit moments only (10 bytes a parameter, 86 GB; with fp32 moments 137 GB), so the variants
are of 16 layers too. Peers, where they are installed, train the 0.5B on the same rows: HF Trainer and TRL's SFTTrainer, bf16,
SDPA, as benchmarks/train_cpu.py has them. Targets are for the best variant of a case. benchmarks/results/training-gpu.json is
written after each case; a variant that was not asked for keeps its rows there.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Pinisi need not be installed

import train_cpu
from table import row, write

FIELDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
VOCABULARY = 151_936
CASES = {
    # shape, tied, rows of a micro-batch, targets: tokens/s and MFU (6 N + 12 L H d T)
    "0.5b": ((896, 24, 14, 2, 4864), True, 8, 100_000, 0.40),
    "1b": ((896, 48, 14, 2, 4864), False, 4, 55_000, 0.40),
    "8b, 16 of 32 layers": ((3584, 16, 28, 4, 18944), False, 2, None, None),
    "8b": ((3584, 32, 28, 4, 18944), False, 1, None, 0.50),
}
TINY = {"tiny": ((64, 2, 4, 2, 128), True, 2, None, None)}
BEST = {"compile": True, "attention": "varlen"}
VARIANTS = {
    "eager": {},
    "compile": {"compile": True},
    "compile, selective": {"compile": True, "activation_checkpointing": "selective"},
    "compile, full": {"compile": True, "activation_checkpointing": "full"},
    "full": {"activation_checkpointing": "full"},
    "compile, deterministic": {"compile": True, "deterministic": True},
    "compile, fp32": {"compile": True, "precision": "fp32"},
    "compile, sdpa": {"compile": True, "attention": "sdpa"},
    "compile, flex": {"compile": True, "attention": "flex"},
    "compile, varlen": BEST,
    "compile, varlen, selective": {**BEST, "activation_checkpointing": "selective"},
    "compile, liger": {"compile": True, "cross_entropy": "liger"},
    "compile, 8-bit moments": {"compile": True, "optimiser_states": "8bit"},
    "compile, varlen, liger, 8-bit moments": {**BEST, "cross_entropy": "liger", "optimiser_states": "8bit"},
    "compile, varlen, selective, 8-bit moments": {
        **BEST,
        "activation_checkpointing": "selective",
        "optimiser_states": "8bit",
    },
}
ACCUMULATION = 4
UNTIMED = 2


def main(arguments: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=[*CASES], action="append")
    parser.add_argument("--variant", choices=[*VARIANTS, *train_cpu.PEERS], action="append")
    parser.add_argument("--steps", type=int, default=10, help=f"timed updates, after {UNTIMED} that are not")
    tiny = "tiny shapes on CPU, in this process: shows that the script runs, nothing else"
    parser.add_argument("--tiny", action="store_true", help=tiny)
    parser.add_argument("--one", nargs=2, metavar=("CASE", "VARIANT"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.one:
        print(json.dumps(measure(*args.one, args)))
        return []
    import torch

    if not (args.tiny or torch.cuda.is_available()):
        print("no CUDA device here, so nothing is measured; --tiny tries the script out on CPU")
        return []
    rows: list[dict] = []
    for case in TINY if args.tiny else args.case or CASES:
        found = {variant: run_one(case, variant, args) for variant in args.variant or variants(case)}
        rows += report(case, found, args)
        if not args.tiny:
            write("training-gpu", merged(rows), tuned_on="nothing")
    return rows


def variants(case: str) -> list[str]:
    """Those of ours that fit the card, and the peers that are installed for the smallest case."""
    ours = [name for name, options in VARIANTS.items() if case != "8b" or options.get("optimiser_states") == "8bit"]
    peers = [name for name, (package, _) in train_cpu.PEERS.items() if importlib.util.find_spec(package)]
    return [*ours, *(peers if case in {"0.5b", "tiny"} else [])]


def run_one(case: str, variant: str, args: argparse.Namespace) -> dict:
    """What `measure` gives, or {"failed": why}."""
    if args.tiny:
        try:
            measured = measure(case, variant, args)
        except ValueError as error:  # a variant that needs a GPU says so
            measured = {"failed": str(error)}
    else:
        command = [sys.executable, __file__, "--steps", str(args.steps), "--one", case, variant]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        last = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["no message"]
        measured = {"failed": last[-1]} if done.returncode else json.loads(last[-1])
    print(case, variant, measured, sep=": ", flush=True)
    return measured


def report(case: str, found: dict[str, dict], args: argparse.Namespace) -> list[dict]:
    """Rows of all variants of a case, and of the best of ours beside the targets and the peers."""
    *_, tokens, mfu = (TINY if args.tiny else CASES)[case]
    rows = []
    for variant, measured in found.items():
        if "failed" in measured:
            rows.append(row(f"{case}: {variant}: failed, {measured['failed'][:80]}", "tokens/s", 0.0))
            continue
        rows.append(row(f"{case}: {variant}", "tokens/s", measured["tokens_per_second"]))
        if measured["mfu"]:
            rows.append(row(f"{case}: {variant}", "MFU", measured["mfu"]))
            rows.append(row(f"{case}: {variant}", "MFU of what the mask leaves", measured["mfu_doc"]))
        rows.append(row(f"{case}: {variant}: most memory", "GB", measured["gigabytes"]))
    ours = {name: made for name, made in found.items() if name in VARIANTS and "failed" not in made}
    if not ours:
        return rows
    best = max(ours, key=lambda name: ours[name]["tokens_per_second"])
    rows.append(row(f"{case}: best ({best})", "tokens/s", ours[best]["tokens_per_second"], target=tokens))
    if ours[best]["mfu"]:
        rows.append(row(f"{case}: best ({best})", "MFU", ours[best]["mfu"], target=mfu))
    for name in [name for name in train_cpu.PEERS if "failed" not in found.get(name, {"failed": ""})]:
        package, title = train_cpu.PEERS[name]
        peer = f"{title}, {package} {importlib.metadata.version(package)}"
        for key, unit in (("tokens_per_second", "tokens/s"), ("gigabytes", "GB")):
            rows.append(row(f"{case}: best ({best})", unit, ours[best][key], peer=(peer, found[name][key])))
    return rows


def merged(rows: list[dict]) -> list[dict]:
    """`rows`, and before them those of an earlier run on variants that were not measured now."""
    path = Path(__file__).parent / "results" / "training-gpu.json"
    before = json.loads(path.read_text())["rows"] if path.exists() else []
    now = {(r["metric"].split(": failed")[0], r["unit"], r["peer"]) for r in rows}
    return [r for r in before if (r["metric"].split(": failed")[0], r["unit"], r["peer"]) not in now] + rows


def measure(case: str, variant: str, args: argparse.Namespace) -> dict:
    import torch

    from train.monitor import throughput

    numbers, tied, micro_rows, _, _ = (TINY if args.tiny else CASES)[case]
    device = torch.device("cpu" if args.tiny else "cuda")
    context = 128 if args.tiny else 4096
    shape = dict(zip(FIELDS, numbers, strict=True)) | {
        "vocab_size": 997 if args.tiny else VOCABULARY,
        "tie_word_embeddings": tied,
        "max_position_embeddings": context,
    }
    with tempfile.TemporaryDirectory() as folder:
        options = argparse.Namespace(
            steps=args.steps + UNTIMED - 1,
            rows=micro_rows,
            context=context,
            vocab=shape["vocab_size"],
            folder=folder,
            precision=["bf16"],
        )
        train_cpu.prepare_rows(Path(folder), options, ACCUMULATION)
        rows = train_cpu.load_rows(folder)
        times: list[float] = []

        def tick() -> None:
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter())

        if variant in VARIANTS:
            net, pairs = ours(options, shape, rows, tick, device, VARIANTS[variant])
        else:
            net, pairs = peer(variant, options, shape, rows, tick, device)
        rate = args.steps * ACCUMULATION * micro_rows * context / (times[-1] - times[UNTIMED - 1])
        use = throughput.utilisation(net, context, 1, throughput.device_peak(device))
        share = use({"tokens_per_second": rate, "attended_per_token": pairs})
        return {
            "tokens_per_second": rate,
            "mfu": share.get("mfu"),
            "mfu_doc": share.get("mfu_doc"),
            "gigabytes": throughput.memory_bytes(device) / 1e9,
        }


def ours(options: argparse.Namespace, shape: dict, rows: dict, tick, device, variant: dict):  # noqa: PLR0917
    from train import model
    from train.loop import LoopConfig, fit
    from train.methods import pretrain

    config = LoopConfig(
        steps=options.steps + 1, rows_per_step=ACCUMULATION * options.rows, micro_rows=options.rows, lr=1e-4,
        eps=1e-5, log_every=1000, **{"precision": "bf16", **variant},
    )  # fmt: skip
    with device:  # made where it is trained: 8 B random numbers take minutes on a CPU
        net = model.build(shape)
    more = {"device": device, "after_step": lambda step, _: tick()}
    out = str(Path(options.folder) / "out")
    summary = fit(net, train_cpu.batches(rows), pretrain.loss, config, out, **more)
    if config.compile and not summary["compiled"]:
        raise ValueError("torch.compile does not work here")
    return net, summary["attended_per_token"]


def peer(name: str, options: argparse.Namespace, shape: dict, rows: dict, tick, device):  # noqa: PLR0917
    """The trainer of `name`; it attends within documents too."""
    from train import model
    from train.monitor import flops

    model.save(model.build(shape), None, str(Path(options.folder) / "model"), options.context)
    more = {"use_cpu": device.type == "cpu", "bf16": True, "gradient_accumulation_steps": ACCUMULATION}
    trainer = train_cpu.TRAINERS[name](options, rows, tick, more)
    trainer.train()
    return trainer.model.cpu(), flops.attention_pairs(rows["doc_ids"]) / rows["doc_ids"].numel()


if __name__ == "__main__":
    main()
