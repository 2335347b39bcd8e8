"""A small model from rows of 256 to rows of 1,024, with each mask on the same tokens: bits per byte by position.

    PINISI_SAMPLE_DIR=... python benchmarks/long_context.py      # the folder with text/<lang>.jsonl.gz; two minutes of a CPU

The model (0.4 M parameters, heads of 32) learns two languages in rows of 256. Then 20 updates of 8 rows of 1,024 follow, three
fifths of them from documents of at least 1,024 tokens, by the stage's own rows, masks, rotation and mixture. It is measured on
held-out documents of at least 1,024 tokens, one a row, so all buckets are of the same documents: before (with the base of its
rotation as it was, and as it is trained on with), and after each mask. As served: behind the anchor where the mask is `anchor`.

The gate is the spec's: the last bucket is not worse than the first. So small a model cannot show the masks' rank at 128K; that
none of them is broken, and which positions a longer training wins, it can.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from table import row, write

from mixture import long_weights
from mixture.order.sampler import Sampler, rows
from mixture.store.long_documents import LongDocuments
from mixture.store.token_store import TokenStore, write_store
from mixture.tokenizer import anchor as anchors
from mixture.tokenizer import tokenizer as tokenizers
from mixture.weights import Pool
from train import model
from train.bases import rotation
from train.batches import long_rows
from train.loop import LoopConfig, fit
from train.methods import pretrain
from train.scores import evaluate

LANGUAGES = ("ceb", "ilo")
SHAPE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
SHAPE |= {"intermediate_size": 256, "tie_word_embeddings": True, "rope_theta": 1e4, "max_position_embeddings": 256}
VOCABULARY = 1024
SHORT, LONG = 256, 1024
EDGES = [256, 512, 1024]
LONG_SHARE = 0.6
BYTES = 1_200_000  # of training text of each language
HELDOUT = 10  # long documents of each language
BASE = {"steps": 200, "rows_per_step": 8, "micro_rows": 8, "lr": 8e-3, "min_lr": 8e-4, "schedule": "cosine"}
MORE = {"steps": 20, "rows_per_step": 8, "micro_rows": 4, "lr": 2e-3, "min_lr": 2e-4, "schedule": "cosine"}
UNSEEN = "nothing: held-out documents; the sizes of model and training were chosen on those of other languages"


def main() -> None:
    torch.set_num_threads(1)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(os.environ["PINISI_SAMPLE_DIR"], "text"), folder)
    made = []
    for arm, buckets in measured.items():
        made += [row(f"{arm}: positions {name}", "bits per byte", value) for name, value in buckets.items()]
        first, *_, last = buckets.values()
        if arm.startswith("after"):
            made.append(row(f"{arm}: last bucket over first", "bits per byte", last - first, target=0.0, least=False))
    made.append(row("all of it", "CPU s", time.process_time() - began, target=120.0, least=False))
    write("training-long-context", made, tuned_on=UNSEEN)


def measure(texts: Path, folder: str) -> dict[str, dict[str, float]]:
    """{what was measured: {bucket: bits per byte}}."""
    tokenizer, pools, heldout = corpus(texts, folder)
    eod = anchors.anchor(tokenizer)
    net = model.build(SHAPE | {"vocab_size": VOCABULARY}, seed=1)
    blend = {name: 1.0 for name in pools}
    train(net, packed(pools, blend, SHORT), pretrain.loss, BASE, f"{folder}/base")
    model.save(net, None, f"{folder}/model", SHORT)
    longer = rotation.settled(net.config, LONG, None)
    found = {"before, base 1e4": score(net, heldout, eod, [])}
    name = f"{longer.theta:.0e}".replace("+0", "")
    found[f"before, base {name}"] = score(model.load(f"{folder}/model", rotation=longer), heldout, eod, [])
    stores = {f"{name}>={LONG}": LongDocuments(store, LONG) for name, store in pools.items()}
    tokens = MORE["steps"] * MORE["rows_per_step"] * LONG
    plan = long_weights.long_context(blend, sizes(pools), sizes(stores), tokens, share=LONG_SHARE, max_epochs=4)
    for mask in ("full", "intra_document", "reset", "anchor"):
        net = model.load(f"{folder}/model", rotation=longer)
        batch_fn = long_rows.batch_fn(packed(pools | stores, plan.weights, LONG - 1), eod, mask)
        loss = functools.partial(pretrain.loss, mask=long_rows.attended(mask))
        train(net, batch_fn, loss, MORE, f"{folder}/{mask}")
        found[f"after, {mask}"] = score(net, heldout, eod, [eod] if mask == "anchor" else [])
    return found


def corpus(texts: Path, folder: str):
    """(tokenizer, {pool: store}, held-out documents as (tokens, bytes of each))."""
    documents = {lang: read(texts / f"{lang}.jsonl.gz") for lang in LANGUAGES}
    kept = {lang: of[0] for lang, of in documents.items()}
    sample = [text for of in kept.values() for text in of]
    tokenizer = tokenizers.train_bpe(sample, VOCABULARY, f"{folder}/tokenizer", max_bytes=2_000_000)
    pools, heldout = {}, []
    for lang, (training, held) in documents.items():
        encoded = [
            (str(i), lang, len(text.encode()), ids)
            for i, (text, ids) in enumerate(zip(training, tokenizers.encode(tokenizer, training), strict=True))
        ]
        write_store(f"{folder}/{lang}", encoded, VOCABULARY, anchors.anchor(tokenizer))
        pools[f"all/{lang}"] = TokenStore(f"{folder}/{lang}")
        found = [anchors.encode_with_bytes(tokenizer, text) for text in held]
        heldout += [evaluate.Tokens(*made) for made in found if len(made[0]) >= LONG][:HELDOUT]
    return tokenizer, pools, heldout


def read(path: Path) -> tuple[list[str], list[str]]:
    """(training texts up to `BYTES`, held-out texts): every seventh of the long ones is held out."""
    training, held, size, long = [], [], 0, 0
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            text = json.loads(line)["text"]
            long += len(text) > 5 * LONG
            if len(text) > 5 * LONG and long % 7 == 0:
                held.append(text)
            elif size < BYTES:
                training.append(text)
                size += len(text.encode())
    return training, held


def sizes(pools) -> dict[str, Pool]:
    return {name: Pool(store.n_tokens, store.n_tokens) for name, store in pools.items()}


def packed(pools, blend: dict[str, float], context: int):
    sampler = Sampler(pools, [{"from_sample": 0, "weights": blend}], context, seed=5)

    def batch(numbers: list[int]) -> dict[str, torch.Tensor]:
        made = {name: torch.from_numpy(value) for name, value in rows(sampler, numbers).items() if name != "pool"}
        return made | {"count": (made["labels"] >= 0).sum()}

    return batch


def train(net, batch_fn, loss, settings: dict, out: str) -> None:
    fit(net, batch_fn, loss, LoopConfig(**settings, warmup_steps=3, log_every=1000), out)


def score(net, heldout: list[evaluate.Tokens], eod: int, begin: list[int]) -> dict[str, float]:
    texts = {f"document{i}": evaluate.Tokens(one.ids[:LONG], one.bytes[:LONG]) for i, one in enumerate(heldout)}
    found = evaluate.score(net, evaluate.pack_by_position(texts, edges=EDGES, eod=eod, begin=begin))
    sums: dict[str, list[float]] = {}
    for name, entry in found.items():
        bits, size = sums.setdefault(name.split()[1], [0.0, 0])
        sums[name.split()[1]] = [bits + entry["bits"], size + entry["bytes"]]
    return {name: bits / size for name, (bits, size) in sums.items()}


if __name__ == "__main__":
    main()
