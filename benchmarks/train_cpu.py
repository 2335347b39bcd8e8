"""Our loop beside the HF Trainer and TRL's SFTTrainer on CPU: tokens per second and peak memory with Qwen's vocabulary.

    python benchmarks/train_cpu.py [--steps 3] [--rounds 2] [--rows 1] [--context 1024] [--precision fp32 bf16]

All three train the same weights (a small Qwen2 body, tied, 151,936 tokens) on the same packed rows, documents kept apart by
position ids (which transformers' SDPA understands) or by our mask, with fused AdamW, two micro-batches to an update, at the
same rates, with products in fp32, and in bf16 (fp32 weights under autocast: what our loop does by itself where the CPU can).
Each run is a process of its own with one thread: its peak of resident memory is its own, and a busy machine cannot make threads
wait for each other. Ours and its peers take turns. The losses of the last update must agree (`LOSSES`), or the benchmark
fails: speed counts only for the same work.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

SHAPE = {
    "vocab_size": 151_936,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
ACCUMULATION = 2
LR, BETAS, EPS, DECAY, CLIP = 1e-3, (0.9, 0.95), 1e-8, 0.1, 1.0
THREADS = 1
PEERS = {"hf": ("transformers", "Trainer"), "trl": ("trl", "SFTTrainer")}
SPEED, MEMORY = 1.3, 0.7
LOSSES = {"fp32": 1e-3, "bf16": 2e-2}  # nats; bf16 keeps 8 bits, and libraries round at different places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3, help="timed updates, after one that is not")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1, help="of a micro-batch")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=SHAPE["vocab_size"], help="smaller to try the script out")
    parser.add_argument("--precision", nargs="+", choices=list(LOSSES), default=list(LOSSES))
    parser.add_argument("--one", choices=["pinisi", *PEERS], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args)))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), args, SHAPE | {"vocab_size": args.vocab}, ACCUMULATION)
        for precision in args.precision:
            runs: dict[str, list[dict]] = {name: [] for name in ("pinisi", *PEERS)}
            for _ in range(args.rounds):
                for name, done in runs.items():
                    done.append(run_one(name, folder, [*sys.argv[1:], "--precision", precision]))
                    print(precision, name, {k: v for k, v in done[-1].items() if k != "losses"}, flush=True)
            last = [measured["losses"][-1] for of_one in runs.values() for measured in of_one]
            assert max(last) - min(last) < LOSSES[precision], f"the losses of the last update differ: {last}"
            results += report(runs, args, precision)
    from table import write

    write("training-cpu", results, tuned_on="nothing")


def prepare(folder: Path, args: argparse.Namespace, shape: dict, accumulation: int) -> None:
    """The model, and packed rows whose documents have log-normal lengths."""
    from train import model

    model.save(model.build(shape, seed=0), None, str(folder / "model"), args.context)
    prepare_rows(folder, args, accumulation)


def prepare_rows(folder: Path, args: argparse.Namespace, accumulation: int) -> None:
    """Rows for `args.steps` + 1 updates."""
    rng = np.random.default_rng(0)
    n = (args.steps + 1) * accumulation * args.rows
    # a Zipf law over the vocabulary, as in texts, so that there is something to learn
    ids = np.minimum(rng.zipf(1.2, (n, args.context)), args.vocab) - 1
    documents = np.zeros((n, args.context), np.int64)
    for row in documents:
        ends = np.cumsum(np.minimum(rng.lognormal(5.3, 1.0, 200), 4096).astype(int) + 1)
        row[ends[ends < args.context]] = 1
    documents = documents.cumsum(1)
    np.savez(folder / "rows.npz", ids=ids, documents=documents)


def run_one(name: str, folder: str, arguments: list[str]) -> dict:
    command = [sys.executable, __file__, *arguments, "--one", name, "--folder", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(args: argparse.Namespace) -> dict:
    import torch

    torch.set_num_threads(THREADS)
    rows = load_rows(args.folder)
    times: list[tuple[float, float]] = []  # after each update: wall and CPU seconds of the process

    def tick() -> None:
        times.append((time.perf_counter(), time.process_time()))

    if args.one == "pinisi":
        losses = pinisi(args, rows, tick)
    else:
        trainer = TRAINERS[args.one](args, rows, tick, {})
        trainer.train()
        losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    (wall0, cpu0), (wall1, cpu1) = times[0], times[-1]
    tokens = (len(times) - 1) * ACCUMULATION * args.rows * args.context
    return {
        "tokens_per_second": tokens / (wall1 - wall0),
        "tokens_per_cpu_second": tokens / (cpu1 - cpu0),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "losses": losses,
    }


def load_rows(folder: str) -> dict:
    """input_ids, labels (of the same position; the first of a document has none), position_ids, doc_ids: each [n, T]."""
    import torch

    data = np.load(Path(folder) / "rows.npz")
    ids, documents = torch.from_numpy(data["ids"]), torch.from_numpy(data["documents"])
    at = torch.arange(ids.shape[1]).expand_as(ids)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[:, 1:] = documents[:, 1:] != documents[:, :-1]
    begin = torch.where(first, at, 0).cummax(1).values
    return {
        "input_ids": ids,
        "labels": ids.masked_fill(first, -100),
        "position_ids": at - begin,
        "doc_ids": documents,
    }


def batches(rows: dict):
    """Rows by their numbers, as the loop wants them: the label of a position is the token after it."""
    import torch

    def batch(numbers: list[int]) -> dict:
        got = {name: value[numbers] for name, value in rows.items()}
        got["labels"] = torch.cat([got["labels"][:, 1:], got["labels"].new_full((len(numbers), 1), -100)], 1)
        return got | {"count": (got["labels"] >= 0).sum()}

    return batch


def pinisi(args: argparse.Namespace, rows: dict, tick: Callable[[], None]) -> list[float]:
    from train import model
    from train.loop import LoopConfig, fit
    from train.methods import pretrain

    config = LoopConfig(
        steps=args.steps + 1, rows_per_step=ACCUMULATION * args.rows, micro_rows=args.rows, lr=LR,
        beta1=BETAS[0], beta2=BETAS[1], eps=EPS, weight_decay=DECAY, clip=CLIP, log_every=1, precision=args.precision[0],
    )  # fmt: skip
    losses: list[float] = []
    net = model.load(str(Path(args.folder) / "model"))
    fit(
        net, batches(rows), pretrain.loss, config, str(Path(args.folder) / "out"),
        on_log=lambda record: losses.append(record["loss"]), after_step=lambda step, _: tick(),
    )  # fmt: skip
    return losses


def hf(args: argparse.Namespace, rows: dict, tick: Callable[[], None], more: dict):
    from transformers import Trainer, TrainingArguments, default_data_collator

    options = TrainingArguments(**arguments(args) | more)
    return Trainer(
        net(args),
        options,
        train_dataset=dataset(rows),
        callbacks=[clock(tick)],
        data_collator=default_data_collator,
    )


def trl(args: argparse.Namespace, rows: dict, tick: Callable[[], None], more: dict):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, default_data_collator
    from trl import SFTConfig, SFTTrainer

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE({"<eos>": 0, "<pad>": 1}, [])), eos_token="<eos>", pad_token="<pad>"
    )
    own = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None, "gradient_checkpointing": False}
    return SFTTrainer(
        net(args),
        SFTConfig(**arguments(args) | own | more),
        train_dataset=dataset(rows),
        callbacks=[clock(tick)],
        data_collator=default_data_collator,
        processing_class=tokenizer,
    )


TRAINERS = {"hf": hf, "trl": trl}


def arguments(args: argparse.Namespace) -> dict:
    return {
        "output_dir": str(Path(args.folder) / "out"),
        "per_device_train_batch_size": args.rows,
        "gradient_accumulation_steps": ACCUMULATION,
        "max_steps": args.steps + 1,
        "learning_rate": LR,
        "lr_scheduler_type": "constant",
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "adam_epsilon": EPS,
        "weight_decay": DECAY,
        "max_grad_norm": CLIP,
        "optim": "adamw_torch_fused",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "bf16": args.precision == ["bf16"],
        "use_cpu": True,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
    }


def net(args: argparse.Namespace):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        Path(args.folder) / "model", attn_implementation="sdpa", dtype="float32"
    )


def dataset(rows: dict):
    from datasets import Dataset

    columns = {name: rows[name].numpy() for name in ("input_ids", "labels", "position_ids")}
    return Dataset.from_dict({name: list(value) for name, value in columns.items()}).with_format("torch")


def clock(tick: Callable[[], None]):
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            tick()

    return Clock()


def report(runs: dict[str, list[dict]], args: argparse.Namespace, precision: str) -> list[dict]:
    from table import row

    def middle(name: str, key: str) -> float:
        return statistics.median(measured[key] for measured in runs[name])

    case = f"{ACCUMULATION} x {args.rows} x {args.context} tokens, vocabulary {args.vocab:,}, {precision}"
    rows = []
    for name, (package, title) in PEERS.items():
        peer = f"{title}, {package} {importlib.metadata.version(package)}"
        for key, unit in (("tokens_per_second", "tokens/s"), ("tokens_per_cpu_second", "tokens/s of CPU time")):
            ours, theirs = middle("pinisi", key), middle(name, key)
            rows.append(row(f"training, {case}", unit, ours, peer=(peer, theirs), target=round(SPEED * theirs, 1)))
        ours, theirs = middle("pinisi", "peak_mib"), middle(name, "peak_mib")
        more = {"peer": (peer, theirs), "target": round(MEMORY * theirs, 1), "least": False}
        rows.append(row(f"peak memory, {case}", "MiB", ours, **more))
    return rows


if __name__ == "__main__":
    main()
