"""Kernels of two checkouts side by side: CPU seconds of the other one and of this one, in turn, in processes of their own.

    git worktree add ../before COMMIT
    python benchmarks/paired_kernels.py ../before [--rounds 5]

For changes that shall not slow anything, such as a move. Texts are of the shared data (`PINISI_SAMPLE_DIR`), 200 documents in
each of six languages.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
LANGUAGES = ("th", "lo", "my", "zh", "vi", "en")
# kernel -> the modules that may hold it, now and before 2026-11-29
MODULES = {
    "signals": ("curation.signals.text_signals", "curation.signals"),
    "minhash": ("curation.dedup.minhash", "curation.minhash"),
    "html": ("curation.extract.markup", "curation.markup"),
    "bpe": ("mixture.tokenizer.encoder", "mixture.encoder"),
    "sampler": ("mixture.order.sampler", "mixture.sampler"),
}


def load(kernel: str):
    for name in MODULES[kernel]:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise SystemExit(f"{kernel}: none of {', '.join(MODULES[kernel])} is here")


def texts() -> list[tuple[str, str]]:
    folder = Path(os.environ["PINISI_SAMPLE_DIR"]) / "text"
    found = []
    for lang in LANGUAGES:
        with gzip.open(folder / f"{lang}.jsonl.gz", "rt", encoding="utf-8") as file:
            found += [(lang, json.loads(line)["text"]) for _, line in zip(range(200), file, strict=False)]
    return found


def work(kernel: str):
    """A function without arguments that runs the kernel once."""
    import pyarrow as pa

    module, rows = load(kernel), texts()
    column = pa.array([text for _, text in rows])
    if kernel == "signals":
        names = pa.array([str(number) for number in range(len(rows))])
        columns = {"doc_id": names, "url": names, "lang": pa.array([lang for lang, _ in rows]), "text": column}
        measure, batch = module.signals_kernel(list(LANGUAGES)), pa.record_batch(columns)
        return lambda: measure(batch)
    if kernel == "minhash":
        return lambda: module.signatures(column)
    if kernel == "html":
        pages = [f"<html><body><div class=story><p>{text}</p></div></body></html>".encode() for _, text in rows]
        return lambda: [module.parse(page) for page in pages]
    if kernel == "bpe":
        from transformers import AutoTokenizer

        encoder = module.Encoder(AutoTokenizer.from_pretrained(os.environ["PAIRED_TOKENIZER"]))
        return lambda: encoder.encode(column)
    store = importlib.import_module("mixture.store.token_store" if "order" in module.__name__ else "mixture.store")
    folder = tempfile.mkdtemp()
    import numpy as np

    documents = ((str(i), "en", 10, np.arange(i % 900, dtype=np.int64) % 1000) for i in range(20_000))
    store.write_store(folder, documents, 1000, 0)
    schedule = [{"from_sample": 0, "weights": {"one": 1.0}}]
    sampler = module.Sampler({"one": store.TokenStore(folder)}, schedule, 1024, seed=1)
    return lambda: module.rows(sampler, list(range(2000)))


def one(kernel: str) -> None:
    run = work(kernel)
    run()  # compiles
    best = min(_timed(run) for _ in range(3))
    print(best)


def _timed(run) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, nargs="?", help="the other checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=MODULES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one)
        return
    from table import row, write

    tokenizer = tempfile.mkdtemp()
    from mixture.tokenizer.tokenizer import train_bpe

    train_bpe((text for _, text in texts()), 8000, tokenizer)
    rows = []
    for kernel in MODULES:
        seconds: dict[Path, list[float]] = {options.before.resolve(): [], HERE.parent: []}
        for _ in range(options.rounds):
            for checkout, found in seconds.items():
                environment = {**os.environ, "PYTHONPATH": str(checkout), "PAIRED_TOKENIZER": tokenizer}
                command = [sys.executable, str(HERE / "paired_kernels.py"), "--one", kernel]
                done = subprocess.run(
                    command, env=environment, cwd=checkout, capture_output=True, text=True, check=True
                )
                found.append(float(done.stdout.split()[-1]))
        before, now = (statistics.median(found) for found in seconds.values())
        peer = ("the other checkout", 1000 * before)
        rows.append(row(kernel, "CPU ms", 1000 * now, peer=peer, target=round(1050 * before, 1), least=False))
    write("paired-kernels", rows, tuned_on="nothing")


if __name__ == "__main__":
    main()
