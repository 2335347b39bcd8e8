"""The tokenize stage's output: every document under its id, with exactly its tokens."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from cluster import storage
from mixture.bpe import nfc
from mixture.store.token_store import TokenStore
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.stages.tokenize import PARTS, _kernel, _write_pools

TEXTS = [
    "ka\u0323pal itu berlayar ke pelabuhan\n\nlalu berhenti",
    "เรือเล็กจอดนิ่งอยู่ที่ท่าเรือ",
    "",
    "<|endoftext|> the boats stayed in 2024",
    "လှေငယ်များသည် ဆိပ်ကမ\u103a\u1037းတွင်",
    " " * 300 + "小船" * 400,
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("bpe") / "tokenizer")
    return folder, tokenizers.train_bpe(iter(TEXTS * 20), 700, folder)


def documents() -> pa.RecordBatch:
    n = 40
    return pa.record_batch(
        {
            "doc_id": [hashlib.md5(str(i).encode()).hexdigest() for i in range(n)],
            "lang": ["id" if i % 3 else "th" for i in range(n)],
            "url": [f"https://example.org/{i}" for i in range(n)],
            "licence": pa.array([None] * n, pa.string()),
            "quality": pa.array(np.linspace(0, 1, n), pa.float32()),
            "text": [f"{TEXTS[i % len(TEXTS)]} {i}" if i % 6 != 2 else "" for i in range(n)],
        }
    )


def test_tokens_of_each_document_lie_under_its_id(tokenizer, tmp_path):
    folder, one = tokenizer
    batch = documents()
    part, ledger = _kernel(folder, {"id": 0.3, "th": 0.3}, 0.0, 0)(batch)
    assert part.schema == PARTS
    assert ledger.num_rows == 0
    rows, texts = part.to_pylist(), dict(zip(batch["doc_id"].to_pylist(), batch["text"].to_pylist(), strict=True))
    assert 0 < sum(row["heldout"] for row in rows) < 30
    for row in rows:
        (ids,) = tokenizers.encode(one, [texts[row["doc_id"]]])
        assert row["n_tokens"] == len(ids)
        assert row["tokens"] == (None if row["heldout"] else ids.tolist())
        assert row["text"] == (texts[row["doc_id"]] if row["heldout"] else None)

    uri = str(tmp_path / "part-00000.parquet")
    storage.write_table(uri, pa.Table.from_batches([part]))
    for lang in ("id", "th"):
        _write_pools((lang, [uri], str(tmp_path), 0.2, len(one), one.eos_token_id))
        store = TokenStore(str(tmp_path / "pools" / "all" / lang))
        expected = [row["doc_id"] for row in rows if row["lang"] == lang and not row["heldout"]]
        assert store.documents["doc_id"].to_pylist() == expected
        for document in store.documents.to_pylist():
            ids = store.tokens[document["start"] : document["start"] + document["length"]].tolist()
            assert ids[-1] == one.eos_token_id
            assert one.eos_token_id not in ids[:-1]  # a page can not end a document
            assert one.decode(ids[:-1]) == nfc.text(texts[document["doc_id"]])


def test_dropout_of_the_stage_is_that_of_document_and_seed(tokenizer):
    folder, one = tokenizer
    batch = documents()
    parts = [_kernel(folder, {"id": 0.0, "th": 0.0}, 0.1, seed)(batch)[0] for seed in (0, 0, 1)]
    assert parts[0].equals(parts[1])
    assert parts[0]["tokens"] != parts[2]["tokens"]
    assert (
        parts[0]
        .slice(7, 5)["tokens"]
        .equals(_kernel(folder, {"id": 0.0, "th": 0.0}, 0.1, 0)(batch.slice(7, 5))[0]["tokens"])
    )
    plain = _kernel(folder, {"id": 0.0, "th": 0.0}, 0.0, 0)(batch)[0]
    assert sum(parts[0]["n_tokens"].to_pylist()) > 1.02 * sum(plain["n_tokens"].to_pylist())
    for text, ids in zip(batch["text"].to_pylist(), parts[0]["tokens"].to_pylist(), strict=True):
        assert one.decode(ids) == nfc.text(text)
