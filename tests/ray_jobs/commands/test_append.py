"""`pinisi append` and what reads it, on a run of two pools with a tokenizer of bytes."""

import os
import socket

import numpy as np
import pyarrow as pa
import pytest

from cluster import storage
from mixture.store.token_store import TokenStore, write_store
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.commands import append
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.run import lock
from ray_jobs.run.run import Run
from ray_jobs.training import data_order


def texts(lang, first, n):
    return [
        {"doc_id": f"{lang}{d}", "lang": lang, "text": f"{lang} ภาษา {d} " * (1 + d % 5)}
        for d in range(first, first + n)
    ]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tokenizer"))
    tokenizers.train_bpe((row["text"] for row in texts("th", 0, 20)), 300, folder)
    return folder


@pytest.fixture
def run(tmp_path, tokenizer):
    run = Run(str(tmp_path / "run"), recipes.load("demo", []))
    storage.write_text(storage.join(run.uri, "recipe.yaml"), recipes.resolved(run.recipe))
    storage.write_json(storage.join(run.uri, "tokenize", "_manifest.json"), {})
    with storage.atomic_folder(storage.join(run.uri, "tokenize", "tokenizer")) as folder:
        tokenizers.load(tokenizer).save_pretrained(folder)
    loaded = tokenizers.load(tokenizer)
    held = storage.join(run.uri, "tokenize", "heldout.parquet")
    storage.write_table(held, pa.Table.from_pylist([{"doc_id": "th900", "lang": "th"}]))
    for lang in ("lo", "th"):
        rows = texts(lang, 0, 10)
        ids = tokenizers.encode(loaded, [row["text"] for row in rows])
        documents = ((row["doc_id"], lang, len(row["text"].encode()), i) for row, i in zip(rows, ids, strict=True))
        uri = storage.join(data_order.pools_uri(run.uri), "all", lang)
        write_store(uri, documents, len(loaded), loaded.eos_token_id)
    return run


def write(tmp_path, number, rows):
    storage.write_table(str(tmp_path / "more" / f"part-0000{number}.parquet"), pa.Table.from_pylist(rows))


def test_what_is_held_out_is_not_appended(run, tmp_path):
    write(tmp_path, 0, texts("th", 899, 3))
    assert append.append(run, str(tmp_path / "more" / "*.parquet"))["th"][0] == 2
    store = TokenStore(storage.join(data_order.pools_uri(run.uri), "all", "th"))
    assert store.documents["doc_id"].to_pylist()[10:] == ["th899", "th901"]


def test_new_documents_come_behind_and_known_ones_do_not(run, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(append, "BATCH", 4)
    write(tmp_path, 0, [*texts("th", 5, 10), *texts("lo", 10, 3)])
    write(tmp_path, 1, texts("th", 12, 10))
    pools = data_order.pools_uri(run.uri)
    before = {lang: TokenStore(f"{pools}/all/{lang}").tokens[:].copy() for lang in ("lo", "th")}
    added = append.append(run, str(tmp_path / "more" / "*.parquet"))
    assert {lang: documents for lang, (documents, _) in added.items()} == {"lo": 3, "th": 12}
    for lang, n in (("lo", 13), ("th", 22)):
        store = TokenStore(f"{pools}/all/{lang}")
        store.verify()
        assert store.n_tokens - len(before[lang]) == added[lang][1]
        np.testing.assert_array_equal(store.tokens[: len(before[lang])], before[lang])
        assert store.documents["doc_id"].to_pylist() == [f"{lang}{d}" for d in range(n)]
        loaded = tokenizers.load(tokenizer)
        for row, (_, ids) in zip(texts(lang, 0, n), store, strict=True):
            assert loaded.decode(ids) == row["text"]
    again = append.append(run, str(tmp_path / "more" / "*.parquet"))
    assert set(again.values()) == {(0, 0)}
    assert TokenStore(f"{pools}/all/th").segments == 2


def test_two_at_once_are_refused(run, tmp_path):
    """Both would write files of the same names, and one of them would break the store."""
    write(tmp_path, 0, texts("th", 10, 3))
    uri = storage.join(data_order.pools_uri(run.uri), "all/th")
    before = TokenStore(uri).meta
    other = {"host": socket.gethostname(), "pid": os.getppid(), "started": lock.started(os.getppid())}
    storage.write_json(storage.join(uri, lock.FILE), other)
    with pytest.raises(UserError, match="is already running this; wait for it"):
        append.append(run, str(tmp_path / "more" / "*.parquet"))
    assert TokenStore(uri).meta == before
    storage.remove(storage.join(uri, lock.FILE))
    assert append.append(run, str(tmp_path / "more" / "*.parquet"))["th"][0] == 3
    assert not storage.exists(storage.join(uri, lock.FILE))


def test_what_cannot_be_appended_is_said(run, tmp_path):
    with pytest.raises(UserError, match="no such files"):
        append.append(run, str(tmp_path / "none*.parquet"))
    write(tmp_path, 0, [{"doc_id": "a", "text": "b"}])
    with pytest.raises(UserError, match="column lang is missing"):
        append.append(run, str(tmp_path / "more" / "*.parquet"))
    write(tmp_path, 0, texts("my", 0, 2))
    with pytest.raises(UserError, match="no complete token store"):
        append.append(run, str(tmp_path / "more" / "*.parquet"))
    storage.remove(storage.join(run.uri, "tokenize", "_manifest.json"))
    with pytest.raises(UserError, match="no token stores yet"):
        append.append(run, str(tmp_path / "more" / "*.parquet"))
