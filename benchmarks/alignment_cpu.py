"""SFT and DPO of ours beside TRL's on CPU: tokens per second and peak memory with Qwen's vocabulary.

    python benchmarks/alignment_cpu.py [--steps 3] [--rounds 3] [--only sft]

Both train the same weights (the small Qwen2 body of benchmarks/train_cpu.py, tied, 151,936 tokens) on the same conversations or
pairs in the same updates, in fp32, with fused AdamW, at the same rates. Lengths are log-normal like those of chat data: a prompt
has 80 tokens in the median, an answer 80. A token counts once for each conversation, or side of a pair, that it is in; padding
never counts. The losses of the last update must agree to 1e-3, or the benchmark fails. Each run is a process of its own with one
thread, so its peak of resident memory is its own; ours and TRL's take turns.

TRL has its best settings of those that work on a CPU. SFT: packed rows without padding, one a micro-batch (its `packing=True`
with `bfd`, which packs a whole data set; here each update has its own rows, packed likewise). DPO: reference
log-probabilities precomputed (`precompute_ref_log_probs`), one pair a micro-batch, so that only the shorter side is padded
(`padding_free` is switched off in 1.16). Its chunked head is always on; Liger has no CPU kernels.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import train_cpu

BETA = 0.1
LR = 1e-4
SPEED, MEMORY = 1.3, 0.6
TASKS = ("sft", "dpo")
PEERS = {"sft": "SFTTrainer", "dpo": "DPOTrainer"}


@dataclass(frozen=True)
class Work:
    """What both train on. An update has `rows` packed rows of `context` tokens (SFT), or `pairs` pairs (DPO).

    `median` is of the tokens of a prompt and of an answer; the first `warm` updates are not timed. `micro_rows` and
    `micro_pairs` are ours, `peer_pairs` TRL's; TRL has one row at a time. `device` and `precision` are of both, `loop` more of
    ours and `trainer` more of TRL's settings.
    """

    folder: str
    steps: int = 3
    warm: int = 1
    vocab: int = train_cpu.SHAPE["vocab_size"]
    context: int = 1024
    median: int = 80
    rows: int = 2
    pairs: int = 4
    micro_rows: int = 1
    micro_pairs: int = 1
    peer_pairs: int = 1
    device: str = "cpu"
    precision: str = "fp32"
    loop: dict = field(default_factory=dict)
    trainer: dict = field(default_factory=dict)

    @property
    def updates(self) -> int:
        return self.warm + self.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2, help="timed updates, after one that is not")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=TASKS, help="one of the two")
    parser.add_argument("--vocab", type=int, default=Work.vocab, help="smaller to try the script out")
    parser.add_argument("--no-result", action="store_true", help="print, write no file")
    parser.add_argument("--one", nargs=2, metavar=("TASK", "WHO"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one, Work(args.folder, steps=args.steps, vocab=args.vocab))))
        return
    runs: dict[tuple[str, str], list[dict]] = {
        (task, who): [] for task in TASKS if args.only in {None, task} for who in ("pinisi", "trl")
    }
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), train_cpu.SHAPE | {"vocab_size": args.vocab}, Work.context)
        for _ in range(args.rounds):
            for (task, who), done in runs.items():
                done.append(run_one(__file__, task, who, folder))
                print(task, who, {k: v for k, v in done[-1].items() if k != "losses"}, flush=True)
    for task in TASKS:
        last = [run["losses"][-1] for (of, _), done in runs.items() if of == task for run in done]
        assert not last or max(last) - min(last) < 1e-3, f"{task}: the losses of the last update differ: {last}"
    report(runs, args)


def prepare(folder: Path, shape: dict, context: int) -> None:
    """The model; its conversations and pairs are drawn anew by every run from one seed."""
    from train import model

    model.save(model.build(shape, seed=0), None, str(folder / "model"), context)


def texts(rng: np.random.Generator, work: Work) -> np.ndarray:
    """Tokens of one prompt or answer: a Zipf law over the vocabulary, as in texts."""
    length = int(np.clip(rng.lognormal(np.log(work.median), 0.7), 4, work.context // 2 - 1))
    return np.minimum(rng.zipf(1.2, length), work.vocab) - 1


def example(name: str, prompt: np.ndarray, answer: np.ndarray):
    from train.batches.examples import Example

    scored = np.repeat([False, True], [len(prompt), len(answer)])
    return Example(name, "xx", np.concatenate([prompt, answer]), scored)


def conversations(work: Work) -> tuple[list, list[list[int]]]:
    """(examples, rows of their indices), packed by best-fit decreasing."""
    from train.methods import sft

    rng = np.random.default_rng(0)
    examples, rows = [], []
    while len(rows) < work.rows * work.updates:
        some = [example(str(len(examples) + i), texts(rng, work), texts(rng, work)) for i in range(64)]
        packed = sft.pack([len(one.ids) for one in some], work.context)[:-1]  # the last row is what was left over
        rows += [[len(examples) + i for i in row] for row in packed]
        examples += some
    return examples, rows[: work.rows * work.updates]


def preference_pairs(work: Work):
    from train.methods.dpo import Pairs

    rng = np.random.default_rng(1)
    prompts = [texts(rng, work) for _ in range(work.pairs * work.updates)]
    sides = [[example(str(i), prompt, texts(rng, work)) for i, prompt in enumerate(prompts)] for _ in range(2)]
    return Pairs(*sides)


def run_one(script: str, task: str, who: str, folder: str) -> dict:
    command = [sys.executable, script, *sys.argv[1:], "--one", task, who, "--folder", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{task}, {who} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(task: str, who: str, work: Work) -> dict:
    import torch

    if work.device == "cpu":
        torch.set_num_threads(train_cpu.THREADS)
    times: list[tuple[float, float]] = []  # after each update: wall and CPU seconds of the process

    def tick() -> None:
        if work.device == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter(), time.process_time()))

    losses, tokens = RUNS[task, who](work, tick)
    (wall0, cpu0), (wall1, cpu1) = times[work.warm - 1], times[-1]
    return {
        "tokens_per_second": tokens / (wall1 - wall0),
        "tokens_per_cpu_second": tokens / (cpu1 - cpu0),
        "peak_mib": peak_bytes(work.device) / 2**20,
        "losses": losses,
    }


def peak_bytes(device: str) -> int:
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def sft_of_ours(work: Work, tick: Callable[[], None]) -> tuple[list[float], int]:
    from train.methods import sft

    examples, rows = conversations(work)
    batch_fn = in_order(sft.batch_fn(examples, rows, work.context, seed=0), len(rows))
    tokens = sum(len(examples[i].ids) for row in rows[work.rows * work.warm :] for i in row)
    return fit(work, tick, load(work), batch_fn, sft.loss, work.rows, work.micro_rows), tokens


def dpo_of_ours(work: Work, tick: Callable[[], None]) -> tuple[list[float], int]:
    from train.methods import dpo

    pairs, net = preference_pairs(work), load(work)
    reference = dpo.reference_logprobs(net, pairs, str(Path(work.folder) / "reference"))
    batch_fn = in_order(dpo.batch_fn(pairs, reference, seed=0, packed=True), len(pairs.chosen))
    loss = dpo.loss_fn(dpo.Objective("dpo", BETA))
    return fit(work, tick, net, batch_fn, loss, work.pairs, work.micro_pairs), tokens_of(pairs, work)


def in_order(batch_fn: Callable, n: int) -> Callable:
    """`batch_fn` without the permutation of its epoch, so that an update has the rows that TRL's has."""
    from train.batches.examples import in_epochs

    place = {in_epochs(row, n, 0): row for row in range(n)}
    return lambda numbers: batch_fn([place[number] for number in numbers])


def tokens_of(pairs, work: Work) -> int:
    """Of both sides of all pairs of the timed updates."""
    return sum(len(one.ids) for side in pairs for one in side[work.pairs * work.warm :])


def load(work: Work):
    from train import model

    return model.load(str(Path(work.folder) / "model")).to(work.device)


def fit(work: Work, tick: Callable, net, batch_fn: Callable, loss_fn: Callable, rows: int, micro: int):  # noqa: PLR0917
    import torch

    from train.loop import LoopConfig
    from train.loop import fit as train

    config = LoopConfig(
        steps=work.updates, rows_per_step=rows, micro_rows=micro, lr=LR, beta1=train_cpu.BETAS[0],
        beta2=train_cpu.BETAS[1], eps=train_cpu.EPS, weight_decay=train_cpu.DECAY, clip=train_cpu.CLIP, log_every=1,
        precision=work.precision, **work.loop,
    )  # fmt: skip
    losses: list[float] = []
    more = {
        "device": torch.device(work.device),
        "on_log": lambda record: losses.append(record["loss"]),
        "after_step": lambda step, _: tick(),
    }
    train(net, batch_fn, loss_fn, config, str(Path(work.folder) / "out"), **more)
    return losses


def sft_of_trl(work: Work, tick: Callable[[], None]) -> tuple[list[float], int]:
    from datasets import Dataset
    from transformers import default_data_collator
    from trl import SFTConfig, SFTTrainer

    examples, rows = conversations(work)
    packed = []
    for row in rows:
        chosen = [examples[i] for i in row]
        ids = np.concatenate([one.ids for one in chosen])
        packed.append(
            {
                "input_ids": ids,
                "labels": np.where(np.concatenate([one.scored for one in chosen]), ids, -100),
                "position_ids": np.concatenate([np.arange(len(one.ids)) for one in chosen]),
            }
        )
    own = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None}
    trainer = SFTTrainer(
        train_cpu.net(work),
        SFTConfig(**arguments(work, 1, work.rows) | own),
        train_dataset=Dataset.from_list(packed).with_format("torch"),
        callbacks=[train_cpu.clock(tick)],
        data_collator=default_data_collator,
        processing_class=tokenizer(),
    )
    tokens = sum(len(one["input_ids"]) for one in packed[work.rows * work.warm :])
    return losses_of(trainer), tokens


def dpo_of_trl(work: Work, tick: Callable[[], None]) -> tuple[list[float], int]:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    pairs = preference_pairs(work)
    rows = [
        {
            "prompt_ids": chosen.ids[~chosen.scored],
            "chosen_ids": chosen.ids[chosen.scored],
            "rejected_ids": rejected.ids[rejected.scored],
        }
        for chosen, rejected in zip(*pairs, strict=True)
    ]
    own = {"beta": BETA, "loss_type": ["sigmoid"], "precompute_ref_log_probs": True, "max_length": None}

    class Tokenised(DPOTrainer):
        def _prepare_dataset(self, dataset, *_):
            return dataset

    trainer = Tokenised(
        train_cpu.net(work),
        args=DPOConfig(**arguments(work, work.peer_pairs, work.pairs) | own),
        train_dataset=Dataset.from_list(rows),
        callbacks=[train_cpu.clock(tick)],
        processing_class=tokenizer(),
    )
    return losses_of(trainer), tokens_of(pairs, work)


RUNS = {
    ("sft", "pinisi"): sft_of_ours,
    ("sft", "trl"): sft_of_trl,
    ("dpo", "pinisi"): dpo_of_ours,
    ("dpo", "trl"): dpo_of_trl,
}


def arguments(work: Work, micro: int, rows: int) -> dict:
    common = train_cpu.arguments(
        argparse.Namespace(folder=work.folder, rows=micro, steps=work.updates - 1, precision=["fp32"])
    )
    own = {
        "learning_rate": LR,
        "gradient_accumulation_steps": rows // micro,
        "gradient_checkpointing": False,
        "use_cpu": work.device == "cpu",
        "bf16": work.precision == "bf16",
    }
    return common | own | work.trainer


def tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE({"<eos>": 0, "<pad>": 1}, []))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", pad_token="<pad>")


def losses_of(trainer) -> list[float]:
    trainer.train()
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


def report(runs: dict[tuple[str, str], list[dict]], args: argparse.Namespace) -> None:
    from table import row, write

    rows = []
    for task in dict.fromkeys(task for task, _ in runs):

        def middle(who: str, key: str, task: str = task) -> float:
            return statistics.median(run[key] for run in runs[task, who])

        peer = f"{PEERS[task]}, trl {importlib.metadata.version('trl')}"
        for key, unit in (("tokens_per_second", "tokens/s"), ("tokens_per_cpu_second", "tokens/s of CPU time")):
            ours, theirs = middle("pinisi", key), middle("trl", key)
            rows.append(
                row(
                    f"{task}, vocabulary {args.vocab:,}",
                    unit,
                    ours,
                    peer=(peer, theirs),
                    target=round(SPEED * theirs, 1),
                )
            )
        ours, theirs = middle("pinisi", "peak_mib"), middle("trl", "peak_mib")
        rows.append(
            row(f"{task}, peak memory", "MiB", ours, peer=(peer, theirs), target=round(MEMORY * theirs, 1), least=False)
        )
    if not args.no_result:
        write("alignment-cpu", rows, tuned_on="nothing")


if __name__ == "__main__":
    main()
