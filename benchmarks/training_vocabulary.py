"""What a grown vocabulary saves: bits per byte of scarce languages against CPU seconds of continued training, grown and not.

    PINISI_SAMPLE_DIR=... python benchmarks/training_vocabulary.py [--seconds 40] [--add 768] [--seed 0]

A small Llama learns English and Chinese with a vocabulary that is nearly all theirs: Burmese, Khmer and Lao are 1 % of the bytes
it is made from, and cost about as many tokens as with Qwen's. `pinisi vocabulary grow` grows it from other documents than those
that are measured. Both models are then trained on with the same settings and shares of tokens (English .4, the three .2 each),
for the same CPU seconds of one process, in turns. Tokens are chosen and weights grown outside of that time, which is a row.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import pyarrow as pa
import torch
from table import row, write
from transformers import LlamaConfig, LlamaForCausalLM

from cluster import document_tokens, storage
from mixture.tokenizer import tokenizer as tokenizers
from mixture.tokenizer.encoder import Encoder
from ray_jobs import cli
from train import model
from train.methods.pretrain import loss
from train.scores import evaluate

KNOWN, SCARCE = ("en", "zh"), ("my", "km", "lo")
SHARES = {"en": 0.4, "my": 0.2, "km": 0.2, "lo": 0.2}
VOCABULARY, CONTEXT, ROWS, LR = 4096, 128, 16, 2e-3
HELDOUT = 20  # every so many-th document is measured
POINTS = 10  # of each curve
NAMES = {"en": "English", "my": "Burmese", "km": "Khmer", "lo": "Lao"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=40, help="CPU seconds of training after the base")
    parser.add_argument("--add", type=int, default=768)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    texts = {lang: read(lang, 1_500_000) for lang in (*KNOWN, *SCARCE)}
    train = {lang: [t for i, t in enumerate(of_lang) if i % HELDOUT] for lang, of_lang in texts.items()}
    heldout = {lang: up_to(of_lang[::HELDOUT], 20_000) for lang, of_lang in texts.items() if lang in NAMES}
    with tempfile.TemporaryDirectory() as folder:
        base, grown = f"{folder}/base", f"{folder}/grown"
        make_base(base, train, args.seconds * 3 / 4, args.seed)
        storage.write_table(
            f"{folder}/documents.parquet",
            pa.Table.from_pylist(
                [{"lang": lang, "text": text} for lang, of in train.items() for text in up_to(of, 300_000)]
            ),
        )
        began = time.process_time()
        try:
            cli.main(
                [
                    "vocabulary",
                    "grow",
                    base,
                    "--documents",
                    f"{folder}/documents.parquet",
                    "--out",
                    grown,
                    "--add",
                    str(args.add),
                ]
            )
        except SystemExit as ended:
            assert not ended.code, "the vocabulary did not grow"
        growing = time.process_time() - began
        about = storage.read_json(f"{grown}/vocabulary.json")
        runs = {name: Run(where, train, heldout, args.seed) for name, where in (("old", base), ("grown", grown))}
    for point in range(1, POINTS + 1):
        for run in runs.values():
            run.until(args.seconds * point / POINTS)
    rows, old, new = [], runs["old"].curve, runs["grown"].curve
    for lang in SCARCE:
        value = old[-1][1][lang]
        reached = reach(new, lang, value)
        rows.append(
            row(
                f"{NAMES[lang]}: share of the CPU seconds until the old vocabulary's last bits per byte",
                "share",
                reached,
                target=0.5,
                least=False,
            )
        )
    difference = new[-1][1]["en"] - old[-1][1]["en"]
    rows.append(
        row(
            "English: bits per byte more than with the old vocabulary, after the same CPU seconds",
            "bits/byte",
            difference,
            target=0.01,
            least=False,
        )
    )
    for lang, name in NAMES.items():
        rows.append(
            row(
                f"{name}: bits per byte at the end",
                "bits/byte",
                new[-1][1][lang],
                peer=("old vocabulary", old[-1][1][lang]),
            )
        )
        rows.append(
            row(
                f"{name}: bits per byte before training on",
                "bits/byte",
                new[0][1][lang],
                peer=("old vocabulary", old[0][1][lang]),
            )
        )
        sizes = [run.bytes_per_token[lang] for run in (runs["grown"], runs["old"])]
        rows.append(row(f"{name}: held-out bytes a token", "bytes", sizes[0], peer=("old vocabulary", sizes[1])))
    rows.append(
        row(
            "nats that old tokens lose before training",
            "nats",
            about["nats_lost_by_old_tokens"],
            target=0.01,
            least=False,
        )
    )
    rows.append(row("the same, new head rows the means alone", "nats", about["nats_lost_with_means_alone"]))
    rows.append(row("CPU seconds of growing", "s", growing))
    rows.append(
        row(
            "tokens that the grown model read in the time",
            "tokens",
            runs["grown"].tokens,
            peer=("old vocabulary", runs["old"].tokens),
        )
    )
    write("training-vocabulary", rows, tuned_on="nothing: held-out documents, settings from one try on fewer seconds")


def read(lang: str, most: int) -> list[str]:
    path = Path(os.environ["PINISI_SAMPLE_DIR"], "text", f"{lang}.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line)["text"] for line in lines]
    order = np.random.default_rng(1).permutation(len(rows))
    return up_to([rows[i] for i in order], most)


def up_to(texts: list[str], most: int) -> list[str]:
    kept, used = [], 0
    for text in texts:
        kept.append(text)
        used += len(text.encode())
        if used >= most:
            break
    return kept


def make_base(folder: str, train: dict[str, list[str]], seconds: float, seed: int) -> None:
    some = {lang: up_to(train[lang], 800_000 if lang in KNOWN else 4_000) for lang in train}
    tokenizer = tokenizers.train_bpe(
        [text for of_lang in some.values() for text in of_lang], VOCABULARY, f"{folder}-tokenizer"
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    net = LlamaForCausalLM(config)
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    run = Run(folder, train, {}, seed, dict.fromkeys(KNOWN, 0.5))
    run.until(seconds)
    model.save(run.net, tokenizer, folder, CONTEXT)
    print(f"base: {run.tokens:,} tokens, loss {run.last:.2f}", flush=True)


class Run:
    """One model in training; `curve` has (CPU seconds, bits per byte by language)."""

    def __init__(self, folder: str, train: dict, heldout: dict, seed: int, shares: dict[str, float] = SHARES) -> None:
        self.net, tokenizer = model.load(folder), tokenizers.load(folder)
        self.eod, encoder = document_tokens.end(tokenizer), Encoder(tokenizer)
        streams = {
            lang: [np.append(ids, self.eod) for ids in encoder.encode(pa.array(train[lang])).to_pylist()]
            for lang in shares
        }
        self.batches = batches({lang: np.concatenate(of) for lang, of in streams.items()}, shares, self.eod, seed)
        encoded = {lang: encoder.encode(pa.array(of)).to_pylist() for lang, of in heldout.items()}
        self.heldout = [
            (lang, ids, len(text.encode()))
            for lang, of in encoded.items()
            for ids, text in zip(of, heldout[lang], strict=True)
        ]
        self.bytes_per_token = {
            lang: sum(len(t.encode()) for t in heldout[lang]) / sum(map(len, of)) for lang, of in encoded.items()
        }
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.1)
        self.used, self.tokens, self.steps, self.last = 0.0, 0, 0, 0.0
        self.curve = [(0.0, self.measure())]

    def until(self, seconds: float) -> None:
        self.net.train()
        while self.used < seconds:
            began = time.process_time()
            for group in self.optimiser.param_groups:
                group["lr"] = LR * min(1.0, (self.steps + 1) / 20)
            parts = loss(self.net, next(self.batches))
            value = parts.loss_sum / parts.count
            value.backward()
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad()
            self.steps, self.tokens, self.last = self.steps + 1, self.tokens + ROWS * CONTEXT, float(value.detach())
            self.used += time.process_time() - began
        self.curve.append((self.used, self.measure()))
        if self.heldout:
            print(
                f"{self.used:6.0f} s {len(self.net.lm_head.weight):6,} rows",
                *(f"{lang} {bits:.3f}" for lang, bits in self.curve[-1][1].items()),
                flush=True,
            )

    def measure(self) -> dict[str, float]:
        if not self.heldout:
            return {}
        found = evaluate.bits_per_byte(self.net.eval(), self.heldout, context=CONTEXT, eod=self.eod)
        return {lang: entry["bits_per_byte"] for lang, entry in found.items()}


def batches(streams: dict[str, np.ndarray], shares: dict[str, float], eod: int, seed: int) -> Iterator[dict]:
    """Rows from random places, each of one language; a document's positions and attention begin after the end of the last."""
    rng, names = np.random.default_rng(seed), list(shares)
    while True:
        langs = rng.choice(names, ROWS, p=list(shares.values()))
        starts = [rng.integers(len(streams[lang]) - CONTEXT - 1) for lang in langs]
        ids = torch.tensor(
            np.stack([streams[lang][s : s + CONTEXT + 1] for lang, s in zip(langs, starts, strict=True)]).astype(
                np.int64
            )
        )
        inputs, labels = ids[:, :-1], ids[:, 1:].clone()
        doc_ids = torch.nn.functional.pad((inputs[:, :-1] == eod).cumsum(1), (1, 0))
        labels[inputs == eod] = -100
        at = torch.arange(CONTEXT).expand(ROWS, -1)
        first = torch.where(torch.nn.functional.pad(doc_ids[:, 1:] != doc_ids[:, :-1], (1, 0)), at, 0).cummax(1).values
        yield {"input_ids": inputs, "labels": labels, "doc_ids": doc_ids, "position_ids": at - first}


def reach(curve: list[tuple[float, dict[str, float]]], lang: str, value: float) -> float:
    """The share of the CPU seconds after which a curve is at `value`, between two points by the straight line; 2 for never."""
    for (one, before), (two, after) in pairwise(curve):
        if after[lang] <= value:
            part = 0.0 if before[lang] <= value else (before[lang] - value) / (before[lang] - after[lang])
            return (one + part * (two - one)) / curve[-1][0]
    return 2.0


if __name__ == "__main__":
    main()
