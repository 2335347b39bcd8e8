"""How long it takes to check, sort and thin 100,000 chats on one core, and the near-duplicates of datasketch beside ours.

    python benchmarks/training_chats.py [--chats 100000] [--peer-chats 5000]

Chats of four turns and about 1,300 characters of made-up words, a tenth of them edited copies (half of these of a chat in the
other language, which stay). CPU time of one process; the stage itself has one for each input file. The language of answers is
not checked, as no model knows these words: by lid.176 that adds a second for 12,000 answers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasketch import MinHash, MinHashLSH
from table import row, write

from curation.dedup import conversations
from mixture.tokenizer import tokenizer
from ray_jobs.config import reader as recipes
from ray_jobs.run.graph import STAGES
from ray_jobs.run.job import Job
from ray_jobs.run.progress import Progress
from ray_jobs.stages import sft_data

FILES = 10
WORDS = 30_000

RECIPE = """
name: chats
languages: [id, th]
sources: [{{name: web, type: jsonl, path: /data/*.jsonl}}]
train:
  base: {{model: x}}
  expand: {{new_layers: 1}}
  pretrain: {{stage1: {{tokens: 1, rows_per_step: 1}}, stage2: {{tokens: 1, rows_per_step: 1}}}}
  sft:
    instruct: "{folder}/*.jsonl"
    stage1: {{optimiser: {{rows_per_step: 1, lr: 1}}}}
    stage2: {{optimiser: {{rows_per_step: 1, lr: 1}}}}
"""


def texts(n: int, seed: int = 0) -> list[list[str]]:
    """The four turns of each of `n` chats."""
    random = np.random.default_rng(seed)
    syllables = [c + v for c in "bcdfghjklmnprstwy" for v in ("a", "i", "u", "e", "o", "an", "ang")]
    words = np.array(["".join(random.choice(syllables, random.integers(1, 5))) for _ in range(WORDS)])
    frequent = 1 / np.arange(1, WORDS + 1)
    drawn = words[random.choice(WORDS, (n, 200), p=frequent / frequent.sum())]
    for i in np.flatnonzero(random.random(n) < 0.1)[1:]:
        drawn[i] = drawn[random.integers(i)]
        drawn[i, random.choice(200, 2, replace=False)] = random.choice(words, 2)
    return [[" ".join(part) for part in np.split(line, [30, 100, 130])] for line in drawn]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--chats", type=int, default=100_000)
    parser.add_argument("--peer-chats", type=int, default=5_000)
    options = parser.parse_args()
    chats = texts(options.chats)
    with tempfile.TemporaryDirectory() as folder:
        rows = stage(chats, folder)
    few = ["\n".join(turns) for turns in chats[: options.peer_chats]]
    rows.append(copies(few))
    write("training-chats", rows, tuned_on="nothing")


def stage(chats: list[list[str]], folder: str) -> list[dict]:
    tokenizer.train_bpe((text for turns in chats[:2000] for text in turns), 8000, f"{folder}/run/tokenize/tokenizer")
    names = [f"{folder}/{number}.jsonl" for number in range(FILES)]
    for number, name in enumerate(names):
        lines = (
            json.dumps({"id": f"chat-{i}", "lang": ("id", "th")[i % 2], "task": "translate", "messages": [
                {"role": ("user", "assistant")[t % 2], "content": text} for t, text in enumerate(chats[i])]})
            for i in range(number, len(chats), FILES)
        )  # fmt: skip
        Path(name).write_text("\n".join(lines))
    Path(f"{folder}/recipe.yaml").write_text(RECIPE.format(folder=folder))
    recipe = recipes.load(f"{folder}/recipe.yaml")
    which = next(one for one in STAGES if one.name == "sft/data")
    seconds = {}

    def one_by_one(job, function, tasks, unit):
        function({**tasks[0], "out": f"{folder}/warm/part", "ledger": f"{folder}/warm/ledger"})  # compiled by then
        begin = time.process_time()
        found = [function(task) for task in tasks]
        seconds["files"] = time.process_time() - begin
        seconds["rest"] = time.process_time()
        return found

    sft_data._each = lambda job, tasks: one_by_one(job, sft_data._part, tasks, "files")
    with Progress("sft/data", print, folder) as progress:
        result = sft_data.run(Job(recipe, f"{folder}/run", which, "f", progress))
    seconds["rest"] = time.process_time() - seconds["rest"]
    n = len(chats)
    print(result["rules"], f"{seconds['files']:.1f} s in files, {seconds['rest']:.1f} s over all")
    return [
        row("each file: layout, rules, tokens, band keys", "chats/s/core", n / seconds["files"]),
        row("over all: copies, sample, statistics", "chats/s/core", n / seconds["rest"]),
        row("a million chats on 16 cores", "minutes", 1e6 / n * (seconds["files"] / 16 + seconds["rest"]) / 60),
    ]


def copies(found: list[str]) -> dict:
    """Chats a second that are told from copies: ours beside datasketch's usual loop, on shingles of five words each."""
    config = conversations.bands(0.8)
    conversations.copies(conversations.keys(pa.array(found[:10]), config), np.arange(10))
    begin = time.process_time()
    ours = conversations.copies(conversations.keys(pa.array(found), config), np.arange(len(found)))
    own = time.process_time() - begin
    begin, lsh, theirs = time.process_time(), MinHashLSH(threshold=0.8, num_perm=128), 0
    for i, text in enumerate(found):
        words = text.split()
        minhash = MinHash(num_perm=128)
        minhash.update_batch([" ".join(words[k : k + 5]).encode() for k in range(len(words) - 4)])
        if lsh.query(minhash):
            theirs += 1
        else:
            lsh.insert(i, minhash)
    peer = time.process_time() - begin
    print(f"copies among {len(found)}: ours {int((ours >= 0).sum())}, datasketch {theirs}")
    return row("copies", "chats/s/core", len(found) / own, peer=("datasketch 2.0.0", len(found) / peer))


if __name__ == "__main__":
    main()
