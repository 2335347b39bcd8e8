"""What each language pays in tokens: plain BPE and parity-aware BPE, either kind of pieces, on parallel documents not seen.

    PINISI_SAMPLE_DIR=... python benchmarks/mixture_parity.py [--vocab-size 32768]

Trains on text/<lang>.jsonl.gz without the sources ntrex128 and udhr, which are the parallel documents: 114 keys in up to 15
languages, of which one half (`cost.halves`) chooses the merges and the other is judged. `letters` chooses without any parallel
document. `by udhr` chooses by the declarations alone and is judged on all news, another source. All texts are in the one form
(`curation.text.form`), as a run has them; in the source itself the Burmese news are in Zawgyi. Seconds are CPU time of one
thread. Ids are compared with `tokenizers` on all judged documents.

Plain BPE is learnt here as one language; `train_bpe`, which is the trainer of `tokenizers`, gives the same but for ties
(8,152 of 8,192 tokens of a sixth of the text), and is beside ours where training is timed: 8,192 tokens of that sixth.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.metadata
import json
import os
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import pyarrow as pa
from table import row, write

from curation.text.form import one_form
from mixture.tokenizer import cost
from mixture.tokenizer.encoder import Encoder
from mixture.tokenizer.parity import train_parity
from mixture.tokenizer.tokenizer import encode, load, train_bpe

PARALLEL = ("ntrex128", "udhr")
KEY = re.compile(r"article\d+|ntrex:[^:]+")
GINI, SPREAD, TOKENS, SECONDS, SPEED = 0.08, 1.6, 1.05, 2.0, 4.0  # targets; the last in M tokens/s/core
ARMS = {
    "plain, qwen2": ("qwen2", "plain"),
    "parity, marks": ("marks", "chosen"),
    "parity by letters, marks": ("marks", "letters"),
    "parity by udhr, marks": ("marks", "udhr"),
    "parity, qwen2": ("qwen2", "chosen"),
}
TIMING = "timing"
SPEED_BYTES = 3_000_000  # of each language


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument("--folder", help="keep the tokenizers here, and train none again that is there")
    parser.add_argument("--only", nargs="*", choices=[*ARMS, TIMING], help="train these, measure nothing")
    args = parser.parse_args()
    texts, parallel = read(Path(os.environ["PINISI_SAMPLE_DIR"], "text"))
    chosen, judged = cost.halves(parallel)
    declared = {lang: only(of, "article") for lang, of in parallel.items()}
    pairs = [(lang, text) for lang, of in texts.items() for text in of]
    by = {"chosen": chosen, "letters": {}, "udhr": declared, "plain": {}}
    made: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        train_parity(pairs[:20], 300, f"{folder}/compiled")  # before the first measurement
        for name in args.only or [*ARMS, TIMING]:
            kept = Path(args.folder or folder, re.sub(r"\W+", "-", name))
            done = kept / "seconds.json"
            if name == TIMING and not done.exists():
                kept.mkdir(parents=True)
                done.write_text(json.dumps(timing(pairs[::6], folder)))
            elif not done.exists():
                pieces, judge = ARMS[name]
                read_as = [("all", text) for _, text in pairs] if judge == "plain" else pairs
                _, took = timed(
                    lambda r=read_as, k=str(kept), p=by[judge], q=pieces: train_parity(
                        r, args.vocab_size, k, parallel=p, pieces=q
                    )
                )
                done.write_text(json.dumps({name: took}))
            seconds = json.loads(done.read_text())
            print(seconds, flush=True)
            if name != TIMING:
                made[name] = load(str(kept))
    if args.only:
        return
    results = costs(made, judged, {lang: only(of, "ntrex") for lang, of in parallel.items()})
    for name in ("parity, qwen2", "parity, marks"):
        peer = (f"train_bpe, tokenizers {importlib.metadata.version('tokenizers')}", seconds["train_bpe"])
        most = round(SECONDS * peer[1], 2)
        metric = f"training, {name}, a sixth of the text"
        results.append(row(metric, "CPU s", seconds[name], peer=peer, target=most, least=False))
    results += speeds({name: made[name] for name in ("plain, qwen2", "parity, marks")}, texts)
    write("mixture-parity", results, tuned_on="nothing")


def costs(made: dict, judged: cost.Parallel, news: cost.Parallel) -> list[dict]:
    """Rows of the spread of costs over all languages, over the news alone, and the cost of each language."""
    results, rows = [], cost.token_costs(made, judged)
    plain = next(one for one in cost.parity(rows) if one["tokenizer"] == "plain, qwen2")
    for one in cost.parity(rows):
        name, aimed = one["tokenizer"], one["tokenizer"] == "parity, marks"
        if name == "parity by udhr, marks":  # has seen half of what is judged here
            continue
        limits = (GINI, SPREAD, TOKENS) if aimed else (None,) * 3
        results += [
            row(f"{name}: Gini of cost, {len(judged)} languages", "", one["gini"], target=limits[0], least=False),
            row(f"{name}: dearest over cheapest language", "", one["max_over_min"], target=limits[1], least=False),
            row(f"{name}: all tokens", "x plain", one["tokens"] / plain["tokens"], target=limits[2], least=False),
        ]
    seen = {lang: {key: text for key, text in of.items() if key in judged.get(lang, {})} for lang, of in news.items()}
    for title, side in (("judged news", seen), ("all news", news)):
        mine = {n: m for n, m in made.items() if (title == "all news") == (n == "parity by udhr, marks")}
        for one in cost.parity(cost.token_costs(mine, {lang: of for lang, of in side.items() if of})):
            name = f"{one['tokenizer']}: {title}, 10 languages"
            results.append(row(f"{name}: Gini", "", one["gini"]))
            results.append(row(f"{name}: dearest over cheapest", "", one["max_over_min"]))
    by_lang: dict[str, dict[str, float]] = defaultdict(dict)
    for one in rows:
        by_lang[one["lang"]][one["tokenizer"]] = one["cost"]
    for lang, of in sorted(by_lang.items()):
        peer = ("plain, qwen2", of["plain, qwen2"])
        results.append(
            row(f"{lang}: tokens against English, parity, marks", "x English", of["parity, marks"], peer=peer)
        )
    for name, tokenizer in made.items():
        for of in judged.values():
            ids = Encoder(tokenizer).encode(pa.array(list(of.values()))).to_pylist()
            assert ids == [one.tolist() for one in encode(tokenizer, list(of.values()))], f"{name}: other ids"
    return results


def timing(pairs: list[tuple[str, str]], folder: str) -> dict[str, float]:
    """CPU seconds of training 8,192 tokens."""
    return {
        "train_bpe": timed(lambda: train_bpe((text for _, text in pairs), 8192, f"{folder}/t0"))[1],
        **{
            f"parity, {pieces}": timed(lambda p=pieces: train_parity(pairs, 8192, f"{folder}/{p}", pieces=p))[1]
            for pieces in ("qwen2", "marks")
        },
    }


def speeds(made: dict, texts: dict[str, list[str]]) -> list[dict]:
    results = []
    for name, tokenizer in made.items():
        tokens, ours, theirs = 0, 0.0, 0.0
        for lang, of in texts.items():
            some = within(of, SPEED_BYTES)
            encoder = Encoder(tokenizer)
            encoder.encode(pa.array(some[:1]))
            ids, took = timed(lambda e=encoder, s=some: e.encode(pa.array(s)))
            few = within(some, SPEED_BYTES // 10)
            _, peer = timed(lambda t=tokenizer, s=few: encode(t, s))
            n = len(ids.values)
            rate = peer / len(encoder.encode(pa.array(few)).values)
            tokens, ours, theirs = tokens + n, ours + took, theirs + rate * n
            if name == "parity, marks":
                results.append(row(f"encoding, {name}: {lang}", "M tokens/s/core", n / took / 1e6))
        peer = (f"tokenizers {importlib.metadata.version('tokenizers')}, a tenth of it", tokens / theirs / 1e6)
        rate = tokens / ours / 1e6
        results.append(row(f"encoding, {name}: all languages", "M tokens/s/core", rate, peer=peer, target=SPEED))
    return results


def only(texts: dict[str, str], begin: str) -> dict[str, str]:
    return {key: text for key, text in texts.items() if key.startswith(begin)}


def within(texts: list[str], most: int) -> list[str]:
    kept, used = [], 0
    for text in texts:
        kept.append(text)
        used += len(text.encode())
        if used >= most:
            break
    return kept


def read(folder: Path) -> tuple[dict[str, list[str]], dict[str, dict[str, str]]]:
    texts: dict[str, list[str]] = defaultdict(list)
    parallel: dict[str, dict[str, str]] = defaultdict(dict)
    for path in sorted(folder.glob("*.jsonl.gz")):
        lang = path.name.split(".")[0]
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for one in map(json.loads, lines):
                if one["source"] in PARALLEL:
                    parallel[lang][KEY.search(one["id"]).group()] = one_form(one["text"])
                else:
                    texts[lang].append(one_form(one["text"]))
    return dict(texts), dict(parallel)


def timed(call: Callable) -> tuple:
    start = time.process_time()
    result = call()
    return result, time.process_time() - start


if __name__ == "__main__":
    main()
