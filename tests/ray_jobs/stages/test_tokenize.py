"""The tokenize stage's output: every document under its id, with exactly its tokens."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from cluster import storage
from mixture.bpe import nfc
from mixture.store.token_store import TokenStore
from mixture.tokenizer import tokenizer as tokenizers
from mixture.tokenizer.encoder import Encoder
from ray_jobs.config.mixture import Tokenize
from ray_jobs.errors import UserError
from ray_jobs.stages import tokenize
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


def job_of(tmp_path, **settings):
    """A run whose quality stage left 300 English documents and 8 Burmese ones, and the recipe's `tokenize` section."""
    rng = np.random.default_rng(0)
    words = {"en": "abcdefghij", "my": ["ကို", "ခါ", "ဂိ", "ငု", "စေ", "ဆံ", "ဇာ", "ညိ"]}
    every = {lang: ["".join(rng.choice(list(of), 4)) for _ in range(500)] for lang, of in words.items()}
    texts = [(lang, " ".join(rng.choice(every[lang], 40))) for lang, n in (("en", 300), ("my", 8)) for _ in range(n)]
    rows = [
        {"doc_id": hashlib.md5(str(i).encode()).hexdigest(), "lang": lang, "text": text}
        for i, (lang, text) in enumerate(texts)
    ]
    storage.write_table(str(tmp_path / "quality" / "part-0.parquet"), pa.Table.from_pylist(rows))
    sizes = {lang: sum(len(text.encode()) for of, text in texts if of == lang) for lang in words}
    said = [(str(k), [rng.integers(500) for _ in range(30)]) for k in range(20)]
    told = [
        {"key": key, "lang": lang, "text": " ".join(every[lang][i] for i in numbers)}
        for key, numbers in said
        for lang in words
    ]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    return SimpleNamespace(
        recipe=SimpleNamespace(tokenize=Tokenize(vocab_size=700, **settings)),
        manifest=lambda stage: {"bytes_per_lang": sizes},
        input=lambda stage, name: str(tmp_path / "quality" / name),
    )


def test_a_run_trains_as_its_recipe_says(tmp_path):
    none = {"en": 0.0, "my": 0.0}
    costs, read = {}, {}
    said = {"parallel": str(tmp_path / "said.jsonl")}
    for name, settings in {
        "plain": {},
        "even": {"temperature": 8},
        "parity": {"parity": True, "pieces": "marks"},
    }.items():
        job, folder = job_of(tmp_path, **said, **settings), str(tmp_path / name)
        read[name] = Counter(lang for lang, _ in tokenize._training_texts(job, none))
        tokenize._train(job, none, folder)
        costs[name] = tokenize._token_costs(folder)
    assert read["plain"] == read["parity"] == {"en": 300, "my": 8}  # all text, once
    assert read["even"]["en"] == 300 and read["even"]["my"] > 24
    assert costs["plain"]["token_cost_per_lang"]["en"] == costs["even"]["token_cost_per_lang"]["en"] == 1.0
    assert costs["even"]["token_cost_per_lang"]["my"] < costs["plain"]["token_cost_per_lang"]["my"]
    assert costs["parity"]["token_cost_gini"] < 0.5 * costs["plain"]["token_cost_gini"]
    tokenize._train(job_of(tmp_path), none, str(tmp_path / "without"))
    assert tokenize._token_costs(str(tmp_path / "without")) == {}
    Encoder(tokenizers.load(str(tmp_path / "parity")), 0.1)  # the fast encoder, also with dropout
    (tmp_path / "said.jsonl").write_text('{"key": "1", "lang": "en", "text": "satu"}\n')
    with pytest.raises(UserError, match="0 in more than one language"):
        tokenize._train(job, none, folder)
