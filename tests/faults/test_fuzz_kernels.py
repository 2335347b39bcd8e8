"""Every kernel on text that nobody would write: random bytes, every script of Unicode, nothing at all, and 50 MB.

Nothing raises, and what comes in is kept or in the ledger. Bytes become text as the readers make them (invalid UTF-8 is
replaced), so that is what the text kernels see; the extractor sees the bytes.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curation.decontaminate import Index, build, search
from curation.dedup.lines import line_hashes, remove_lines
from curation.dedup.minhash import MinHash, band_keys
from curation.extract.extractor import Extractor
from curation.extract.page import ENGINES
from curation.lid.identify import identify
from curation.lid.script import share
from curation.lm.kneser_ney import estimate
from curation.lm.perplexity import Model, load, perplexity, save
from curation.policy.policy import policy_kernel
from curation.schema import DOCUMENT, RAW, raw
from curation.signals.edit import normalise
from curation.signals.masking import mask
from curation.signals.text_signals import signals_kernel
from curation.sources import block_lists
from curation.text.urls import url_keys

LANGUAGES = ["my", "ceb", "ilo", "id", "jv", "km", "lo", "ms", "su", "tl", "th", "vi", "war", "en", "zh"]
SECONDS_OF_50_MB = 60.0  # of CPU; a hang is minutes, the slowest kernel takes under ten seconds


def random_bytes(seed: int) -> list[bytes]:
    rng = random.Random(seed)
    sizes = [0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 63, 64, 65, 255, 1000, 4096, 20_000]
    return [rng.randbytes(size) for size in sizes] + [bytes(rng.choices(b"<>/= \"'&#;!-pdivascript\x00\xff\n", k=5000))]


def every_script() -> list[str]:
    """One text for each 256 code points that hold an assigned one, as words, as one token and as lines."""
    texts = []
    for first in range(0, 0x30000, 0x100):
        letters = [chr(c) for c in range(first, first + 0x100) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
        if letters:
            texts += [" ".join(letters), "".join(letters), "\n".join(letters)]
    return texts


def strange() -> list[str]:
    return [
        "",
        " ",
        "\n" * 1000,
        "\u200b\u200d\ufeff" * 300,
        "\u0301" * 2000,  # marks with nothing to stand on
        "ก" + "\u0e48" * 5000,
        "\u1039" * 999 + "\u17d2" * 999,  # stackers with nothing to stack
        "a" * 100_000,
        "ภ" * 100_000,
        "的" * 100_000,
        ("ab " * 30_000).strip(),
        "\U0010ffff\ufffe\uffff\x00\x01\x7f\x85\u2028",
        "👩‍👩‍👧‍👦🏳️‍🌈" * 500,
        "ﷺ" * 1000,
        "١٢٣۴۵६७८" * 200,
        "http://" * 2000,
        "<" * 5000 + "&#x110000;" * 100,
        "İıſK" * 1000,  # letters whose lower case has another length
    ]


@cache
def texts(seeds: int = 1) -> list[str]:
    drawn = [data.decode("utf-8", "replace") for seed in range(seeds) for data in random_bytes(seed)]
    return drawn + every_script() + strange()


def documents(values: list[str], langs: list[str] | None = None) -> pa.RecordBatch:
    rows = [
        {"doc_id": f"{i:032x}", "url": f"https://x.example/{i}", "source": "s", "text": t} for i, t in enumerate(values)
    ]
    batch = pa.RecordBatch.from_pylist(rows, DOCUMENT)
    return batch.append_column("lang", pa.array(langs or [LANGUAGES[i % 15] for i in range(len(values))]))


def complete(batch: pa.RecordBatch, result: tuple[pa.RecordBatch, pa.RecordBatch]) -> pa.RecordBatch:
    """The kept documents, after a check that each document is either kept or in the ledger."""
    kept, ledger = result
    stay, gone = set(kept["doc_id"].to_pylist()), set(ledger["doc_id"].to_pylist())
    assert not stay & gone
    assert stay | gone == set(batch["doc_id"].to_pylist())
    return kept


@cache
def of_signals():
    return signals_kernel(LANGUAGES)


def measures(batch: pa.RecordBatch) -> pa.RecordBatch:
    measured = complete(batch, of_signals()(batch))
    assert measured.num_rows == batch.num_rows
    for field in measured.schema:
        if pa.types.is_floating(field.type):
            values = measured[field.name].drop_null().to_numpy()
            assert np.isfinite(values).all(), field.name
            assert (values >= 0).all(), field.name
    return measured


@cache
def evaluation_set() -> Index:
    rows = [
        {"q": " ".join(f"w{i}" for i in range(30))},
        {"q": "ชายคนนั้น" * 9},
        {"q": "one two three four five six seven eight nine"},
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "e.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return build([str(path)])


@cache
def language_model() -> Model:
    """A model of a few letters; all else is unknown to it."""
    vocabulary = ["<unk>", "<s>", "</s>", "▁", *"abcdefghijklmnopqrstuvwxyzกขค", "▁the", "ab"]
    words = np.random.default_rng(1).integers(3, len(vocabulary), 500).astype(np.int32)
    with tempfile.TemporaryDirectory() as folder:
        save(
            folder,
            vocabulary,
            [-float(i) for i in range(len(vocabulary))],
            estimate(words, np.arange(10, 501, 10), 5),
            {},
        )
        return load(folder)


def has_perplexity(batch: pa.RecordBatch) -> None:
    values = perplexity(batch["text"], language_model())
    assert len(values) == batch.num_rows and (values[~np.isnan(values)] > 0).all() and not np.isinf(values).any()


def blocks(batch: pa.RecordBatch) -> None:
    none = np.zeros(0, np.uint64)
    lists = block_lists.BlockLists(none, none, none)
    by_text = batch.set_column(1, "url", batch["text"])
    assert complete(by_text, block_lists.block(by_text, lists)).num_rows == batch.num_rows


TEXT_KERNELS = {
    "block lists": blocks,
    "masks": mask,
    "decontamination": lambda batch: search(batch["text"], evaluation_set()),
    "perplexity": has_perplexity,
    "language": lambda batch: complete(batch, identify(languages=LANGUAGES)(batch.drop_columns(["lang"]))),
    "edit": normalise,
    "signals": measures,
    "policy": lambda batch: complete(batch, policy_kernel(LANGUAGES)(measures(batch))),
    "minhash": lambda batch: band_keys(batch["text"], MinHash()),
    "lines": lambda batch: remove_lines(
        batch["text"], np.zeros(batch.num_rows, np.int64), {0: np.unique(line_hashes(batch["text"], 1)[1])[::2]}, 1
    ),
    "script": lambda batch: share(batch["text"], batch["lang"].to_pylist()),
    "url": lambda batch: url_keys(batch["text"].to_pylist()),
}


@pytest.mark.parametrize("name", TEXT_KERNELS)
def test_no_text_raises(name):
    values = texts(3)
    TEXT_KERNELS[name](documents(values))
    TEXT_KERNELS[name](documents(values[::-1], ["th"] * len(values)))
    TEXT_KERNELS[name](documents([]))


@cache
def long_texts() -> list[str]:
    rng = np.random.default_rng(0)
    words = ["".join(chr(c) for c in rng.integers(0x61, 0x7B, rng.integers(1, 12))) for _ in range(5000)]
    syllables = ["".join(chr(c) for c in rng.integers(0x0E01, 0x0E2F, 4)) for _ in range(3000)]
    return [" ".join(rng.choice(words, 7_500_000 // 2)), "".join(rng.choice(syllables, 1_300_000)), "x" * 25_000_000]


@pytest.mark.parametrize("name", sorted(set(TEXT_KERNELS) - {"policy", "url"}))
@pytest.mark.slow
def test_50_megabytes_end_in_time(name):
    long = long_texts()
    begin = time.process_time()
    for text, lang in zip(long, ["id", "th", "en"], strict=True):
        TEXT_KERNELS[name](documents([text], [lang]))
    assert time.process_time() - begin < SECONDS_OF_50_MB * len(long)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_page_raises(engine):
    pages = [data for seed in range(3) for data in random_bytes(seed)]
    pages += [text.encode("utf-8", "surrogatepass") for text in texts()[:60]]
    pages += [b"<html><body><p>" + page for page in pages[:20]] + [b"<div>" * 20_000, b"<p" * 20_000, b"<!--" * 9000]
    rows = [
        raw(f"r{i}", f"https://x.example/{i}", source="s", source_id=str(i), payload=page)
        for i, page in enumerate(pages)
    ]
    batch = pa.RecordBatch.from_pylist(rows, RAW)
    extractor = Extractor(engine, timeout_seconds=5.0)
    try:
        complete(batch, extractor(batch))
    finally:
        extractor.close()
