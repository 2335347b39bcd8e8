"""Do small experiments find the mixture of a large one when a language is scarce? Losses of a law, and real small models.

    PINISI_SAMPLE_DIR=... python benchmarks/mixture_repetition.py [--simulated 40] [--tokens 245760]

Simulated: random problems of two and three pools (tests/mixture/regmix/test_repetition.py), of seeds not looked at before.
Real: models of 0.15M parameters learn Indonesian from a large pool and Lao from 1/16 of the tokens. Their losses are
measured at ten weights of Lao: with all tokens, with 1/16 of them from the whole pools, and with 1/16 of them from pools cut
alike.
The best weight is where the sum of ln(loss) is least, by a parabola. Draws docs/plots/repetition.svg.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from table import row, write

from mixture.regmix import repetition
from mixture.store.token_store import TokenStore, write_store
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.report import plots
from ray_jobs.stages.regmix_proxies import _batch_fn
from train.methods import proxy

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "mixture" / "regmix"))

PART = 16  # of the target's tokens are a proxy's
WEIGHTS = np.array([0.01, 0.03, 0.06, 0.12, 0.2, 0.3, 0.42, 0.56, 0.72, 0.9])  # of Lao
SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4}
SHAPE |= {"intermediate_size": 128, "tie_word_embeddings": True, "rope_theta": 10_000.0}
VOCABULARY, CONTEXT, ROWS, HELDOUT = 1024, 64, 8, 6_000


def simulated(problems: int) -> list[dict]:
    import test_repetition as law

    rows = []
    for pools in (2, 3):
        off = []
        for seed in range(1000, 1000 + problems):
            unique_D, losses = law.problem(seed, pools)
            wanted_D = law.optimum(unique_D, losses)
            off.append([np.abs(law.found(seed, unique_D, losses, match=m) - wanted_D).max() for m in (True, False)])
        off_N2 = np.array(off)
        for k, kind in enumerate(("matched", "whole pools")):
            target = 0.05 if kind == "matched" else None
            what = f"{pools} simulated pools, one scarce, 1/16 of the tokens, {kind}: weights off by"
            rows.append(row(f"{what}, median", "share", float(np.median(off_N2[:, k])), target=target, least=False))
            rows.append(row(f"{what}, worst of {problems}", "share", float(off_N2[:, k].max())))
            rows.append(row(f"{what} at most .05", "of problems", float((off_N2[:, k] <= 0.05).mean())))
    return rows


def stores(folder: Path, tokens: int) -> dict[str, tuple[TokenStore, TokenStore, TokenStore]]:
    """Of each language: its pool for the target, the same part of it, held-out text."""
    texts = {}
    for lang in ("id", "lo"):
        with gzip.open(
            Path(os.environ["PINISI_SAMPLE_DIR"]) / "text" / f"{lang}.jsonl.gz", "rt", encoding="utf-8"
        ) as file:
            texts[lang] = [json.loads(line)["text"] for line in file]
    sample = [text[:2000] for many in texts.values() for text in many[:150]]
    tokenizer = tokenizers.train_bpe(sample, VOCABULARY, str(folder / "tokenizer"))
    found = {}
    for lang, size in (("id", tokens), ("lo", tokens // 16)):
        encoded = [ids[:4000] for ids in tokenizers.encode(tokenizer, texts[lang])]
        order = np.random.default_rng(1).permutation(len(encoded))
        made, begin, at = [], 0, 0
        for name, wanted in (("heldout", HELDOUT), ("part", size // PART), ("whole", size)):
            begin = at if name == "part" else begin
            at, held, documents = begin, 0, []  # the part is the begin of the whole
            while held < wanted and at < len(order):
                ids = encoded[order[at]][: wanted - held - 1]
                documents.append((f"{lang}{at:030}", lang, 1, ids))
                held, at = held + len(ids) + 1, at + 1
            uri = str(folder / f"{lang}-{name}")
            write_store(uri, documents, VOCABULARY, tokenizer.eos_token_id)
            made.append(TokenStore(uri))
        heldout, part, whole = made
        found[lang] = (whole, part, heldout)
    return found


def losses(pools: dict[str, TokenStore], heldout: dict[str, TokenStore], tokens: int, seed: int) -> np.ndarray:
    """[weights, language] of models of `tokens` tokens each."""
    config = proxy.ProxyConfig(tokens // (ROWS * CONTEXT), ROWS, ROWS, lr=1e-2, warmup_steps=3, seed=seed)
    batches = [_batch_fn(dict(pools), {"id": 1 - w, "lo": w}, CONTEXT, seed) for w in WEIGHTS.tolist()]
    measured = {}
    for lang, store in heldout.items():
        draw = _batch_fn({lang: store}, {lang: 1.0}, CONTEXT, seed)
        windows = (store.n_tokens - 1) // CONTEXT
        measured[lang] = [draw(list(range(first, min(first + 16, windows)))) for first in range(0, windows, 16)]
    shape = {**SHAPE, "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT}
    return proxy.losses(shape, batches, measured, config)


def best(losses_NL: np.ndarray) -> float:
    """The weight of Lao with the least sum of ln(loss): of a parabola through the least point and its neighbours."""
    total_N = np.log(losses_NL).sum(1)
    k = int(np.clip(total_N.argmin(), 1, len(WEIGHTS) - 2))
    a, b, _ = np.polyfit(WEIGHTS[k - 1 : k + 2], total_N[k - 1 : k + 2], 2)
    return float(np.clip(-b / (2 * a), WEIGHTS[k - 1], WEIGHTS[k + 1]) if a > 0 else WEIGHTS[total_N.argmin()])


def real(tokens: int) -> list[dict]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = stores(Path(folder), tokens)
        heldout = {lang: three[2] for lang, three in found.items()}
        whole, part = ({lang: three[k] for lang, three in found.items()} for k in (0, 1))
        assert repetition.kept(tokens, tokens // PART) == 1 / PART
        begin = time.process_time()
        runs = {
            "all tokens": losses(whole, heldout, tokens, 0),
            "1/16, whole pools": losses(whole, heldout, tokens // PART, 0),
            "1/16, pools cut alike": losses(part, heldout, tokens // PART, 0),
        }
        seconds = time.process_time() - begin
    weights = {name: best(found_NL) for name, found_NL in runs.items()}
    series = {}
    for name, found_NL in runs.items():
        total_N = np.log(found_NL).sum(1)
        series[f"{name}: best {weights[name]:.2f}"] = (WEIGHTS.tolist(), (total_N - total_N.min()).tolist())
    drawn = plots.lines(series, "share of Lao", "sum of ln(loss), less its least")
    (ROOT / "docs" / "plots" / "repetition.svg").write_text(drawn, "utf-8")
    for name, found_NL in runs.items():
        print(name, found_NL.round(3).tolist())
    wanted = weights["all tokens"]
    rows = [row("real models: best share of Lao with all tokens", "share", wanted)]
    for name in ("1/16, pools cut alike", "1/16, whole pools"):
        rows.append(row(f"real models: {name}: off by", "share", abs(weights[name] - wanted)))
    return [*rows, row("real models: 30 of them", "CPU s", seconds)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--simulated", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=245_760)
    options = parser.parse_args()
    if options.simulated:
        write("mixture-repetition", simulated(options.simulated), "the form of the law, on other seeds")
    if options.tokens:
        write("mixture-repetition-models", real(options.tokens), "nothing")


if __name__ == "__main__":
    main()
